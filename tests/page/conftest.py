from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tercile.page.database import NAME, Database
from tercile.page.settings import Settings


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Mailbox:
    """A real SMTP server on this machine, and what it accepted; `answer` may refuse a step for an address."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, EmailMessage]] = []
        self.connections = 0
        self.answer: Callable[[str, str], str | None] = lambda step, address: None
        self.port = free_port()

    def start(self) -> None:
        from aiosmtpd.controller import Controller

        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)  # one can't be started twice
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str) -> str:
        self.connections += 1
        session.host_name = hostname
        return "250 HELP"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if said := self.answer("RCPT", address):
            return said
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if said := self.answer("DATA", envelope.rcpt_tos[0]):
            return said
        message = message_from_bytes(envelope.original_content, policy=policy.default)
        self.taken.append((envelope.mail_from, envelope.rcpt_tos[0], message))
        return "250 2.0.0 accepted"

    def to(self, address: str) -> list[EmailMessage]:
        return [message for _, to, message in self.taken if to == address]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    box.start()
    yield box
    box.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "data" / NAME)
    yield made
    made.close()


@pytest.fixture
def settings(tmp_path: Path, mailbox: Mailbox) -> Settings:
    return Settings(
        data=tmp_path / "data",
        base_url="https://papers.example.org",
        mail_from="tercile <digest@example.org>",
        bounce_address="bounces@example.org",
        smtp_host="127.0.0.1",
        smtp_port=mailbox.port,
        smtp_security="none",
        smtp_connections=2,
        smtp_timeout=5,
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from tests.page.browser import chromium_or_skip

    with chromium_or_skip() as browser:
        yield browser


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    from tests.page.browser import watched

    with watched(chromium) as page:
        yield page
