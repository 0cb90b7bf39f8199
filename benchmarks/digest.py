"""Ten thousand digests through a local mail server, the sender killed three times on the way: who got what.

    python benchmarks/digest.py [--subscribers 10000] [--kills 3]

The mail server (aiosmtpd) is a process of its own that writes down every recipient at the moment at which it accepts.
The sender is `tercile page digest`, started anew after each SIGKILL. A tenth of the readers have tags of their own.
Seconds count from the first start of the sender to the last accepted letter, starts included. Writes
benchmarks/results/digest.json and .md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP

from tercile.page.database import NAME, Database
from tercile.page.imports.draft import Draft
from tercile.page.imports.importer import Importer
from tercile.page.ranking import ROOMS, count_reading
from tercile.papers import catalogue
from tercile.papers.machine import describe_machine

FOLDER = Path(__file__).resolve().parent / "results"
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Adelaide")


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    subscribers: int
    kills: int
    seconds: float
    exactly_one: int
    none: int
    more: int
    unconfirmed: int
    sender_seconds: float
    starts: int


class Patient(SMTP):
    """A server that takes what has arrived before it looks at who is still there, as those in use do.

    aiosmtpd itself stops at the first sign that the sender is gone, even with a whole message in its hands.
    """

    def eof_received(self) -> bool:
        asyncio.StreamReaderProtocol.eof_received(self)
        self._ending = self.loop.create_task(self._end())
        return True

    async def _end(self) -> None:
        while not self._reader.at_eof():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        if self.transport is not None:
            self.transport.close()


class Controlled(UnthreadedController):
    """A controller for `Patient`."""

    def factory(self) -> SMTP:
        return Patient(self.handler, **self.SMTP_kwargs)


def server(port: int, log: Path, patient: bool) -> None:
    """Accept everything; one line a letter, written before the answer."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Handler:
        async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
            content = envelope.content  # type: ignore[attr-defined]
            unsubscribe = content.split(b"List-Unsubscribe: <", 1)[1].split(b">", 1)[0]
            place = f"{envelope.rcpt_tos[0]} {time.time()} {len(content)} {unsubscribe.decode()}\n"  # type: ignore[attr-defined]
            os.write(file, place.encode())
            return "250 2.0.0 accepted"

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # connections that break are what this is about
    kind = Controlled if patient else UnthreadedController
    kind(Handler(), hostname="127.0.0.1", port=port, loop=loop).begin()
    loop.run_forever()


def fill(database: Database, subscribers: int, seed: int) -> None:
    """Readers in every room and several zones, all due; imported papers; readings; tags for a tenth."""
    draw = random.Random(seed)
    words = [word for paper in catalogue() for word in paper.title.split()]
    drafts = [Draft(" ".join(draw.sample(words, 9)), abstract=" ".join(draw.sample(words, 80))) for _ in range(120)]
    importer = Importer(database)
    importer.store(importer.judge(drafts), "form")
    now = time.time()
    slugs = [paper.slug for paper in catalogue()]
    with database.transaction() as rows:
        for _ in range(2000):
            count_reading(rows, slugs[int(draw.paretovariate(1.0)) % len(slugs)], now - draw.random() * 20 * 86400)
        for number in range(subscribers):
            session = None
            if number % 10 == 0:
                session = number + 1
                rows.execute(
                    "INSERT INTO sessions (id, token_hash, created, seen) VALUES (?, ?, '', '')",
                    (session, b"%d" % number),
                )
                rows.executemany(
                    "INSERT INTO tags (session, paper, tag, made) VALUES (?, ?, 'liked', '')",
                    [(session, slug) for slug in draw.sample(slugs, draw.randint(1, 4))],
                )
            rooms = draw.sample(list(ROOMS), draw.randint(0, 3))
            address = f"reader{number}@example.org"
            rows.execute(
                "INSERT INTO subscribers (address, address_key, rooms, hour, zone, session, state, since, changed) "
                "VALUES (?, ?, ?, 0, ?, ?, 'active', 0, 0)",
                (address, address, json.dumps(rooms), draw.choice(ZONES), session),
            )


