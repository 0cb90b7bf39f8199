"""The sender killed with SIGKILL: at chosen instants of handing over, and at random ones in the middle of a run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.page.test_digest import NOON, send, states, subscribe

from tercile.page.database import NAME, Database
from tercile.page.mail import outbox
from tercile.page.settings import Settings

ROOT = Path(__file__).parents[2]
# The child is the real sender; one function of it kills the process before or after doing what it does.
CHILD = """
import asyncio, os, signal, sys
from tercile.page.database import NAME, Database
from tercile.page.mail import delivery, outbox
from tercile.page.settings import load_settings

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, now = sys.argv[1], float(sys.argv[2])
hand, settle = outbox.hand, outbox.settle
if where == "before the mark":
    outbox.hand = die
elif where == "after the mark, before the dot":
    outbox.hand = lambda *given: (hand(*given), die())
elif where == "after the dot, before the answer":
    command = delivery.aiosmtplib.SMTP.execute_command
    async def dot(self, *given, **more):
        if given == (b".",):
            self.protocol.write(b".\\r\\n")
            die()
        return await command(self, *given, **more)
    delivery.aiosmtplib.SMTP.execute_command = dot
elif where == "after the answer, before it is written down":
    outbox.settle = die
settings = load_settings()
asyncio.run(delivery.Sender(Database(settings.data / NAME), settings, lambda: now).run())
"""


def run_child(settings: Settings, where: str, now: float = NOON) -> int:
    environment = {
        "PATH": "/usr/bin:/bin",
        "TERCILE_PAGE_DATA": str(settings.data),
        "TERCILE_PAGE_BASE_URL": settings.base_url,
        "TERCILE_PAGE_MAIL_FROM": settings.mail_from,
        "TERCILE_PAGE_SMTP_HOST": settings.smtp_host,
        "TERCILE_PAGE_SMTP_PORT": str(settings.smtp_port),
        "TERCILE_PAGE_SMTP_SECURITY": "none",
        "TERCILE_PAGE_SMTP_CONNECTIONS": "1",
    }
    return subprocess.run([sys.executable, "-c", CHILD, where, str(now)], env=environment, timeout=120).returncode


@pytest.mark.parametrize(
    ("where", "letters", "outcome"),
    [
        ("before the mark", 1, "sent"),  # nothing was handed over: sent by the next run
        ("after the mark, before the dot", 0, "unconfirmed"),  # the price: some microseconds in which it is lost
        ("after the dot, before the answer", 1, "unconfirmed"),  # the server took it
        ("after the answer, before it is written down", 1, "unconfirmed"),
    ],
)
def test_killed_at_any_step_a_reader_never_gets_two(
    database: Database, settings: Settings, mailbox: Any, where: str, letters: int, outcome: str
) -> None:
    subscribe(database)
    assert run_child(settings, where) == -9
    for wait in (outbox.LEASE + 1, outbox.HANDING + 1, outbox.HANDING + 60):
        send(database, settings, NOON + wait)
    time.sleep(0.2)
    assert len(mailbox.to("ann@example.org")) <= 1
    if where != "after the dot, before the answer":  # aiosmtpd may drop it when it sees the connection close first
        assert len(mailbox.to("ann@example.org")) == letters
    assert states(database) == {outcome: 1}


def test_killed_three_times_in_a_run_of_300_each_reader_gets_exactly_one(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("digest_benchmark", ROOT / "benchmarks" / "digest.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["digest_benchmark"] = benchmark
    spec.loader.exec_module(benchmark)
    run = benchmark.measure(300, 3, seed=1, folder=tmp_path)
    assert run.more == 0 and run.starts >= 4
    # One may fall into the microseconds between the mark and the dot; it would be a coincidence, not a fault.
    assert run.exactly_one >= 299
    with_database = Database(tmp_path / "data" / NAME)
    assert set(states(with_database)) <= {"sent", "handed", "unconfirmed"}
    with_database.close()
