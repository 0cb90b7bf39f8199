"""Every letter's way from plan to outcome, in steps that a dying process can't leave half done.

::

    due -> claimed -> handed -> sent
     ^        |         |-----> refused      the server said no for good
     |--------+---------|       due again    the server said no for now, or the worker died before handing over
              |         '-----> unconfirmed  nobody knows whether the server took it: not sent again
              |-> empty                      nothing to say that day
              '-> lapsed                     the reader's day was over, or the reader has left

A letter is marked as handed before the one byte is sent that makes the server take it; so it is sent at most once.
See docs/decisions/0024.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tercile.page.mail.times import today

#: Seconds for which a claim holds. A worker that takes longer loses the letter before handing it over, never after.
LEASE = 6.0
#: Seconds after which a letter that was handed over and not answered for counts as unconfirmed.
HANDING = 600.0
#: A letter that the server puts off is tried again after a minute, then two, up to an hour; so often in all.
FIRST_WAIT, LONGEST_WAIT, MOST_ATTEMPTS = 60.0, 3600.0, 10


@dataclass(frozen=True)
class Letter:
    """One letter as a worker has claimed it; for a digest with the reader's address and choices."""

    id: int
    kind: str
    day: str
    address: str
    wanted: str
    planned: float
    upto: int
    attempts: int
    subscriber: int | None = None
    rooms: tuple[str, ...] = ()
    zone: str = "UTC"
    session: int | None = None
    since: int = 0