def accepted(log: Path) -> list[str]:
    """Recipients in the order of acceptance."""
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def measure(subscribers: int, kills: int, seed: int = 0, *, patient: bool = True, folder: Path | None = None) -> Run:
    """Send to everybody, kill the sender at random moments, start it again, and count who got what."""
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    log, data = folder / "accepted", folder / "data"
    database = Database(data / NAME)
    fill(database, subscribers, seed)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    receiver = subprocess.Popen([sys.executable, __file__, "--serve", str(port), str(log), str(int(patient))])
    environment = os.environ | {
        "TERCILE_PAGE_DATA": str(data),
        "TERCILE_PAGE_BASE_URL": "https://papers.example.org",
        "TERCILE_PAGE_MAIL_FROM": "tercile <digest@example.org>",
        "TERCILE_PAGE_BOUNCE_ADDRESS": "bounces@example.org",
        "TERCILE_PAGE_SMTP_HOST": "127.0.0.1",
        "TERCILE_PAGE_SMTP_PORT": str(port),
        "TERCILE_PAGE_SMTP_SECURITY": "none",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", "from tercile.cli import app; app()", "page", "digest", "--json"]
    draw = random.Random(seed)
    # Each kill comes at a random number of letters within its part of the whole, and a random instant after that.
    marks = [int((part + 0.2 + 0.6 * draw.random()) * subscribers / (kills + 1)) for part in range(kills)]
    try:
        _wait_for(port)
        begun, sending, starts = time.perf_counter(), 0.0, 0
        while True:
            sender = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
            starts += 1
            if marks:
                while _lines(log) < marks[0] and sender.poll() is None:
                    time.sleep(0.005)
                time.sleep(draw.random() * 0.05)
                if sender.poll() is None:
                    sender.send_signal(signal.SIGKILL)
                    sender.wait()
                    marks.pop(0)
                    continue
            out, _ = sender.communicate()
            sending = float(json.loads(out)["seconds"])
            if not marks and not _open_letters(database):
                break
            if starts > 50:
                raise RuntimeError(f"letters are left after {starts} starts: {_states(database)}")
            time.sleep(0.5)
        seconds = time.perf_counter() - begun
    finally:
        receiver.terminate()
        receiver.wait()
    got = Counter(accepted(log))
    readers = [f"reader{number}@example.org" for number in range(subscribers)]
    states = _states(database)
    database.close()
    return Run(
        subscribers,
        kills,
        round(seconds, 2),
        sum(got[reader] == 1 for reader in readers),
        sum(got[reader] == 0 for reader in readers),
        sum(got[reader] > 1 for reader in readers),
        states.get("unconfirmed", 0),
        sending,
        starts,
    )


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the mail server did not start")


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _open_letters(database: Database) -> int:
    query = "SELECT count(*) FROM letters WHERE state IN ('due', 'claimed')"
    return int(database.connection().execute(query).fetchone()[0])


def _states(database: Database) -> dict[str, int]:
    return dict(database.connection().execute("SELECT state, count(*) FROM letters GROUP BY state").fetchall())


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        server(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "1")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true", help="print only")
    given = parser.parse_args()
    whole = measure(given.subscribers, 0, given.seed)
    killed = measure(given.subscribers, given.kills, given.seed)
    hasty = measure(given.subscribers, given.kills, given.seed, patient=False)
    rows = [
        ("not killed", whole),
        (f"killed {killed.kills} times", killed),
        (f"killed {hasty.kills} times, hasty server", hasty),
    ]
    table = [
        "| run | subscribers | seconds | letters a second | got exactly one | got none | got more | unconfirmed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in rows:
        table.append(
            f"| {name} | {run.subscribers:,} | {run.seconds:.1f} | {run.subscribers / run.seconds:,.0f} | "
            f"{run.exactly_one:,} | {run.none} | {run.more} | {run.unconfirmed} |"
        )
    machine = describe_machine()
    text = "\n".join(
        [
            "# Digests through a local mail server",
            "",
            *table,
            "",
            "Seconds from the first start of the sender to the end of the last one, every start of Python included. "
            "*Hasty* is aiosmtpd as it comes: it drops a whole message if the sender is gone before the answer. "
            "*Unconfirmed* are letters whose acceptance the killed process did not live to write down; they are not "
            "sent again, and what they listed comes with the next day's digest.",
            "",
            f"{machine.get('cpu')}, {machine.get('cores')} cores, sender and server on the same machine.",
            "",
        ]
    )
    print(text)
    if given.no_write:
        return
    FOLDER.mkdir(exist_ok=True)
    record = {"machine": machine, "runs": {name: run.__dict__ for name, run in rows}}
    (FOLDER / "digest.json").write_text(json.dumps(record, indent=1) + "\n")
    (FOLDER / "digest.md").write_text(text)


if __name__ == "__main__":
    main()
