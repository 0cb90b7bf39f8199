"""Pulls new papers from Atom addresses, politely: slowly, by name, only what has changed.

One request at a time and none sooner than three seconds after the last to the same host, whichever process sent it;
ETag and Last-Modified sent back; Retry-After kept; after a failure the wait doubles. Every page that was stored is
written down with the address of the next, so a round that was cut off goes on there.
"""

from __future__ import annotations

import email.utils
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit
from urllib.robotparser import RobotFileParser

import httpx

from tercile import __version__
from tercile.page.database import Database
from tercile.page.imports.atom import Feed, read_atom
from tercile.page.imports.draft import Draft
from tercile.page.imports.importer import Importer
from tercile.page.mail.addresses import mail_address
from tercile.page.settings import Settings

#: Seconds between two requests to one host: what arXiv asks for.
PAUSE = 3.0
#: After the first failure, and at most.
FIRST_WAIT, LONGEST_WAIT = 300.0, 86400.0
TIMEOUT = 30.0
#: Bytes of one page, unpacked.
LARGEST = 8_000_000
MOST_REDIRECTS = 5
ROBOTS_FOR = 86400.0


class Refused(Exception):
    """A request that failed, with what the host said and how long it wants to be left alone."""

    def __init__(self, words: str, wait: float = 0.0) -> None:
        super().__init__(words)
        self.wait = wait


@dataclass(frozen=True)
class Fetched:
    """What came of one feed: pages read, papers stored, entries left out, and the outcome in words."""

    address: str
    pages: int
    stored: int
    left_out: int
    said: str
    ok: bool


@dataclass(frozen=True)
class _Page:
    """An answer: its body (None for 304) and where it finally came from."""

    body: bytes | None
    address: str
    etag: str
    last_modified: str


