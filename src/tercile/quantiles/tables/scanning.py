"""Files through sketches: several threads, each with sketches of its own, merged at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tercile.quantiles.tables.columns import find_columns
from tercile.quantiles.tables.grouped import GroupedQuantiles, K, fresh_seed
from tercile.quantiles.tables.sources import Source, names_of, open_source

Tell = Callable[[str, int, int | None], None]


def quantiles_of_files(
    files: Sequence[str | Path],
    columns: Sequence[str] = (),
    by: Sequence[str] = (),
    *,
    k: int | None = None,
    accuracy: float | None = None,
    threads: int | None = None,
    random_state: int | None = None,
    max_groups: int = 10_000,
    progress: Tell | None = None,
) -> GroupedQuantiles:
    """Sketch columns of files in one pass and constant memory.

    Parameters
    ----------
    files : Parquet, Arrow or CSV files (plain, or compressed with gzip, bzip2, zstd or lz4), "-" for CSV or an Arrow
        stream on standard input, and states that `GroupedQuantiles.to_bytes` made: told apart by their first bytes.
    columns, by, k, accuracy, random_state, max_groups : as for `GroupedQuantiles`; with states, what is left
        out is theirs.
    threads : how many row groups of Parquet are read side by side; None for the number of processors. The same seed
        and number of threads give the same bytes.
    progress : told a stage, how many bytes of all files have been read, and how many there are or None.

    Raises
    ------
    ValueError : no files, no columns, a column that does not exist, a damaged or half-written file. OSError : a file
        that can't be read.

    Cost: one pass over the wanted columns; memory for about a million rows of them for each thread, and the sketches.
    """
    if threads is None:
        threads = os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads}")
    sources, states = _opened(files)
    if not columns and states:
        columns, by = states[0].columns, by or states[0].by
    options: dict[str, Any] = {"k": K if k is None else k} if accuracy is None else {"accuracy": accuracy}
    if states and k is None and accuracy is None:
        options = states[0].options
    _check_columns(sources, columns, by)
    seed = fresh_seed() if random_state is None else random_state

    def empty(lane: int) -> GroupedQuantiles:
        # Far apart, so that no two lanes toss the same coins.
        own = seed + lane * 0x9E3779B97F4A7C15
        return GroupedQuantiles(columns, by, random_state=own, max_groups=max_groups, **options)

    total = empty(0)
    for state in states:
        total.merge(state)
    jobs = [(source, part) for source in sources for part in range(source.parts)]
    lanes = [jobs[lane :: min(threads, len(jobs))] for lane in range(min(threads, len(jobs)))]
    meter, stop = _Meter(progress, sources), threading.Event()

    def work(number: int) -> GroupedQuantiles:
        try:
            return _scan(lanes[number], empty(number + 1), meter.read, stop)
        except BaseException:
            stop.set()
            raise

    if len(lanes) <= 1:
        return total.merge(work(0)) if lanes else total
    with ThreadPoolExecutor(len(lanes)) as pool:
        try:
            for done in list(pool.map(work, range(len(lanes)))):
                total.merge(done)
        except BaseException:  # Ctrl-C, say: the others should not go on to the end
            stop.set()
            raise
    return total


def _opened(files: Sequence[str | Path]) -> tuple[list[Source], list[GroupedQuantiles]]:
    """Tables to read, and states that are read already."""
    if not files:
        raise ValueError("files must name one file or more")
    sources = [open_source(str(file)) for file in files]
    states = [_state(source.path) for source in sources if source.kind == "state"]
    return [source for source in sources if source.kind != "state"], states


def _check_columns(sources: Sequence[Source], columns: Sequence[str], by: Sequence[str]) -> None:
    """Before anything long begins: ValueError when there are no columns, or a table lacks one."""
    if not columns:
        names = names_of(sources[0]) if sources else None
        offer = f"; there are: {', '.join(names[:20])}" if names else ""
        raise ValueError(f"columns must name one column or more{offer}")
    for source in sources:
        names = names_of(source)
        try:
            find_columns(names or [*columns, *by], [*columns, *by])
        except ValueError as error:
            raise ValueError(f"{source.path}: {error}") from None


def _scan(
    jobs: Sequence[tuple[Source, int]], table: GroupedQuantiles, read: Callable[[int], None], stop: threading.Event
) -> GroupedQuantiles:
    """Put parts of files into a table, until told to stop."""
    for source, part in jobs:
        for batch in source.batches(table.columns, table.by, part, read):
            if stop.is_set():
                return table
            try:
                table.update(batch)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{source.path}: {error}") from error
    return table


class _Meter:
    """Adds up what all threads have read."""

    def __init__(self, progress: Tell | None, sources: Sequence[Source]) -> None:
        self._progress, self._lock, self._done = progress, threading.Lock(), 0
        sizes = [source.size for source in sources]
        self._total = None if None in sizes else sum(size or 0 for size in sizes)

    def read(self, more: int) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done += more
            done = self._done if self._total is None else min(self._done, self._total)
            self._progress("reading", done, self._total)


def _state(path: str) -> GroupedQuantiles:
    try:
        return GroupedQuantiles.from_bytes(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