def boot() -> str:
    """Which start of the machine this is; empty where the system does not say.

    >>> boot() == boot()
    True
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def plan(rows: sqlite3.Connection, now: float) -> int:
    """Put a digest into the outbox for every reader whose hour has come today; once a day, whoever calls how often.

    After downtime there is one digest, for today: it holds all that is new since the last one. `rows` must be inside
    a transaction. Returns how many are new. O(readers that are due).
    """
    newest = rows.execute("SELECT coalesce(max(id), 0) FROM papers").fetchone()[0]
    groups = rows.execute("SELECT DISTINCT zone, hour FROM subscribers WHERE state = 'active'").fetchall()
    added = 0
    for zone, hour in groups:
        here = today(now, zone, hour)
        if now < here.due:
            continue
        added += rows.execute(
            "INSERT INTO letters (kind, subscriber, day, state, planned, not_before, upto) "
            "SELECT 'digest', id, ?, 'due', ?, ?, ? FROM subscribers AS s "
            # Who subscribed after today's hour starts tomorrow; a later day forbids an earlier one: after a move west.
            "WHERE state = 'active' AND zone = ? AND hour = ? AND changed <= ? AND NOT EXISTS "
            "(SELECT 1 FROM letters WHERE kind = 'digest' AND subscriber = s.id AND day >= ?)",
            (here.day, now, now, newest, zone, hour, here.due, here.day),
        ).rowcount
    return added


def recover(rows: sqlite3.Connection, now: float, this_boot: str) -> tuple[int, int]:
    """Take back letters whose worker is gone: to be sent again where that is safe, else unconfirmed.

    A claim of this start of the machine can't have been handed over, or the mark would be there: a process that dies
    loses nothing that it wrote. When the machine itself went down, the last marks may be lost, so its claims count as
    handed over.

    Returns
    -------
    int, int
        How many are due again, and how many unconfirmed.
    """
    again = rows.execute(
        "UPDATE letters SET state = 'due', worker = '' "
        "WHERE state = 'claimed' AND lease < ? AND boot = ? AND boot != ''",
        (now, this_boot),
    ).rowcount
    lost = rows.execute(
        "UPDATE letters SET state = 'unconfirmed', finished = ?, reply = 'the sender stopped before the answer' "
        "WHERE (state = 'handed' AND lease < ?) OR (state = 'claimed' AND boot != ? AND lease < ?)",
        (now, now, this_boot, now),
    ).rowcount
    if not this_boot:  # marks are written through to the disk then (see `Sender`), so a claim was not handed over
        again += rows.execute(
            "UPDATE letters SET state = 'due', worker = '' WHERE state = 'claimed' AND lease < ? AND boot = ''", (now,)
        ).rowcount
    return again, lost


def claim(rows: sqlite3.Connection, worker: str, now: float, most: int, this_boot: str) -> list[Letter]:
    """Take up to `most` due letters, requests to confirm first; nobody else gets them while the lease holds."""
    ids = rows.execute(
        "UPDATE letters SET state = 'claimed', worker = ?, boot = ?, lease = ? WHERE id IN ("
        "SELECT id FROM letters WHERE state = 'due' AND not_before <= ? ORDER BY kind, not_before, id LIMIT ?"
        ") RETURNING id",
        (worker, this_boot, now + LEASE, now, most),
    ).fetchall()
    marks = ",".join("?" * len(ids))
    found = rows.execute(
        "SELECT l.id, l.kind, l.day, l.wanted, l.planned, l.upto, l.attempts, l.subscriber, s.rooms, s.zone, "
        "s.session, s.since, coalesce(s.address, l.address) AS address FROM letters AS l "
        f"LEFT JOIN subscribers AS s ON s.id = l.subscriber WHERE l.id IN ({marks}) ORDER BY l.kind, l.id",
        [row[0] for row in ids],
    )
    return [_letter(row) for row in found]


def _letter(row: sqlite3.Row) -> Letter:
    common = {name: row[name] for name in ("id", "kind", "day", "address", "wanted", "planned", "upto", "attempts")}
    if row["kind"] == "confirm":
        return Letter(**common)
    theirs = {name: row[name] for name in ("subscriber", "zone", "session", "since")}
    return Letter(**common, **theirs, rooms=tuple(json.loads(row["rooms"])))


def hand(
    rows: sqlite3.Connection, letter: Letter, worker: str, token_hash: bytes, papers: Sequence[str], now: float
) -> bool:
    """Mark a letter as handed over; call it right before the byte is sent that ends the message.

    False where this worker may not: its lease ran out and another took the letter, or the reader has left meanwhile.
    """
    made = rows.execute(
        "UPDATE letters SET state = 'handed', lease = ?, token_hash = ?, papers = ? "
        "WHERE id = ? AND state = 'claimed' AND worker = ? AND (kind = 'confirm' OR EXISTS "
        "(SELECT 1 FROM subscribers WHERE id = letters.subscriber AND state = 'active'))",
        (now + HANDING, token_hash, json.dumps(list(papers)) if papers else "", letter.id, worker),
    )
    return made.rowcount == 1


def settle(rows: sqlite3.Connection, letter: Letter, worker: str, state: str, reply: str, now: float) -> bool:
    """Write down how it ended: ``sent``, ``refused``, ``unconfirmed``, ``empty`` or ``lapsed``.

    What a digest listed is old to the reader from then on if the server took it; else it comes again. False where the
    letter is this worker's no more.
    """
    made = rows.execute(
        "UPDATE letters SET state = ?, finished = ?, reply = ?, "
        "token_hash = CASE ? WHEN 'refused' THEN NULL ELSE token_hash END "
        "WHERE id = ? AND worker = ? AND state IN ('claimed', 'handed')",
        (state, now, reply[:300], state, letter.id, worker),
    )
    if made.rowcount and letter.subscriber is not None and state in {"sent", "empty"}:
        rows.execute("UPDATE subscribers SET since = max(since, ?) WHERE id = ?", (letter.upto, letter.subscriber))
    return made.rowcount == 1


def release(rows: sqlite3.Connection, letter: Letter, worker: str) -> None:
    """Give back a letter that was claimed and not handed over; it is due as before."""
    rows.execute(
        "UPDATE letters SET state = 'due', worker = '' WHERE id = ? AND worker = ? AND state = 'claimed'",
        (letter.id, worker),
    )


def put_off(rows: sqlite3.Connection, letter: Letter, worker: str, reply: str, now: float) -> None:
    """Back into the outbox, for later: the server said not now, or was lost before the letter was handed over."""
    attempts = letter.attempts + 1
    if attempts >= MOST_ATTEMPTS:
        settle(rows, letter, worker, "refused", f"put off {attempts} times, last: {reply}", now)
        return
    rows.execute(
        "UPDATE letters SET state = 'due', worker = '', attempts = ?, not_before = ?, reply = ?, token_hash = NULL, "
        "papers = '' WHERE id = ? AND worker = ? AND state IN ('claimed', 'handed')",
        (attempts, now + min(FIRST_WAIT * 2 ** (attempts - 1), LONGEST_WAIT), reply[:300], letter.id, worker),
    )


def counts(rows: sqlite3.Connection, day: str | None = None) -> dict[str, int]:
    """How many letters are in each state, of one day or of all."""
    query = "SELECT state, count(*) FROM letters WHERE (? IS NULL OR day = ?) GROUP BY state ORDER BY state"
    return dict(rows.execute(query, (day, day)).fetchall())
