"""A compression that readers start and watch: one at a time, in another process, with an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tercile.page.trial.runs import Run, Rung

#: What can be compressed live, with how long that takes on two quiet cores.
MODELS = {"digits-cnn": "a digit classifier, some 20 s", "minilm": "sentence encoder, some 4 min"}
LOSSES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
#: Longest line that the child may write.
LINE = 1_000_000
#: Where it says what went wrong, and how many of its last characters are logged.
ERRORS, LAST = "errors.txt", 2000

State = Literal["running", "done", "failed", "stopped"]
logger = logging.getLogger("tercile.page")


class Busy(RuntimeError):
    """Another run has not ended yet."""


def tail(file: Path) -> str:
    """The end of a file, for the log."""
    return file.read_text(encoding="utf-8", errors="replace")[-LAST:].strip()


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    model, max_loss
        What was asked for.
    state
        Whether it runs, and how it ended.
    stage, done, total
        What it does at the moment; `total` may be unknown.
    words
        Why it failed.
    run
        What came of it.
    began, ended
        Seconds on a clock that never goes back.
    """

    model: str
    max_loss: float
    state: State = "running"
    stage: str = "starting"
    done: int = 0
    total: int | None = None
    words: str = ""
    run: Run | None = None
    began: float = 0.0
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Since it began, or how long it took."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began


class Live:
    """Runs one compression at a time.

    Parameters
    ----------
    folder
        Where runs work; what they leave is removed.
    seconds
        After which a run is stopped.
    command
        What starts the child, before model, loss and folder.
    """

    def __init__(self, folder: Path, seconds: float, command: Sequence[str] | None = None) -> None:
        self._folder, self._seconds = folder, seconds
        self._command = tuple(command or (sys.executable, "-m", "tercile.page.trial.child"))
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.progress: Progress | None = None

    def start(self, model: str, max_loss: float) -> None:
        """Start a run.

        Raises
        ------
        Busy
            Another one has not ended.
        ValueError
            The model or the loss is not on offer.
        """
        if model not in MODELS or max_loss not in LOSSES:
            raise ValueError(f"model must be one of {', '.join(MODELS)} and max_loss of {', '.join(map(str, LOSSES))}")
        if self._task is not None and not self._task.done():
            raise Busy("another run has not ended yet")
        self._stopping = False
        self.progress = Progress(model, max_loss, began=time.monotonic())
        self._task = asyncio.create_task(self._run(self.progress))

    async def stop(self) -> None:
        """Stop the run, if there is one, and wait until its process is gone."""
        self._stopping = True
        self._end()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, progress: Progress) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix="live-", dir=self._folder))
        try:
            async with asyncio.timeout(self._seconds):
                command = [*self._command, progress.model, str(progress.max_loss), str(room / "small")]
                await self._follow(command, room / ERRORS)
            if self.progress is not None and self.progress.state == "running" and not self._stopping:
                logger.warning("a live run ended without a result: %s", tail(room / ERRORS))
            self._finish("stopped" if self._stopping else "failed", "the run ended without a result")
        except TimeoutError:
            self._finish("stopped", f"stopped after {self._seconds:.0f} seconds, which is as long as a run may take")
        except OSError as error:
            self._finish("failed", f"the run could not be started: {error.strerror}")
        except Exception:
            logger.exception("a live run failed")
            self._finish("failed", "the run said something that was not understood")
            raise
        finally:
            self._end()
            if self._process is not None:
                await self._process.wait()
            shutil.rmtree(room, ignore_errors=True)

    async def _follow(self, command: Sequence[str], errors: Path) -> None:
        with errors.open("wb") as file:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=file, limit=LINE
            )
        if self._stopping:
            self._end()
        assert self._process.stdout is not None and self.progress is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "run" in told:
                made = Run(**{**told["run"], "ladder": tuple(Rung(**rung) for rung in told["run"]["ladder"])})
                self.progress = replace(self.progress, run=made)
                self._finish("done")
            elif "failed" in told:
                self._finish("failed", told["failed"])
            elif self.progress.state == "running":
                stage = {"stage": told["stage"], "done": told["done"], "total": told["total"]}
                self.progress = replace(self.progress, **stage)

    def _finish(self, state: State, words: str = "") -> None:
        """The first word on how a run ended stands."""
        if self.progress is not None and self.progress.state == "running":
            words = "" if state == "stopped" and self._stopping else words
            self.progress = replace(self.progress, state=state, words=words, ended=time.monotonic())

    def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
