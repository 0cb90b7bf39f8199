"""Counts readings without making readers wait: gathered in memory, written every few seconds."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable

from fastapi import Request
from starlette.background import BackgroundTask

from tercile.page.database import Database
from tercile.page.ranking.readings import Visits, count_reading


class ReadingLog:
    """Gathers readings; a reader counts once an hour for a paper. A killed process loses `pause` seconds of them.

    Who read what is kept in memory alone, under a hash with a key that is thrown away with the process.

    Parameters
    ----------
    database
        Of the page.
    half_life
        In seconds.
    pause
        Between two writes.
    clock
        Unix time.
    """

    def __init__(
        self, database: Database, half_life: float, pause: float = 2.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._half_life, self._pause, self._clock = database, half_life, pause, clock
        self._visits, self._salt = Visits(), secrets.token_bytes(16)
        self._waiting: list[tuple[str, float]] = []
        self._written = clock()
        self._lock = threading.Lock()

    def note(self, reader: str, paper: str) -> bool:
        """Remember a reading; True when it is time to `flush`."""
        now = self._clock()
        with self._lock:
            if self._visits.counts(hashlib.sha256(self._salt + reader.encode()).hexdigest(), paper, now):
                self._waiting.append((paper, now))
            return bool(self._waiting) and now - self._written >= self._pause

    def flush(self) -> None:
        """Write what was gathered."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._written = self._clock()
        if waiting:
            with self._database.transaction() as rows:
                for paper, when in waiting:
                    count_reading(rows, paper, when, self._half_life)


_MAKING = threading.Lock()


def note_reading(request: Request, paper: str) -> BackgroundTask | None:
    """Count that a reader opened a paper; what it returns, if anything, is to run after the answer."""
    from tercile.page.app import page_of
    from tercile.page.security import address_of

    page, state = page_of(request), request.app.state
    with _MAKING:
        if not hasattr(state, "readings"):
            state.readings = ReadingLog(page.database, page.settings.half_life_days * 86400.0)
        log: ReadingLog = state.readings
    reader = f"{address_of(dict(request.scope), page.settings)} {request.headers.get('user-agent', '')[:200]}"
    return BackgroundTask(log.flush) if log.note(reader, paper) else None
