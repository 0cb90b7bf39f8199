"""What every answer and every form goes through: headers, limits, sessions, and tokens against forged forms.

The content policy allows nothing but the page's own files: no inline script, no inline style, nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any

from fastapi import HTTPException, Request, Response

from tercile.page.database import Database
from tercile.page.settings import Settings

logger = logging.getLogger("tercile.page")
COOKIE = "tercile_session"
FIELD = "csrf"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
#: Addresses that are remembered at once; the stalest are forgotten first.
ADDRESSES = 10_000
#: Seconds in which the next part of a body has to come.
PATIENCE = 20.0
#: One in so many new sessions clears away those that are older than a day and hold nothing.
SWEEP, IDLE = 200, timedelta(days=1)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Buckets:
    """A token bucket for each address: so many a minute, saved up to a tenth of that or ten.

    Parameters
    ----------
    per_minute
        What is filled in.
    clock
        Seconds that never go back.

    >>> now = [0.0]
    >>> few = Buckets(60, lambda: now[0])
    >>> [few.wait("a") for _ in range(11)][-2:]
    [0.0, 1.0]
    >>> now[0] = 1.0
    >>> few.wait("a"), few.wait("b")
    (0.0, 0.0)
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = per_minute / 60
        self.most = max(per_minute / 10, min(per_minute, 10))
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, address: str) -> float:
        """Take a token: 0.0 if there was one, else how many seconds until there is."""
        now = self._clock()
        left, then = self._left.pop(address, (self.most, now))
        left = min(self.most, left + (now - then) * self.rate)
        seconds = 0.0 if left >= 1 else (1 - left) / self.rate
        self._left[address] = (left - 1 if left >= 1 else left, now)  # last in the dict: the freshest
        if len(self._left) > ADDRESSES:
            del self._left[next(iter(self._left))]
        return seconds


class Guard:
    """Middleware around everything: limits on the way in, headers on the way out.

    Parameters
    ----------
    app
        What is guarded.
    settings
        The limits.
    uploads
        Paths whose bodies may be as large as `upload_limit`; all others are forms.
    """

    def __init__(self, app: Application, settings: Settings, uploads: frozenset[str] = frozenset()) -> None:
        self.app, self.settings, self.uploads = app, settings, uploads
        self.reads, self.writes = Buckets(settings.reads_per_minute), Buckets(settings.writes_per_minute)
        self.headers = (*HEADERS, STRICT_TRANSPORT) if settings.secure else HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def answer(message: dict[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self.headers if h[0] not in own)]
            await send(message)

        safe = scope["method"] in SAFE
        seconds = (self.reads if safe else self.writes).wait(household(address_of(scope, self.settings)))
        if seconds:
            wait = str(math.ceil(seconds))
            await refuse(answer, 429, f"Too many requests from your address; try again in {wait} s.", wait)
            return
        limit = self.settings.upload_limit if scope["path"] in self.uploads else self.settings.form_limit
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > limit:
            await refuse(answer, 413, f"At most {limit:,} bytes can be sent here.")
            return
        try:
            await self.app(scope, _bounded(receive, limit), answer)
        except Exception:
            logger.exception("a request failed", extra={"fields": {"path": scope["path"]}})
            if begun:
                raise
            await refuse(answer, 500, "Something went wrong here; it was written down.")


def _bounded(receive: Receive, limit: int) -> Receive:
    """A body that says nothing of its length may still not be longer than the limit, nor stop coming."""
    left, more = limit, True

    async def bounded() -> dict[str, Any]:
        nonlocal left, more
        try:
            message = await asyncio.wait_for(receive(), PATIENCE if more else None)
        except TimeoutError:
            raise HTTPException(408, f"Nothing came for {PATIENCE:.0f} s.") from None
        more = bool(message.get("more_body"))
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"At most {limit:,} bytes can be sent here.")
        return message

    return bounded


