"""Feeds read from a local HTTP server that does everything that hosts do when they are asked."""

from __future__ import annotations

import gzip
import itertools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tercile.page.database import NAME, Database
from tercile.page.imports.fetching import Fetched, Fetcher
from tercile.page.settings import Settings

Answer = tuple[int, dict[str, str], bytes]


def entry(number: int) -> str:
    # Titles that are alike in nothing: near-duplicates are not what this file is about.
    words = " ".join(f"{number * prime:x}{prime}" for prime in (7919, 104729, 1299709, 15485863))
    return f"<entry><id>http://arxiv.org/abs/2401.{number:05d}v1</id><title>No {words}</title></entry>"


def feed(numbers: range, *, total: int | None = None, start: int = 0, following: str = "") -> bytes:
    search = "http://a9.com/-/spec/opensearch/1.1/"
    told = "" if total is None else f"<o:totalResults>{total}</o:totalResults><o:startIndex>{start}</o:startIndex>"
    link = f'<link rel="next" href="{following}"/>' if following else ""
    inside = "".join(map(entry, numbers))
    return f'<feed xmlns="http://www.w3.org/2005/Atom" xmlns:o="{search}">{told}{link}{inside}</feed>'.encode()


class Host:
    """A server whose answers a test sets: path with query -> answer. Notes every request with the time of its clock."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.slept = 0.0
        self.asked: list[tuple[float, str, dict[str, str]]] = []
        self.robots: Answer = (404, {}, b"")
        self.answer: Callable[[str, dict[str, str]], Answer] = lambda path, headers: (200, {}, feed(range(3)))
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                host.asked.append((host.now, self.path, headers))
                status, more, body = host.robots if self.path == "/robots.txt" else host.answer(self.path, headers)
                if status == 0:  # hang up in the middle
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<feed")
                    return
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds

    @property
    def pages(self) -> list[str]:
        return [path for _, path, _ in self.asked if path != "/robots.txt"]


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.server.shutdown()
    made.server.server_close()


def reader(tmp_path: Path, host: Host, path: str = "/feed", **more: Any) -> Fetcher:
    settings = Settings(data=tmp_path, feeds=(host.base + path,), feed_contact="me@example.org", **more)
    return Fetcher(Database(tmp_path / NAME), settings, clock=lambda: host.now, sleep=host.sleep)


def run(tmp_path: Path, host: Host, path: str = "/feed", *, force: bool = False, **more: Any) -> Fetched:
    [found] = reader(tmp_path, host, path, **more).run(force=force)
    return found


def titles(tmp_path: Path) -> int:
    return int(Database(tmp_path / NAME).connection().execute("SELECT count(*) FROM papers").fetchone()[0])


def test_it_says_who_asks_and_never_asks_twice_within_three_seconds(tmp_path: Path, host: Host) -> None:
    host.answer = lambda path, headers: (200, {}, feed(range(5), following="/more" if path == "/feed" else ""))
    assert run(tmp_path, host).stored == 5
    run(tmp_path, host, force=True)
    assert all(headers["user-agent"].endswith("(mailto:me@example.org)") for _, _, headers in host.asked)
    times = [when for when, _, _ in host.asked]
    assert len(times) == 4 and min(b - a for a, b in itertools.pairwise(times)) >= 3.0


def test_a_host_may_ask_for_longer_pauses_and_forbid(tmp_path: Path, host: Host) -> None:
    host.robots = (200, {}, b"User-agent: *\nCrawl-delay: 15\nDisallow: /secret\n")
    host.answer = lambda path, headers: (200, {}, feed(range(2), following="/more" if path == "/feed" else ""))
    run(tmp_path, host)
    times = [when for when, _, _ in host.asked]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 15.0
    refused = run(tmp_path, host, "/secret/feed")
    assert not refused.ok and "forbids /secret/feed" in refused.said and "/secret/feed" not in host.pages
    host.now += 90_000
    assert run(tmp_path, host, "/secret/feed", feed_robots=False).ok


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path, host: Host) -> None:
    marks = {"ETag": '"one"', "Last-Modified": "Tue, 10 Mar 2026 12:00:00 GMT"}
    host.answer = lambda path, headers: (
        (304, {}, b"") if headers.get("if-none-match") == '"one"' else (200, marks, feed(range(3)))
    )
    assert run(tmp_path, host).stored == 3
    again = run(tmp_path, host, force=True)
    assert again.ok and again.said == "nothing has changed"
    assert host.asked[-1][2]["if-modified-since"] == marks["Last-Modified"]
    assert run(tmp_path, host, force=True).said == "nothing has changed"  # the marks are kept


def test_it_comes_back_when_its_hours_are_over_and_not_before(tmp_path: Path, host: Host) -> None:
    run(tmp_path, host)
    asked = len(host.asked)
    host.now += 5 * 3600
    assert "again at" in run(tmp_path, host).said and len(host.asked) == asked
    host.now += 3600
    assert run(tmp_path, host).pages == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, {}, b"oops"), "answered 500 oops"),
        ((404, {}, b""), "answered 404"),
        ((403, {}, b""), "answered 403"),
        ((200, {}, b"Rate exceeded."), "no well-formed XML"),
        ((200, {}, b"<feed"), "no well-formed XML"),
        ((200, {}, b"<html/>"), "no Atom feed but html"),
        ((200, {}, b"<!DOCTYPE f [<!ENTITY a 'b'>]><f>&a;</f>"), "entities"),
        ((0, {}, b""), "127.0.0.1"),
        ((302, {"Location": "/feed"}, b""), "sends on more than 5 times"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "which is not read"),
        ((200, {}, b" " * 8_000_001), "more than 8,000,000 bytes"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 9_000_000)), "more than 8,000,000 bytes"),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), "127.0.0.1"),
        ((304, {}, b""), "answered 304"),
    ],
)
def test_whatever_goes_wrong_is_told_and_the_waits_grow(tmp_path: Path, host: Host, answer: Answer, said: str) -> None:
    host.answer = lambda path, headers: answer
    first = run(tmp_path, host)
    assert not first.ok and said in first.said and "in 5 min" in first.said
    asked = len(host.asked)
    assert run(tmp_path, host, force=True).said.startswith("waits until") and len(host.asked) == asked
    host.now += 301
    assert "in 10 min" in run(tmp_path, host).said
    host.now += 601
    host.answer = lambda path, headers: (200, {}, feed(range(3)))
    assert run(tmp_path, host).stored == 3
    host.answer = lambda path, headers: answer
    assert "in 5 min" in run(tmp_path, host, force=True).said or answer[0] == 304  # forgotten after a success


@pytest.mark.parametrize("told", ["7200", "Fri, 15 Jan 2027 10:00:00 GMT"])
def test_it_waits_as_long_as_it_is_told(tmp_path: Path, host: Host, told: str) -> None:
    host.answer = lambda path, headers: (429, {"Retry-After": told}, b"")
    run(tmp_path, host)  # at 2027-01-15 08:00 UTC
    asked = len(host.asked)
    host.now += 7100
    assert run(tmp_path, host, force=True).said.startswith("waits until") and len(host.asked) == asked
    host.now += 101
    run(tmp_path, host)
    assert len(host.asked) > asked


def test_a_host_that_is_not_there_is_a_failure_like_others(tmp_path: Path, host: Host) -> None:
    settings = Settings(data=tmp_path, feeds=("http://127.0.0.1:1/feed",), feed_contact="me@example.org")
    [found] = Fetcher(Database(tmp_path / NAME), settings, clock=lambda: host.now, sleep=host.sleep).run()
    assert not found.ok and "127.0.0.1" in found.said


def paged(size: int, total: int) -> Callable[[str, dict[str, str]], Answer]:
    """arXiv's paging by number."""

    def answer(path: str, headers: dict[str, str]) -> Answer:
        start = int(parse_qs(urlsplit(path).query).get("start", ["0"])[0])
        return 200, {}, feed(range(start, min(start + size, total)), total=total, start=start)

    return answer


