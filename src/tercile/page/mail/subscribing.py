"""Who gets the digest: asked for by a form, in force once the address's owner has confirmed, ended by one click.

A request looks the same and does the same whether the address is known or not: one letter with a link. The choices
take effect when the link is used, so nobody can change another's. Tokens are random, stand in the letter alone, and
are stored as hashes.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tercile.page.mail.addresses import mail_address
from tercile.page.mail.times import utc_day, zones
from tercile.page.ranking.rooms import ROOMS
from tercile.page.security import digest

DAY = 86400.0
#: A link to confirm works so long; links in digests, as long as their letters are kept.
CONFIRM_WITHIN = 2 * DAY
KEEP_DIGESTS = 120 * DAY
KEEP_REQUESTS = 7 * DAY
#: A reader who left is forgotten after this; until then, coming back gives no second digest on the same day.
KEEP_LEFT = 2 * DAY
#: Letters that anybody can make us send to one address in a day.
MOST_REQUESTS = 3
#: To a new reader, papers of the last week are new.
FRESH = 7 * DAY


@dataclass(frozen=True)
class Choices:
    """What a reader wants: rooms (none for all), the hour, the time zone, and whose tags rank what is new.

    >>> Choices.checked(["stats"], "7", "Europe/Berlin")
    Choices(rooms=('stats',), hour=7, zone='Europe/Berlin', session=None)
    """

    rooms: tuple[str, ...]
    hour: int
    zone: str
    session: int | None = None

    @classmethod
    def checked(cls, rooms: Sequence[object], hour: object, zone: object, session: int | None = None) -> Choices:
        """Choices as a form sends them.

        Raises
        ------
        ValueError
            With what is wrong, for the one who chose.
        """
        if unknown := [str(room)[:40] for room in rooms if room not in ROOMS]:
            raise ValueError(f"there is no room {unknown[0]!r}; rooms are {', '.join(ROOMS)}")
        if not str(hour).isdecimal() or not 0 <= int(str(hour)) <= 23:
            raise ValueError(f"the hour must be a whole number from 0 to 23, got {str(hour)[:20]!r}")
        if zone not in zones():
            raise ValueError(f"{str(zone)[:40]!r} is no time zone such as Europe/Berlin")
        chosen = tuple(room for room in ROOMS if room in rooms)
        return cls(() if len(chosen) == len(ROOMS) else chosen, int(str(hour)), str(zone), session)

    def to_json(self) -> str:
        """As text, for the database."""
        return json.dumps([list(self.rooms), self.hour, self.zone, self.session])

    @classmethod
    def from_json(cls, text: str) -> Choices:
        """The inverse of `to_json`."""
        rooms, hour, zone, session = json.loads(text)
        return cls(tuple(rooms), hour, zone, session)


@dataclass(frozen=True)
class Subscription:
    """A reader as the page of choices shows it."""

    id: int
    address: str
    choices: Choices
    state: str


def ask(rows: sqlite3.Connection, address: str, choices: Choices, now: float | None = None) -> None:
    """Put a letter with a link to confirm into the outbox; beyond three a day for one address, silently none.

    Parameters
    ----------
    rows
        A connection inside a transaction.
    address
        As typed.
    choices
        What is in force once it is confirmed.

    Raises
    ------
    ValueError
        The address can't be one.
    """
    checked, now = mail_address(address), time.time() if now is None else now
    # One statement, whether the limit is reached or not, and whoever has the address already.
    rows.execute(
        "INSERT INTO letters (kind, day, address, wanted, state, planned, not_before) "
        "SELECT 'confirm', ?, ?, ?, 'due', ?, ? WHERE "
        "(SELECT count(*) FROM letters WHERE kind = 'confirm' AND address = ? COLLATE NOCASE AND planned > ?) < ?",
        (utc_day(now), checked, choices.to_json(), now, now, checked, now - DAY, MOST_REQUESTS),
    )


def waiting(rows: sqlite3.Connection, token: str, now: float | None = None) -> tuple[str, Choices] | None:
    """Address and choices that a link to confirm stands for; None where it is wrong, used up or too old."""
    now = time.time() if now is None else now
    row = rows.execute(
        "SELECT address, wanted FROM letters WHERE kind = 'confirm' AND token_hash = ? AND planned > ?",
        (digest(token), now - CONFIRM_WITHIN),
    ).fetchone()
    return None if row is None or not row["wanted"] else (row["address"], Choices.from_json(row["wanted"]))


def confirm(rows: sqlite3.Connection, token: str, now: float | None = None) -> Subscription | None:
    """Put in force what a link to confirm stands for, once; None where the link is wrong, used up or too old.

    `rows` must be inside a transaction.
    """
    now = time.time() if now is None else now
    found = waiting(rows, token, now)
    if found is None:
        return None
    address, choices = found
    fresh = rows.execute(
        "SELECT coalesce(max(id), 0) FROM papers WHERE CAST(strftime('%s', added) AS INTEGER) < ?", (now - FRESH,)
    ).fetchone()[0]
    known = (
        None if choices.session is None else rows.execute("SELECT id FROM sessions WHERE id = ?", (choices.session,))
    )
    session = choices.session if known is not None and known.fetchone() else None
    rows.execute(
        "INSERT INTO subscribers (address, address_key, rooms, hour, zone, session, state, since, changed) "
        "VALUES (?, ?, ?, ?, ?, ?, 'active', ?, ?) ON CONFLICT (address_key) DO UPDATE SET address = excluded.address, "
        "rooms = excluded.rooms, hour = excluded.hour, zone = excluded.zone, session = excluded.session, "
        # Who comes back starts afresh; who only chose anew goes on where the last digest ended.
        "since = CASE state WHEN 'active' THEN since ELSE excluded.since END, state = 'active', "
        "changed = excluded.changed",
        (address, address.lower(), json.dumps(choices.rooms), choices.hour, choices.zone, session, fresh, now),
    )
    subscriber = int(rows.execute("SELECT id FROM subscribers WHERE address_key = ?", (address.lower(),)).fetchone()[0])
    # The link becomes the reader's own: it shows the choices, and confirms nothing a second time.
    rows.execute("UPDATE letters SET wanted = '', subscriber = ? WHERE token_hash = ?", (subscriber, digest(token)))
    # Mail that came back before the owner confirmed anew says nothing about the address now.
    rows.execute("DELETE FROM bounces WHERE letter IN (SELECT id FROM letters WHERE subscriber = ?)", (subscriber,))
    return of_token(rows, token)


def of_token(rows: sqlite3.Connection, token: str) -> Subscription | None:
    """The reader whose letter a link came from."""
    row = rows.execute(
        "SELECT s.* FROM letters AS l JOIN subscribers AS s ON s.id = l.subscriber WHERE l.token_hash = ?",
        (digest(token),),
    ).fetchone()
    if row is None:
        return None
    choices = Choices(tuple(json.loads(row["rooms"])), row["hour"], row["zone"], row["session"])
    return Subscription(row["id"], row["address"], choices, row["state"])


def change(rows: sqlite3.Connection, token: str, choices: Choices, now: float | None = None) -> Subscription | None:
    """Put new choices in force for the reader of a link; whose tags count stays as it was."""
    now = time.time() if now is None else now
    rows.execute(
        "UPDATE subscribers SET rooms = ?, hour = ?, zone = ?, changed = ? "
        "WHERE id = (SELECT subscriber FROM letters WHERE token_hash = ?) AND state != 'left'",
        (json.dumps(choices.rooms), choices.hour, choices.zone, now, digest(token)),
    )
    return of_token(rows, token)


def leave(rows: sqlite3.Connection, token: str, now: float | None = None) -> bool:
    """End a subscription; whether the link belonged to one. Twice is as good as once."""
    now = time.time() if now is None else now
    made = rows.execute(
        "UPDATE subscribers SET changed = CASE state WHEN 'left' THEN changed ELSE ? END, state = 'left' "
        "WHERE id = (SELECT subscriber FROM letters WHERE token_hash = ?)",
        (now, digest(token)),
    )
    return made.rowcount == 1


def forget(rows: sqlite3.Connection, now: float | None = None) -> None:
    """Delete what is kept no longer: old letters, requests that nobody confirmed, readers who left."""
    now = time.time() if now is None else now
    rows.execute("DELETE FROM subscribers WHERE state = 'left' AND changed < ?", (now - KEEP_LEFT,))
    rows.execute("DELETE FROM letters WHERE kind = 'digest' AND planned < ?", (now - KEEP_DIGESTS,))
    rows.execute(
        "DELETE FROM letters WHERE kind = 'confirm' AND planned < ? AND (subscriber IS NULL OR planned < ?)",
        (now - KEEP_REQUESTS, now - KEEP_DIGESTS),
    )
