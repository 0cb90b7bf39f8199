"""How many searches by meaning the page answers: 50 readers at once, on loopback, over HTTP.

    python benchmarks/page.py [--seconds 10]

The page runs in a process of its own, as `tercile page` starts it; readers are connections that ask the next query as
soon as they have an answer. With distinct queries every one is embedded; with repeats most come from memory. The
page, the process that embeds and the readers share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import numpy as np

from tercile.files import write_atomically, write_json
from tercile.papers import catalogue
from tercile.papers.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
READERS = 50
SEED = 7


def words() -> list[str]:
    """Words of four letters or more that the catalogue is written in."""
    text = " ".join(f"{paper.title} {paper.summary} {paper.claim}" for paper in catalogue()).lower()
    return sorted(set(re.findall(r"[a-z]{4,}", text)))


def distinct_queries() -> Iterator[str]:
    """Queries of two to six words, no two alike."""
    chooser, known, seen = random.Random(SEED), words(), set()
    while True:
        query = " ".join(chooser.choices(known, k=chooser.randint(2, 6)))
        if query not in seen:
            seen.add(query)
            yield query


def repeated_queries(different: int = 500) -> Iterator[str]:
    """The same few queries again and again, the first ones far more often, as readers ask."""
    few = list(itertools.islice(distinct_queries(), different))
    weights = [1 / rank for rank in range(1, different + 1)]
    chooser = random.Random(SEED)
    while True:
        yield from chooser.choices(few, weights, k=1000)


async def reader(port: int, paths: Iterator[str], until: float, times: list[float], failed: list[str]) -> None:
    """One reader: a connection, one request after the other."""
    stream, out = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        began = time.perf_counter()
        out.write(f"GET {next(paths)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await stream.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head.lower()).group(1))  # type: ignore[union-attr]
        body = await stream.readexactly(length)
        times.append(time.perf_counter() - began)
        if not head.startswith(b"HTTP/1.1 200") or (body[:1] == b"{" and json.loads(body)["mode"] != "meaning"):
            failed.append(head.split(b"\r\n")[0].decode())
    out.close()


async def load(port: int, paths: Iterator[str], readers: int, seconds: float) -> dict[str, Any]:
    """Ask for a while and say how it went."""
    times: list[float] = []
    failed: list[str] = []
    began = time.perf_counter()
    await asyncio.gather(*(reader(port, paths, began + seconds, times, failed) for _ in range(readers)))
    took = time.perf_counter() - began
    middle, most, nearly_all = np.quantile(times, [0.5, 0.95, 0.99])
    return {
        "requests": len(times), "failed": len(failed), "a_second": len(times) / took, "seconds": took,
        "median_ms": 1000 * middle, "q95_ms": 1000 * most, "q99_ms": 1000 * nearly_all,
    }  # fmt: skip


def api(queries: Iterator[str]) -> Iterator[str]:
    return (f"/api/search?mode=meaning&most=10&q={quote_plus(query)}" for query in queries)


def pages(queries: Iterator[str]) -> Iterator[str]:
    return (f"/?mode=meaning&q={quote_plus(query)}" for query in queries)


def all_pages() -> Iterator[str]:
    """Every method's page, the front page and the state, without end."""
    return itertools.cycle(["/", "/state", "/try", *(f"/methods/{paper.slug}" for paper in catalogue())])


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the page and wait until it searches by meaning."""
    environment = os.environ | {"TERCILE_PAGE_READS_PER_MINUTE": "100000000", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tercile.cli", "page", "serve", "--port", str(port), "--data", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        time.sleep(0.1)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                if json.load(answer)["search_by_meaning"]:
                    return process
        except OSError:
            if process.poll() is not None:
                break
    process.kill()
    raise RuntimeError("the page did not get ready")


def priority() -> str:
    """Said in the table where the run was not disturbed by what else the machine did: ``chrt -r 1 python ...``."""
    first = os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO)
    return " Other work ran on the machine at a lower priority (this was run under `chrt -r 1`)." if first else ""


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--seconds", type=float, default=10.0, help="of each round")
    given.add_argument("--rounds", type=int, default=3, help="the middle one is told")
    options = given.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    distinct = distinct_queries()  # one for all rounds: no query comes twice
    kinds = {
        "searches by meaning, API, no query twice": (lambda: api(distinct), READERS),
        "searches by meaning, API, repeats": (lambda: api(repeated_queries()), READERS),
        "searches by meaning, whole page, no query twice": (lambda: pages(distinct), READERS),
        "searches by meaning, whole page, no query twice, ten readers": (lambda: pages(distinct), 10),
        "all pages, one reader": (all_pages, 1),
    }
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        process = serve(Path(folder), port)
        try:
            asyncio.run(load(port, api(distinct), READERS, 2.0))  # warm
            for name, (paths, readers) in kinds.items():
                rounds = [asyncio.run(load(port, paths(), readers, options.seconds)) for _ in range(options.rounds)]
                rounds.sort(key=lambda one: one["a_second"])
                found[name] = rounds[len(rounds) // 2] | {
                    "failed": sum(one["failed"] for one in rounds),
                    "a_second_by_round": [one["a_second"] for one in rounds],
                }
        finally:
            process.terminate()
            process.wait()
    lines = [
        "# The page under load",
        "",
        f"{READERS} readers at once where not said otherwise, each asking again as soon as it is answered; the middle "
        f"of {options.rounds} rounds of {options.seconds:g} s. Page and readers share the machine: "
        f"{describe_machine()['cpu']}, {os.cpu_count()} cores.{priority()}",
        "",
        "| what | a second | failed | median | 95% | 99% |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        times = " | ".join(f"{one[key]:.1f} ms" for key in ("median_ms", "q95_ms", "q99_ms"))
        lines.append(f"| {name} | {one['a_second']:.0f} | {one['failed']} | {times} |")
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    told = {"machine": describe_machine(), "load": os.getloadavg(), "readers": READERS, "results": found}
    write_json(RESULTS / "page.json", told)
    write_atomically(RESULTS / "page.md", ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
