"""Handing letters to the mail server: a few connections, each used again and again."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parseaddr

import aiosmtplib

from tercile.page.database import Database, connect
from tercile.page.mail import outbox
from tercile.page.mail.bounces import note_refusal, return_address
from tercile.page.mail.composing import Composer, host, shown_before
from tercile.page.mail.message import Wording
from tercile.page.mail.outbox import Letter
from tercile.page.mail.times import day_of
from tercile.page.security import digest, secret
from tercile.page.settings import Settings

logger = logging.getLogger("tercile.page.mail")
#: Letters that a worker claims at once for each of its connections.
BATCH = 5
PORTS = {"none": 25, "starttls": 587, "tls": 465}


class Unreachable(Exception):
    """The mail server can't be reached, or does not take us as a sender; nothing that was due is lost."""


@dataclass
class Outcome:
    """What a run came to: letters by the state in which they ended."""

    planned: int = 0
    states: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Sender:
    """Sends what is due, over several connections, until nothing is.

    Parameters
    ----------
    database
        The page's.
    settings
        Of the mail server.
    clock
        Unix time.
    """

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        if not settings.mails:
            raise ValueError("the digest needs mail_from and smtp_host; set them in the file or the environment")
        self._settings, self._clock = settings, clock
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._boot = outbox.boot()
        # Claims are written through to the disk, so that they outlast a power cut. Marks that a letter was handed over
        # need only outlast this process, which the system's memory of the file does: no waiting for the disk between
        # the mark and the byte that it announces. Where the system does not tell one start from the next, marks wait.
        self._claims = connect(database.path)
        self._marks = connect(database.path)
        if self._boot:
            self._marks.execute("PRAGMA synchronous = NORMAL")
        # Moving the log into the database takes a while, inside a commit: not in those that a dot waits for.
        self._marks.execute("PRAGMA wal_autocheckpoint = 0")
        self._key = secret(database, "mail")
        self._from = parseaddr(settings.mail_from)[1]
        self._composer: Composer | None = None
        self._recovered = 0.0
        self._stopped = False
        self.outcome = Outcome()

    def close(self) -> None:
        """Close the connections to the database."""
        self._claims.close()
        self._marks.close()

    async def run(self) -> Outcome:
        """Plan, send, and come back when nothing is due.

        Raises
        ------
        Unreachable
            No connection, or the server refuses the sender; letters wait for the next run.
        """
        begun = time.monotonic()
        now = self._clock()
        with _transaction(self._claims):
            outbox.recover(self._claims, now, self._boot)
            self._recovered = now
            self.outcome.planned = outbox.plan(self._claims, now)
        waiting: asyncio.Queue[tuple[Letter, set[str]]] = asyncio.Queue()
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(self._settings.smtp_connections)]
        try:
            # Where one finds no server the others finish the letter that they are at, and stop too.
            ended = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            self._give_back(waiting)
            self.outcome.seconds = time.monotonic() - begun
        if failed := [error for error in ended if isinstance(error, BaseException)]:
            raise next((error for error in failed if not isinstance(error, Unreachable)), failed[0])
        return self.outcome

    def _give_back(self, waiting: asyncio.Queue[tuple[Letter, set[str]]]) -> None:
        while not waiting.empty():
            outbox.release(self._marks, waiting.get_nowait()[0], self._name)

    def _next(self, waiting: asyncio.Queue[tuple[Letter, set[str]]]) -> tuple[Letter, set[str]] | None:
        if waiting.empty():
            now = self._clock()
            with _transaction(self._claims):
                if now >= self._recovered + outbox.LEASE / 3:
                    outbox.recover(self._claims, now, self._boot)
                    self._recovered = now
                most = BATCH * self._settings.smtp_connections
                claimed = outbox.claim(self._claims, self._name, now, most, self._boot)
            shown = shown_before(self._claims, claimed)
            for letter in claimed:
                waiting.put_nowait((letter, shown.get(letter.subscriber or 0, set())))
        return None if waiting.empty() else waiting.get_nowait()

    async def _work(self, waiting: asyncio.Queue[tuple[Letter, set[str]]]) -> None:
        client: aiosmtplib.SMTP | None = None
        try:
            while not self._stopped and (taken := self._next(waiting)) is not None:
                letter, shown = taken
                try:
                    if (worded := self._worded(letter, shown)) is not None:
                        if client is None or not client.is_connected:
                            client = await self._connected()
                        await self._hand_over(client, letter, *worded)
                finally:
                    outbox.release(self._marks, letter, self._name)  # does nothing once it is handed over or settled
                await asyncio.sleep(0)
        except BaseException:
            self._stopped = True
            raise
        finally:
            if client is not None and client.is_connected:
                try:
                    await client.quit(timeout=5)
                except (aiosmtplib.SMTPException, OSError):
                    client.close()

    def _worded(self, letter: Letter, shown: set[str]) -> tuple[Wording, tuple[str, ...]] | None:
        """The letter's message and what it lists, unless the day is over or there is nothing to say."""
        now = self._clock()
        late = letter.kind == "digest" and day_of(now, letter.zone) != letter.day
        if late or (letter.kind == "confirm" and now - letter.planned > 86400):
            self._settle(letter, "lapsed", "its day was over")
            return None
        if self._composer is None or self._composer.newest < letter.upto:  # another process planned it, later
            self._composer = Composer(self._claims, self._settings, now)
        made, wording = self._composer.write(letter, shown)
        if wording is None:
            self._settle(letter, "empty", "")
            return None
        return wording, made.papers

    async def _connected(self) -> aiosmtplib.SMTP:
        own = self._settings
        client = aiosmtplib.SMTP(
            hostname=own.smtp_host,
            port=own.smtp_port or PORTS[own.smtp_security],
            use_tls=own.smtp_security == "tls",
            start_tls=own.smtp_security == "starttls",
            username=own.smtp_user or None,
            password=own.smtp_password or None,
            timeout=own.smtp_timeout,
            local_hostname=host(own) if "." in host(own) else "localhost",
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unreachable(f"mail server {own.smtp_host}: {error}; letters wait for the next run") from error
        return client

    async def _hand_over(
        self, client: aiosmtplib.SMTP, letter: Letter, wording: Wording, papers: tuple[str, ...]
    ) -> None:
        token = secrets.token_urlsafe(24)
        leave = f"{self._settings.address}/digest/leave/{token}" if letter.kind == "digest" else ""
        name = f"{letter.day}.{letter.id}.{letter.kind}@{host(self._settings)}"
        content = wording.letter(letter.address, token, name, self._clock(), leave)
        sender = return_address(self._settings, self._key, letter.id) or self._from
        try:
            await client.mail(sender)
        except aiosmtplib.SMTPSenderRefused as error:
            if error.code >= 500:
                self._put_off(letter, f"{error.code} {error.message}")
                raise Unreachable(
                    f"the mail server refuses the sender {sender}: {error.code} {error.message}"
                ) from error
            await self._reset(client)
            return self._put_off(letter, f"{error.code} {error.message}")
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError) as error:
            return self._put_off(letter, f"before it was handed over: {error}")
        try:
            await client.rcpt(letter.address)
            begun = await client.execute_command(b"DATA")
        except aiosmtplib.SMTPResponseException as error:
            await self._reset(client)
            return self._refused(letter, error.code, error.message)
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError) as error:
            return self._put_off(letter, f"before it was handed over: {error}")
        if begun.code != 354:
            await self._reset(client)
            return self._refused(letter, begun.code, begun.message)
        await self._finish(client, letter, content, digest(token), papers)

    async def _finish(
        self, client: aiosmtplib.SMTP, letter: Letter, content: bytes, token_hash: bytes, papers: tuple[str, ...]
    ) -> None:
        """Send the content, mark the letter as handed over, send the dot, with nothing between the last two."""
        try:
            await asyncio.wait_for(_written(client, content), self._settings.smtp_timeout)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            client.close()
            return self._put_off(letter, f"before it was handed over: {error}")
        if not outbox.hand(self._marks, letter, self._name, token_hash, papers, self._clock()):
            client.close()  # without the dot the server takes nothing
            return self._settle(letter, "lapsed", "the reader has left")
        try:
            said = await client.execute_command(b".")
        except (aiosmtplib.SMTPException, OSError) as error:
            client.close()
            return self._settle(letter, "unconfirmed", f"no answer after it was handed over: {error}")
        if said.code == 250:
            return self._settle(letter, "sent", f"{said.code} {said.message}")
        self._refused(letter, said.code, said.message)

    def _refused(self, letter: Letter, code: int, message: str) -> None:
        """The server said no: for now, or for good; an address that is no more counts as a hard bounce."""
        said = f"{code} {message}"
        if code < 500:
            return self._put_off(letter, said)
        self._settle(letter, "refused", said)
        status = re.match(r"5\.\d{1,3}\.\d{1,3}", message)
        with _transaction(self._marks):
            note_refusal(self._marks, letter.id, status.group() if status else "", code, self._settings, self._clock())

    def _settle(self, letter: Letter, state: str, reply: str) -> None:
        with _transaction(self._marks):
            if outbox.settle(self._marks, letter, self._name, state, reply, self._clock()):
                self.outcome.states[state] += 1

    def _put_off(self, letter: Letter, reply: str) -> None:
        outbox.put_off(self._marks, letter, self._name, reply, self._clock())
        self.outcome.states["put off"] += 1
        logger.info("letter %d put off: %s", letter.id, reply)

    async def _reset(self, client: aiosmtplib.SMTP) -> None:
        """Forget a half-told message; a connection that fails at that is closed, and another one opened."""
        try:
            await client.rset()
        except (aiosmtplib.SMTPException, OSError):
            client.close()


async def _written(client: aiosmtplib.SMTP, content: bytes) -> None:
    """Send the content and wait until the system has all of it: a dot that waited behind it here would die with us."""
    protocol = client.protocol
    if protocol is None or protocol.transport is None:
        raise aiosmtplib.SMTPServerDisconnected("the connection was lost")
    protocol.write(content)
    while protocol.transport.get_write_buffer_size():  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)


class _transaction:
    """BEGIN IMMEDIATE and COMMIT around statements of a connection that is not the page's own."""

    def __init__(self, rows: object) -> None:
        self._rows = rows

    def __enter__(self) -> None:
        self._rows.execute("BEGIN IMMEDIATE")  # type: ignore[attr-defined]

    def __exit__(self, kind: object, *_: object) -> None:
        self._rows.execute("COMMIT" if kind is None else "ROLLBACK")  # type: ignore[attr-defined]
