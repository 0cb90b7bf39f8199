"""The page itself sends letters and reads feeds, unless it is told not to; failures do not stop it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tercile.page.background import background
from tercile.page.database import Database
from tercile.page.mail import subscribing
from tercile.page.mail.subscribing import Choices
from tercile.page.settings import Settings


def ask(database: Database, address: str) -> None:
    with database.transaction() as rows:
        subscribing.ask(rows, address, Choices.checked([], "7", "UTC"))


def wait(until: Callable[[], bool]) -> bool:
    for _ in range(400):
        if until():
            return True
        time.sleep(0.05)
    return False


def test_a_letter_goes_out_while_the_page_runs_and_after_a_failure(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    mailbox.stop()
    ask(database, "ann@example.org")
    with background(database, settings, pause=0.1):
        time.sleep(0.5)
        mailbox.start()
        assert wait(lambda: len(mailbox.to("ann@example.org")) == 1)
        ask(database, "bob@example.org")
        assert wait(lambda: len(mailbox.to("bob@example.org")) == 1)
    ask(database, "cem@example.org")
    time.sleep(0.3)
    assert len(mailbox.taken) == 2


def test_the_metrics_count_letters_and_readers_by_state(settings: Settings) -> None:
    from fastapi.testclient import TestClient

    from tercile.page import create_app

    page = TestClient(create_app(replace(settings, model=settings.data / "none")))
    database = page.app.state.page.database  # type: ignore[attr-defined]
    ask(database, "ann@example.org")
    assert 'tercile_page_letters{state="due"} 1.0' in page.get("/metrics").text
    with database.transaction() as rows:
        rows.execute("UPDATE letters SET state = 'sent'")
    told = page.get("/metrics").text
    assert 'tercile_page_letters{state="sent"} 1.0' in told and 'state="due"' not in told


def test_nothing_goes_out_where_others_deliver(database: Database, settings: Settings, mailbox: Any) -> None:
    ask(database, "ann@example.org")
    with background(database, replace(settings, deliver=False), pause=0.1):
        time.sleep(0.5)
    assert mailbox.taken == []


def test_feeds_that_can_not_work_stop_the_page_at_its_start(database: Database, settings: Settings) -> None:
    with (
        pytest.raises(ValueError, match="feed_contact"),
        background(database, replace(settings, feeds=("https://x.org/",))),
    ):
        pass
