"""What is going on, on standard error: bars on a terminal, one plain line a stage elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Tell = Callable[[str, int, int | None], None]


@contextmanager
def stages(console: Console | None = None) -> Iterator[Tell]:
    """Give a function to report progress with: a stage, how much is done, out of how much (None: unknown).

    Stages whose names differ only from their first digit on (``step 1 of 9``, ``step 2 of 9``) share a bar.

    Parameters
    ----------
    console
        Where to draw; standard error by default. Bars are drawn on a terminal only.

    >>> import io
    >>> quiet = io.StringIO()
    >>> with stages(Console(file=quiet)) as tell:
    ...     for stage in ("reading", "reading", "step 1 of 2", "step 2 of 2"):
    ...         tell(stage, 1, None)
    >>> quiet.getvalue().splitlines()
    ['reading', 'step']
    """
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        Counted(""),
        TimeElapsedColumn(),
        LeftColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        bars = _Bars(progress)
        yield bars.tell
        bars.finish()


class Counted(TextColumn):
    """How many are done, out of how many where that is known."""

    def render(self, task: Task) -> Text:
        done = f"{int(task.completed):,}"
        return Text(done if task.total is None else f"{done} of {int(task.total):,}", style="dim")


class LeftColumn(TimeRemainingColumn):
    """The time left; nothing once a stage is over."""

    def render(self, task: Task) -> Text:
        if task.finished or task.total is None:
            return Text("")
        return Text("left: ", style="dim") + super().render(task)


class _Bars:
    """One bar a stage; a new stage ends the one before."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._current: tuple[str, str] | None = None

    def tell(self, stage: str, done: int, total: int | None) -> None:
        kind = _kind(stage)
        if self._current is not None and self._current[0] != kind:
            self.finish()
        if kind not in self._bars:
            self._bars[kind] = self._progress.add_task(stage, total=total)
        elif self._current != (kind, stage):
            # A shared bar adds up the time that went by. The speed, and so the time left, is measured anew,
            # which rich does when the total changes.
            self._progress.update(self._bars[kind], description=stage, completed=0, total=(total or 0) + 1)
        self._current = (kind, stage)
        self._progress.update(self._bars[kind], completed=done, total=total)

    def finish(self) -> None:
        if self._current is None:
            return
        bar = self._bars[self._current[0]]
        task = next(task for task in self._progress.tasks if task.id == bar)
        reached = task.total if task.total is not None else max(task.completed, 1)
        self._progress.update(bar, completed=reached, total=reached)


def _plain_lines(console: Console) -> Tell:
    seen: set[str] = set()

    def tell(stage: str, done: int, total: int | None) -> None:
        kind = _kind(stage)
        if kind not in seen:
            seen.add(kind)
            console.print(kind, markup=False)

    return tell


def _kind(stage: str) -> str:
    return re.split(r"\d", stage, maxsplit=1)[0].rstrip(" ,:(") or stage