async def refuse(send: Send, status: int, words: str, retry_after: str | None = None) -> None:
    """A short plain answer, for what never reaches a route."""
    body = words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", retry_after.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def address_of(scope: Scope, settings: Settings) -> str:
    """The reader's address: the nearest one in X-Forwarded-For that is no trusted proxy, or the connection's own."""
    client = scope.get("client")
    address = str(client[0]) if client else "unknown"
    if address not in settings.trusted_proxies:
        return address
    told = dict(scope["headers"]).get(b"x-forwarded-for", b"").decode("latin-1")
    for hop in reversed([part.strip() for part in told.split(",") if part.strip()]):
        address = hop
        if hop not in settings.trusted_proxies:
            break
    return address[:64]


@lru_cache(ADDRESSES)
def household(address: str) -> str:
    """What counts as one reader: an IPv4 address, or the 64 bits of an IPv6 address that a connection comes with.

    >>> household("192.0.2.1"), household("2001:db8::1") == household("2001:db8::2"), household("::ffff:192.0.2.1")
    ('192.0.2.1', True, '192.0.2.1')
    """
    try:
        read = ip_address(address.split("%")[0])
    except ValueError:
        return address
    if not isinstance(read, IPv6Address):
        return str(read)
    return str(read.ipv4_mapped or IPv6Address(int(read) >> 64 << 64))


def digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def secret(database: Database, name: str = "page") -> bytes:
    """32 random bytes that stay the same for this database; made when first asked for."""
    with database.transaction() as rows:
        rows.execute(
            "INSERT INTO secrets (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, secrets.token_bytes(32))
        )
        return bytes(rows.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()[0])


def sign(key: bytes, purpose: str, value: str) -> str:
    """A tag that only the holder of the key can make for this purpose and value.

    >>> sign(b"key", "csrf", "abc") == sign(b"key", "csrf", "abd")
    False
    """
    return hmac.new(key, f"{purpose}\0{value}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Session:
    """A reader's browser.

    Attributes
    ----------
    id
        Row in `sessions`.
    token
        What the cookie holds; only its hash is stored.
    fresh
        Whether the cookie has yet to be set.
    """

    id: int
    token: str
    fresh: bool = False


def session_of(request: Request, database: Database, *, start: bool = False) -> Session | None:
    """The session that the request's cookie names; a new one where there is none and `start` is set."""
    token = request.cookies.get(COOKIE, "")
    if token:
        row = database.connection().execute("SELECT id FROM sessions WHERE token_hash = ?", (digest(token),)).fetchone()
        if row:
            return Session(int(row["id"]), token)
    if not start:
        return None
    token, moment = secrets.token_urlsafe(32), datetime.now(UTC)
    now = moment.isoformat(timespec="seconds")
    with database.transaction() as rows:
        made = rows.execute(
            "INSERT INTO sessions (token_hash, created, seen) VALUES (?, ?, ?)", (digest(token), now, now)
        )
        if int(made.lastrowid or 0) % SWEEP == 0:
            forget_idle(rows, moment - IDLE)
    return Session(int(made.lastrowid or 0), token, fresh=True)


def forget_idle(rows: sqlite3.Connection, before: datetime) -> None:
    """Remove sessions of before then that hold nothing: machines that keep no cookie start one with each form."""
    rows.execute(
        "DELETE FROM sessions WHERE created < ? AND id NOT IN (SELECT session FROM tags) "
        "AND id NOT IN (SELECT session FROM previews) "
        "AND id NOT IN (SELECT session FROM subscribers WHERE session IS NOT NULL)",
        (before.isoformat(timespec="seconds"),),
    )


def keep(response: Response, session: Session, settings: Settings) -> None:
    """Set the cookie of a fresh session."""
    if session.fresh:
        response.set_cookie(
            COOKIE, session.token, max_age=180 * 86400, httponly=True, samesite="lax", secure=settings.secure, path="/"
        )


def form_token(key: bytes, session: Session) -> str:
    """The token that a form carries, bound to the session."""
    return sign(key, "csrf", session.token)


def check_form(request: Request, key: bytes, session: Session | None, token: object) -> None:
    """Refuse a form that this page did not hand to this browser.

    Raises
    ------
    HTTPException
        403: another site sent it, the session is unknown, or the token is not its own.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise HTTPException(403, "This form was sent from another site.")
    expected = "" if session is None else form_token(key, session)
    if session is None or not hmac.compare_digest(expected.encode(), str(token).encode()):
        raise HTTPException(403, "This form is out of date. Go back, load the page again and send it once more.")