class Fetcher:
    """Reads feeds into a database.

    Parameters
    ----------
    database
        The page's.
    settings
        `feed_contact` must be an address at which the hosts' owners can complain.
    clock, sleep
        Unix time, and how to wait.
    pause
        Between requests to one host; the robots.txt of a host may ask for more.

    Raises
    ------
    ValueError
        There is no contact, or an address is no http or https address.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        pause: float = PAUSE,
    ) -> None:
        if not settings.feed_contact:
            raise ValueError("feeds need feed_contact, a mail address for the owners of the hosts; nothing was fetched")
        for address in settings.feeds:
            parts = urlsplit(address)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"feeds must be http or https addresses, got {address!r}")
        self._database, self._settings = database, settings
        self._clock, self._sleep, self._pause = clock, sleep, pause
        self._importer = Importer(database)
        self.agent = f"tercile/{__version__} (mailto:{mail_address(settings.feed_contact)})"

    def run(self, *, force: bool = False) -> list[Fetched]:
        """Read every feed whose time has come; with `force`, those read lately too, but none that asked to wait."""
        with httpx.Client(
            headers={"user-agent": self.agent, "accept": "application/atom+xml, application/xml;q=0.9"},
            timeout=TIMEOUT, follow_redirects=False,
        ) as client:  # fmt: skip
            return [self._feed(client, address, force) for address in self._settings.feeds]

    def _feed(self, client: httpx.Client, address: str, force: bool) -> Fetched:
        state, now = self._state(address), self._clock()
        if state["not_before"] > now:
            return Fetched(address, 0, 0, 0, f"waits until {_at(state['not_before'])}: {state['said']}", True)
        due = (state["finished"] or 0.0) + self._settings.feed_hours * 3600.0
        if not force and due > now:
            return Fetched(address, 0, 0, 0, f"was read at {_at(state['finished'])}; again at {_at(due)}", True)
        pages = stored = left_out = 0
        resumed = bool(state["resume"])
        following = state["resume"] or address
        fresh: _Page | None = None
        try:
            while following and pages < self._settings.feed_pages:
                first = following == address
                got = self._ask(client, following, *((state["etag"], state["last_modified"]) if first else ("", "")))
                if got.body is None:
                    following = ""
                    break
                try:
                    feed = read_atom(got.body, urlsplit(address).hostname or "")
                except ValueError as error:
                    raise Refused(str(error)) from None
                new = self._store(feed)
                pages, stored, left_out = pages + 1, stored + new, left_out + len(feed.entries) - new
                fresh = got if first else fresh
                following = _following(got.address, feed)
                # Feeds have the newest first: a page without anything new is where the last round ended. A round that
                # goes on after a cut reads over what the cut one stored.
                if not new and not resumed:
                    following = ""
                self._note(address, resume=following)
        except Refused as error:
            failures = state["failures"] + 1
            wait = max(error.wait, min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT))
            self._note(address, failures=failures, not_before=self._clock() + wait, said=str(error)[:300])
            return Fetched(address, pages, stored, left_out, f"{error}; tried again in {_span(wait)}", False)
        said = f"{stored} new in {pages} page{'' if pages == 1 else 's'}" if pages else "nothing has changed"
        marks = {"etag": fresh.etag, "last_modified": fresh.last_modified} if fresh else {}
        self._note(address, failures=0, not_before=0.0, finished=self._clock(), resume=following, said=said, **marks)
        return Fetched(address, pages, stored, left_out, said, True)

    def _store(self, feed: Feed) -> int:
        drafts = [made for made in feed.entries if isinstance(made, Draft)]
        return len(self._importer.store(self._importer.judge(drafts), "atom").keys)

    def _ask(self, client: httpx.Client, address: str, etag: str = "", last_modified: str = "") -> _Page:
        """One page, redirects followed by ourselves so that each hop is as slow and as allowed as the first request."""
        extra = {"if-none-match": etag} if etag else {}
        if last_modified:
            extra["if-modified-since"] = last_modified
        for _ in range(MOST_REDIRECTS + 1):
            self._allowed(client, address)
            status, headers, body = self._request(client, address, extra)
            if status == 304 and extra:
                return _Page(None, address, etag, last_modified)
            if status in {301, 302, 303, 307, 308} and "location" in headers:
                target = urljoin(address, headers["location"])
                if urlsplit(target).scheme not in {"http", "https"}:
                    raise Refused(f"{address} sends on to {target[:100]}, which is not read")
                address = target
                continue
            if status == 200:
                return _Page(body, address, headers.get("etag", "")[:500], headers.get("last-modified", "")[:100])
            told = " ".join(body[:120].decode("utf-8", "replace").split())
            raise Refused(f"{urlsplit(address).hostname} answered {status} {told}".strip(), self._retry_after(headers))
        raise Refused(f"{address} sends on more than {MOST_REDIRECTS} times")

    def _request(self, client: httpx.Client, address: str, extra: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        """One request, when its time has come; at most `LARGEST` bytes of the answer."""
        self._wait_for(urlsplit(address).netloc)
        body = bytearray()
        try:
            with client.stream("GET", address, headers=extra) as answer:
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > LARGEST:
                        raise Refused(f"{address} sends more than {LARGEST:,} bytes")
                return answer.status_code, answer.headers, bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Refused(f"{urlsplit(address).hostname}: {error or type(error).__name__}") from None

    def _wait_for(self, host: str) -> None:
        """Take the host's next turn, then wait for it: turns are kept in the database, so processes queue up."""
        with self._database.transaction() as rows:
            row = rows.execute("SELECT asked, robots FROM hosts WHERE host = ?", (host,)).fetchone()
            pause = max(self._pause, _crawl_delay(row["robots"] if row else None, self.agent))
            now = self._clock()
            # A clock that was set back must not make us wait for ever.
            turn = max(now, min(row["asked"], now + 60.0) + pause) if row else now
            rows.execute(
                "INSERT INTO hosts (host, asked) VALUES (?, ?) ON CONFLICT (host) DO UPDATE SET asked = excluded.asked",
                (host, turn),
            )
        if turn > now:
            self._sleep(turn - now)

    def _allowed(self, client: httpx.Client, address: str) -> None:
        """Raise where robots.txt forbids; it is asked for once a day. A host without one allows everything."""
        if not self._settings.feed_robots:
            return
        parts = urlsplit(address)
        row = self._database.connection().execute("SELECT * FROM hosts WHERE host = ?", (parts.netloc,)).fetchone()
        if row is None or row["robots"] is None or row["robots_at"] < self._clock() - ROBOTS_FOR:
            status, _, body = self._request(client, f"{parts.scheme}://{parts.netloc}/robots.txt", {})
            if status >= 500 or status == 429:
                raise Refused(f"{parts.hostname} answered {status} when asked for robots.txt")
            text = body[:100_000].decode("utf-8", "replace") if status == 200 else ""
            with self._database.transaction() as rows:
                rows.execute(
                    "UPDATE hosts SET robots = ?, robots_at = ? WHERE host = ?", (text, self._clock(), parts.netloc)
                )
        else:
            text = row["robots"]
        if not _parser(text).can_fetch(self.agent, address):
            raise Refused(f"robots.txt of {parts.hostname} forbids {parts.path}; see feed_robots", LONGEST_WAIT)

    def _retry_after(self, headers: httpx.Headers) -> float:
        """Seconds that the host asks us to wait, by number or by date; at most a week."""
        told = headers.get("retry-after", "")
        try:
            seconds = float(told) if told.strip().isdigit() else 0.0
            if told and not seconds:
                seconds = email.utils.parsedate_to_datetime(told).timestamp() - self._clock()
        except (TypeError, ValueError):
            return 0.0
        return min(max(seconds, 0.0), 7 * 86400.0)

    def _state(self, address: str) -> sqlite3.Row:
        with self._database.transaction() as rows:
            rows.execute("INSERT INTO feeds (address) VALUES (?) ON CONFLICT DO NOTHING", (address,))
            found: sqlite3.Row = rows.execute("SELECT * FROM feeds WHERE address = ?", (address,)).fetchone()
        return found

    def _note(self, address: str, **values: object) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        with self._database.transaction() as rows:
            rows.execute(f"UPDATE feeds SET {names} WHERE address = ?", (*values.values(), address))


def fetch(database: Database, settings: Settings, *, force: bool = False) -> list[Fetched]:
    """Read all feeds of the settings; see `Fetcher`."""
    if not settings.feeds:
        raise ValueError(
            "no feed is set; feeds is a list of Atom addresses in the file, or by commas in the environment"
        )
    return Fetcher(database, settings).run(force=force)


def _following(address: str, feed: Feed) -> str:
    """Address of the next page: as the feed names it, or by arXiv's ``start`` where there is more."""
    if feed.following:
        following = urljoin(address, feed.following)
        return following if following != address and urlsplit(following).scheme in {"http", "https"} else ""
    if feed.total is None or feed.start is None or not feed.entries:
        return ""
    start = feed.start + len(feed.entries)
    parts = urlsplit(address)
    asked = parse_qsl(parts.query, keep_blank_values=True)
    if start >= feed.total or not any(name in {"start", "max_results"} for name, _ in asked):
        return ""
    kept = [(name, value) for name, value in asked if name != "start"]
    return urlunsplit(parts._replace(query=urlencode([*kept, ("start", str(start))])))


def _parser(text: str) -> RobotFileParser:
    parser = RobotFileParser()
    parser.parse(text.splitlines())
    return parser


def _crawl_delay(text: str | None, agent: str) -> float:
    try:
        return min(float(_parser(text or "").crawl_delay(agent) or 0.0), 60.0)
    except ValueError:
        return 0.0


def _at(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"
