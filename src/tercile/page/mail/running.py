"""The digest as the command line and the page run it: send what is due, or show what would be sent."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tercile.page.database import Database
from tercile.page.mail import outbox
from tercile.page.mail.bounces import note_bounce, read_bounce
from tercile.page.mail.composing import Composer, Digest, shown_before
from tercile.page.mail.delivery import Outcome, Sender
from tercile.page.mail.subscribing import forget
from tercile.page.security import secret
from tercile.page.settings import Settings


@dataclass(frozen=True)
class Shown:
    """A letter that would be sent: to whom, its subject line and parts as a mail program shows them, and its lists."""

    kind: str
    address: str
    subject: str
    text: str
    digest: Digest


def send_due(database: Database, settings: Settings) -> Outcome:
    """Send every letter that is due, and delete what is kept no longer.

    Raises
    ------
    ValueError
        Sender or mail server are not set.
    tercile.page.mail.delivery.Unreachable
        The mail server can't be reached; letters wait for the next run.
    """
    sender = Sender(database, settings)
    try:
        return asyncio.run(sender.run())
    finally:
        sender.close()
        with database.transaction() as rows:
            forget(rows)


def dry_run(database: Database, settings: Settings, now: float | None = None) -> Iterator[Shown]:
    """What `send_due` would send at this moment; nothing is sent and nothing written."""
    import email
    from email import policy

    now = time.time() if now is None else now
    with contextlib.suppress(_Undone), database.transaction() as rows:
        outbox.plan(rows, now)
        letters = outbox.claim(rows, "dry run", now, 1_000_000, "")
        raise _Undone
    rows = database.connection()
    composer = Composer(rows, settings, now)
    for start in range(0, len(letters), 100):
        some = letters[start : start + 100]
        shown = shown_before(rows, some)
        for letter in some:
            made, wording = composer.write(letter, shown.get(letter.subscriber or 0, ()))
            if wording is None:
                continue
            sent = wording.letter(letter.address, "-" * 32, "", now)
            # As the server will take it: without the dots that SMTP doubles.
            message = email.message_from_bytes(re.sub(rb"(?m)^\.", b"", sent), policy=policy.SMTP)
            body = message.get_body(("plain",))
            yield Shown(letter.kind, letter.address, message["Subject"], body.get_content() if body else "", made)


class _Undone(Exception):
    """Ends a transaction that is not to be kept."""


def take_bounce(database: Database, settings: Settings, raw: bytes, now: float | None = None) -> str:
    """Take in one message that came to the bounce address; returns what came of it, in a sentence."""
    found = read_bounce(raw, secret(database, "mail"))
    if found is None:
        return "no delivery report about a letter of this page; nothing done"
    with database.transaction() as rows:
        suspended = note_bounce(rows, found, settings, time.time() if now is None else now)
    kind = "hard" if found.hard else "soft"
    return f"letter {found.letter}: {kind} bounce, {found.status}" + ("; the reader is suspended" if suspended else "")


def states_of(rows: sqlite3.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """How many letters, and how many readers, are in each state."""
    readers = rows.execute("SELECT state, count(*) FROM subscribers GROUP BY state ORDER BY state").fetchall()
    return outbox.counts(rows), dict(readers)
