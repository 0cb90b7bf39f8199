"""What stands in a digest: new for the reader, read most, and from the catalogue what the reader has not been shown."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import jinja2

from tercile.page.mail.message import PLACE, Wording, wording
from tercile.page.mail.outbox import Letter
from tercile.page.mail.subscribing import Choices
from tercile.page.mail.times import long_date
from tercile.page.ranking import ROOMS, Text, Words, all_texts, most_read, rank_by_tags
from tercile.page.settings import Settings

MOST_NEW, MOST_READ, MOST_SUGGESTED = 10, 5, 3
#: Characters of a summary.
EXCERPT = 240


@dataclass(frozen=True)
class Digest:
    """One day's lists for one kind of reader. `more` is how many new papers did not fit."""

    day: str
    new: tuple[Text, ...]
    read: tuple[Text, ...]
    suggested: tuple[Text, ...]
    more: int = 0
    ranked: bool = False

    @property
    def papers(self) -> tuple[str, ...]:
        """Keys of all that is listed."""
        return tuple(text.key for text in (*self.new, *self.read, *self.suggested))


class Composer:
    """Writes digests of one moment: what is read most and what there is are looked up once.

    Parameters
    ----------
    rows
        Of the page's database.
    settings
        For the sender and for links.
    now
        Unix time.
    """

    def __init__(self, rows: sqlite3.Connection, settings: Settings, now: float) -> None:
        self._rows, self._settings = rows, settings
        self.texts = all_texts(rows)
        self.newest = max(text.id for text in self.texts)
        weights = most_read(rows, now, settings.half_life_days * 86400.0)
        by_key = {text.key: text for text in self.texts}
        self._read = [by_key[key] for key in weights if key in by_key]
        self._words: Words | None = None
        self._ranked: dict[str, Mapping[str, float]] = {}
        self._tags: dict[int, str] = {}
        self._written: dict[tuple[object, ...], tuple[Digest, Wording]] = {}

    def digest(self, letter: Letter, shown: Collection[str] = ()) -> Digest:
        """The lists for one letter; `shown` are keys that earlier digests listed."""
        scores = self.scores(letter.session)
        mine = [text for text in self.texts if not letter.rooms or text.top in letter.rooms]
        fresh = [text for text in mine if letter.since < text.id <= letter.upto]
        fresh.sort(key=lambda text: (-scores.get(text.key, 0.0), -text.id))
        new = tuple(fresh[:MOST_NEW])
        here = {text.key for text in new}
        read = tuple(
            text for text in self._read if (not letter.rooms or text.top in letter.rooms) and text.key not in here
        )[:MOST_READ]
        here.update(text.key for text in read)
        rest = [text for text in mine if not text.id and text.key not in here and text.key not in shown]
        if scores:
            rest.sort(key=lambda text: -scores.get(text.key, 0.0))
        return Digest(letter.day, new, read, tuple(rest[:MOST_SUGGESTED]), len(fresh) - len(new), bool(scores))

    def scores(self, session: int | None) -> Mapping[str, float]:
        """How well each paper goes with a reader's tags; readers with the same tags share the work."""
        if session is None:
            return {}
        if session not in self._tags:
            found: dict[str, list[str]] = {}
            query = "SELECT tag, paper FROM tags WHERE session = ? ORDER BY tag, paper"
            for tag, paper in self._rows.execute(query, (session,)):
                found.setdefault(tag, []).append(paper)
            self._tags[session] = json.dumps(sorted(found.values()))
        same = self._tags[session]
        if same not in self._ranked:
            self._words = self._words or Words.of(self.texts)
            groups = {str(at): papers for at, papers in enumerate(json.loads(same))}
            self._ranked[same] = rank_by_tags(self._words, groups)
        return self._ranked[same]

    def write(self, letter: Letter, shown: Collection[str] = ()) -> tuple[Digest, Wording | None]:
        """A digest's lists and its message; no message where there is nothing to say."""
        if letter.kind == "confirm":
            return Digest(letter.day, (), (), ()), confirmation(self._settings, Choices.from_json(letter.wanted))
        made = self.digest(letter, shown)
        if not made.papers:
            return made, None
        key = (made.day, made.papers, len(made.new), len(made.read), made.more, letter.rooms, made.ranked)
        if key not in self._written:
            if len(self._written) > 2000:
                self._written.clear()
            self._written[key] = made, digest_wording(self._settings, made, letter.rooms)
        return self._written[key]


def shown_before(rows: sqlite3.Connection, letters: Collection[Letter]) -> dict[int, set[str]]:
    """Keys that earlier digests listed, by subscriber."""
    readers = [letter.subscriber for letter in letters if letter.subscriber is not None]
    found: dict[int, set[str]] = {reader: set() for reader in readers}
    marks = ",".join("?" * len(readers))
    query = (
        f"SELECT subscriber, papers FROM letters WHERE subscriber IN ({marks}) AND kind = 'digest' "
        "AND state = 'sent' AND papers != ''"
    )
    for reader, papers in rows.execute(query, readers):
        found[reader].update(json.loads(papers))
    return found


def digest_wording(settings: Settings, digest: Digest, rooms: tuple[str, ...]) -> Wording:
    """A digest as a message."""
    base = settings.address
    context = {
        "digest": digest,
        "date": long_date(digest.day),
        "rooms": [ROOMS[room] for room in rooms],
        "base": base,
        "names": ROOMS,
        "mine": f"{base}/digest/mine/{PLACE}",
        "leave": f"{base}/digest/leave/{PLACE}",
        "excerpt": excerpt,
    }
    subject = _subject(digest)
    return wording(
        settings.mail_from,
        subject,
        re.sub(r"\n{3,}", "\n\n", _templates().get_template("mail/digest.txt.j2").render(**context)),
        _templates().get_template("mail/digest.html.j2").render(subject=subject, **context),
        list_id=f"digest.{host(settings)}",
    )


def confirmation(settings: Settings, choices: Choices) -> Wording:
    """The letter that asks whether the digest is wanted."""
    context = {
        "link": f"{settings.address}/digest/confirm/{PLACE}",
        "base": settings.address,
        "rooms": [ROOMS[room] for room in choices.rooms],
        "choices": choices,
    }
    return wording(
        settings.mail_from,
        "Do you want the daily digest of tercile?",
        _templates().get_template("mail/confirm.txt.j2").render(**context),
        _templates().get_template("mail/confirm.html.j2").render(**context),
    )


def host(settings: Settings) -> str:
    """The page's host, for identifiers of messages and of the list."""
    return urlsplit(settings.address).hostname or "localhost"


def excerpt(text: str, longest: int = EXCERPT) -> str:
    """The first sentences of a text, cut between words.

    >>> excerpt("One two three.", 9)
    'One two…'
    """
    if len(text) <= longest:
        return text
    return text[: longest - 1].rsplit(" ", 1)[0].rstrip(",;:. ") + "…"


def _subject(digest: Digest) -> str:
    date = long_date(digest.day)
    if digest.new:
        first = excerpt(digest.new[0].title, 60)
        others = len(digest.new) - 1 + digest.more
        return f"{first}, and {others} more new for you" if others else f"New for you: {first}"
    return f"Read most on {date}" if digest.read else f"Methods for {date}"


@cache
def _templates() -> jinja2.Environment:
    """Plain parts as they are, HTML parts escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tercile.page", "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
