"""The server under the page: uvicorn, with bounds on what a connection may cost before a request has begun."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tercile.page.settings import Settings

#: Connections at once; more are answered by 503.
CONNECTIONS = 2000
#: Bytes of a request's line and headers, and seconds in which they have to come.
HEAD, SECONDS = 64_000, 20.0

TOO_LARGE = b"431 Request Header Fields Too Large"
TOO_SLOW = b"408 Request Timeout"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with an end to headers: it keeps as many as are sent, for as long as it takes."""

    _head: int | None = 0  # bytes of a head that is under way
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Somebody connected; their first request has to come."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(SECONDS, self._refuse, TOO_SLOW)

    def on_message_begin(self) -> None:
        """Another request begins on the same connection."""
        super().on_message_begin()
        self._head = 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(SECONDS, self._refuse, TOO_SLOW)

    def on_headers_complete(self) -> None:
        """The head is there; what follows is bounded by `Guard`."""
        self._head = None
        self._rest()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count what has come of a head that is not complete."""
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD:
                self._refuse(TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._rest()
        super().connection_lost(exc)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: bytes) -> None:
        self._rest()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


def server_of(app: Any, settings: Settings) -> uvicorn.Server:
    """A server for the page, to be run in this thread or another.

    Parameters
    ----------
    app
        From `create_app`.
    settings
        Say where it listens, and whose X-Forwarded-For is believed: nobody's but by `trusted_proxies`.
    """
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, http=BoundedProtocol, ws="none", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=CONNECTIONS,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(app: Any, settings: Settings) -> None:
    """Serve until Ctrl-C or SIGTERM, and let those who wait have their answers.

    Raises
    ------
    SystemExit
        It could not start; the log says why.
    """
    server = server_of(app, settings)
    with contextlib.suppress(KeyboardInterrupt):  # raised once more when all is closed
        server.run()
    if not server.started:
        raise SystemExit(3)
