"""What the page does beside answering: send what is due, and read feeds, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tercile.page.database import Database
from tercile.page.settings import Settings

logger = logging.getLogger("tercile.page.background")
#: Seconds between two looks at what is due.
PAUSE = 20.0


@contextmanager
def background(database: Database, settings: Settings, pause: float = PAUSE) -> Iterator[None]:
    """While inside, letters go out and feeds are read, as the settings say; other processes may do the same.

    A failure is logged, and tried again after the pause. Leaving waits for the letter that is being handed over.
    """
    jobs = _jobs(database, settings) if settings.deliver else []
    stop = threading.Event()
    threads = [threading.Thread(target=_repeat, args=(job, name, stop, pause), daemon=True) for name, job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=10)


def _jobs(database: Database, settings: Settings) -> list[tuple[str, Callable[[], object]]]:
    jobs: list[tuple[str, Callable[[], object]]] = []
    if settings.mails:
        from tercile.page.mail.running import send_due

        jobs.append(("digest", lambda: send_due(database, settings)))
    if settings.feeds:
        from tercile.page.imports.fetching import Fetcher

        fetcher = Fetcher(database, settings)  # settings that can't work stop the page at its start
        jobs.append(("fetch", fetcher.run))
    return jobs


def _repeat(job: Callable[[], object], name: str, stop: threading.Event, pause: float) -> None:
    while not stop.is_set():
        try:
            job()
        except Exception as error:  # the page goes on answering whatever happens here
            logger.warning("%s: %s: %s", name, type(error).__name__, error)
        stop.wait(pause)
