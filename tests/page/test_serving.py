"""What a connection may cost before a request has begun, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.page.browser import Site

from tercile.page import Settings, security, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("page")
    made = Site(Settings(data=data, evidence=Path("evidence"), model=data / "none"))
    made.start()
    yield made
    made.stop()


def connected(site: Site) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.settings.port), timeout=20)


def answer(to: socket.socket) -> bytes:
    said = b""
    try:
        while part := to.recv(65536):
            said += part
    except ConnectionResetError:
        pass  # it was closed while we were still sending
    return said


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET /?q="])
def test_headers_without_an_end_are_cut_off(site: Site, start: bytes) -> None:
    with connected(site) as reader:
        reader.sendall(start)
        sent = 0
        try:
            while sent < 5_000_000:
                reader.sendall(b"x-a: " + b"x" * 8000 + b"\r\n" if start.endswith(b"\r\n") else b"x" * 8000)
                sent += 8000
                time.sleep(0.001)
        except OSError:
            pass
        assert sent < 5_000_000


def test_who_sends_no_request_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SECONDS", 0.3)
    with connected(site) as silent:
        assert answer(silent).startswith(b"HTTP/1.1 408")
    with connected(site) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert answer(slow).startswith(b"HTTP/1.1 408")


def test_a_body_that_stops_coming_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.3)
    head = b"POST /try/stop HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    with connected(site) as slow:
        slow.sendall(head + b"Content-Length: 100\r\n\r\ncsrf=")
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")


def test_one_connection_takes_many_requests_and_a_large_body_is_no_large_head(site: Site) -> None:
    with connected(site) as reader:
        for _ in range(50):
            reader.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert reader.recv(65536).startswith(b"HTTP/1.1 200")
        body = b"csrf=x&text=" + b"x" * 500_000
        head = b"POST /import HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        reader.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert reader.recv(65536).startswith(b"HTTP/1.1 403")  # read whole, and refused for its token


def test_the_server_does_not_say_what_it_is(site: Site) -> None:
    with connected(site) as reader:
        reader.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"\r\nserver:" not in answer(reader).lower()