def test_pages_are_read_by_arxivs_numbers_up_to_the_limit_and_on_the_next_time(tmp_path: Path, host: Host) -> None:
    host.answer = paged(10, 45)
    path = "/api/query?search_query=all:x&start=0&max_results=10"
    first = run(tmp_path, host, path, feed_pages=3)
    assert (first.pages, first.stored) == (3, 30)
    host.now += 7 * 3600
    second = run(tmp_path, host, path, feed_pages=3)
    assert (second.pages, second.stored, titles(tmp_path)) == (2, 15, 45)
    host.now += 7 * 3600
    asked = len(host.pages)
    assert run(tmp_path, host, path).stored == 0
    assert len(host.pages) == asked + 1  # the first page held nothing new: no further one


def test_a_round_that_was_cut_off_goes_on_at_the_page_where_it_was(tmp_path: Path, host: Host) -> None:
    good, path = paged(10, 50), "/api/query?start=0&max_results=10"

    def failing(path: str, headers: dict[str, str]) -> Answer:
        return (503, {}, b"") if "start=30" in path else good(path, headers)

    host.answer = failing
    cut = run(tmp_path, host, path)
    assert (cut.ok, cut.pages, titles(tmp_path)) == (False, 3, 30)
    host.now += 400
    host.answer = good
    before = len(host.pages)
    assert run(tmp_path, host, path).stored == 20
    assert "start=30" in host.pages[before] and len(host.pages) == before + 2


def test_a_process_that_dies_between_two_pages_goes_on_there(tmp_path: Path, host: Host) -> None:
    host.answer = paged(10, 30)
    path = "/api/query?start=0&max_results=10"
    fetcher = reader(tmp_path, host, path)

    def die(seconds: float) -> None:
        host.sleep(seconds)
        if len(host.pages) == 2:
            raise KeyboardInterrupt

    fetcher._sleep = die
    with pytest.raises(KeyboardInterrupt):
        fetcher.run()
    assert titles(tmp_path) == 20
    assert run(tmp_path, host, path).stored == 10
    assert sum("start=0" in path for path in host.pages) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"feed_contact": ""}, "feed_contact"),
        ({"feed_contact": "nobody"}, "a name, an @ and a domain"),
        ({"feeds": ("ftp://example.org/feed",)}, "http or https"),
        ({"feeds": ("/etc/passwd",)}, "http or https"),
    ],
)
def test_bad_settings_are_told_before_anything_is_asked(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    given = {"feeds": ("http://127.0.0.1:1/",), "feed_contact": "me@example.org", **more}
    with pytest.raises(ValueError, match=said):
        Fetcher(Database(tmp_path / NAME), Settings(data=tmp_path, **given))
