"""Mail that comes back: which letter it was, whether for good, and when a reader is suspended.

Each letter has a return address of its own with a signature in it, so a report names its letter whatever a server
writes into it, and nobody can have another reader suspended by writing reports.
"""

from __future__ import annotations

import email
import hmac
import re
import sqlite3
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage, Message
from email.utils import getaddresses

from tercile.page.security import sign
from tercile.page.settings import Settings

MONTH = 30 * 86400.0
#: Statuses that speak of the address: it is not there, or takes nothing any more. 5.7 is policy, 5.3 to 5.5 the way.
_DEAD = re.compile(r"5\.(?:1\.[0-36]|1\.10|2\.1)")
_TAG = re.compile(r"\+([0-9]{1,15})-([0-9a-f]{16})@")


@dataclass(frozen=True)
class Bounce:
    """A report of one letter: its number, the status (such as 5.1.1), and whether the address is no more."""

    letter: int
    status: str
    hard: bool


def return_address(settings: Settings, key: bytes, letter: int) -> str:
    """The return address of one letter; empty where no `bounce_address` is set.

    >>> return_address(Settings(bounce_address="bounces@example.org"), b"key", 7)
    'bounces+7-...@example.org'
    """
    if not settings.bounce_address:
        return ""
    local, _, domain = settings.bounce_address.rpartition("@")
    return f"{local}+{letter}-{sign(key, 'bounce', str(letter))[:16]}@{domain}"


def read_bounce(raw: bytes, key: bytes) -> Bounce | None:
    """Read a delivery report (RFC 3464); None where it is none, is about no letter of ours, or tells of a success.

    Parameters
    ----------
    raw
        A message as it came; a megabyte is read at most.
    key
        Signs return addresses.
    """
    message = email.message_from_bytes(raw[:1_000_000], policy=policy.default)
    letter = _letter(message, key)
    if letter is None:
        return None
    status = ""
    for part in message.walk():
        if part.get_content_type() != "message/delivery-status":
            continue
        blocks = part.get_payload()
        for block in blocks if isinstance(blocks, list) else ():
            if not isinstance(block, Message):
                continue
            action = str(block.get("Action", "")).strip().lower()
            found = re.match(r"\s*([245]\.\d{1,3}\.\d{1,3})", str(block.get("Status", "")))
            if action == "failed" and found:
                status = found[1]
    if not status.startswith(("4", "5")):
        return None
    return Bounce(letter, status, bool(_DEAD.fullmatch(status)))


def _letter(message: Message | EmailMessage, key: bytes) -> int | None:
    """The letter that a report was sent back for, by a recipient's address that we signed."""
    fields: list[str] = []
    for name in ("to", "delivered-to", "x-original-to", "envelope-to", "x-envelope-to"):
        fields += [str(value)[:1000] for value in message.get_all(name, [])]
    for _, address in getaddresses(fields):
        found = _TAG.search(address)
        if found and hmac.compare_digest(sign(key, "bounce", found[1])[:16], found[2]):
            return int(found[1])
    return None


def note_bounce(rows: sqlite3.Connection, bounce: Bounce, settings: Settings, now: float) -> bool:
    """Write a bounce down, once a letter; True if that suspended the reader. Inside a transaction."""
    made = rows.execute(
        "INSERT INTO bounces (letter, hard, status, at) SELECT id, ?, ?, ? FROM letters WHERE id = ? "
        "ON CONFLICT DO NOTHING",
        (bounce.hard, bounce.status, now, bounce.letter),
    )
    if made.rowcount == 0:
        return False
    return (
        rows.execute(
            "UPDATE subscribers SET state = 'suspended', changed = ? WHERE state = 'active' "
            "AND id = (SELECT subscriber FROM letters WHERE id = ?) AND ? <= (SELECT count(*) FROM bounces AS b "
            "JOIN letters AS l ON l.id = b.letter WHERE b.hard AND l.subscriber = subscribers.id AND b.at > ?)",
            (now, bounce.letter, settings.hard_bounces, now - MONTH),
        ).rowcount
        == 1
    )


def note_refusal(rows: sqlite3.Connection, letter: int, status: str, code: int, settings: Settings, now: float) -> bool:
    """Write down that our own server refused a letter's address for good; 550 and 551 without more words say so too."""
    hard = bool(_DEAD.fullmatch(status)) or (not status and code in {550, 551})
    return hard and note_bounce(rows, Bounce(letter, status or f"5.1.{code % 10}", True), settings, now)
