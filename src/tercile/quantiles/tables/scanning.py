"""Files through sketches: several threads, each with sketches of its own, merged at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tercile.quantiles.tables.columns import find_columns
from tercile.quantiles.tables.grouped import GroupedQuantiles, fresh_seed
from tercile.quantiles.tables.sources import Source, names_of, open_source

Tell = Callable[[str, int, int | None], None]


def quantiles_of_files(
    files: Sequence[str | Path],
    columns: Sequence[str] = (),
    by: Sequence[str] = (),
    *,
    k: int = 8000,
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
    columns, by, k, accuracy, random_state, max_groups : as for `GroupedQuantiles`; with states alone, columns and by
        are theirs when left out.
    threads : how many row groups of Parquet are read side by side; None for the number of processors. The same seed
        and number of threads give the same bytes.
    progress : told a stage, how many bytes of all files have been read, and how many there are or None.

    Raises
    ------
    ValueError : no files, no columns, a column that does not exist, a damaged or half-written file. OSError : a file
        that can't be read.

    Cost: one pass over the wanted columns; memory for about a million rows of them for each thread, and the sketches.
    """
    if not files:
        raise ValueError("files must name one file or more")
    if threads is None:
        threads = os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads}")
    sources = [open_source(str(file)) for file in files]
    tables = [source for source in sources if source.kind != "state"]
    states = [_state(source.path) for source in sources if source.kind == "state"]
    if not columns and states:
        columns, by = states[0].columns, by or states[0].by
    if not columns:
        raise ValueError("columns must name one column or more" + _offer(tables))
    for source in tables:  # before anything long begins
        names = names_of(source)
        if names is not None:
            try:
                find_columns(names, [*columns, *by])
            except ValueError as error:
                raise ValueError(f"{source.path}: {error}") from None
    seed = fresh_seed() if random_state is None else random_state

    def empty(lane: int) -> GroupedQuantiles:
        # Far apart, so that no two lanes toss the same coins.
        own = seed + lane * 0x9E3779B97F4A7C15
        options = {"k": k, "accuracy": accuracy, "max_groups": max_groups}
        return GroupedQuantiles(columns, by, random_state=own, **options)  # type: ignore[arg-type]

    total = empty(0)
    for state in states:
        total.merge(state)
    jobs = [(source, part) for source in tables for part in range(source.parts)]
    meter = _Meter(progress, tables)
    lanes = [jobs[lane :: min(threads, len(jobs))] for lane in range(min(threads, len(jobs)))]
    stop = threading.Event()

    def work(number: int) -> GroupedQuantiles:
        table = empty(number + 1)
        try:
            for source, part in lanes[number]:
                for batch in source.batches(columns, by, part, meter.read):
                    if stop.is_set():
                        return table
                    try:
                        table.update(batch)
                    except (TypeError, ValueError) as error:
                        raise type(error)(f"{source.path}: {error}") from error
        except BaseException:
            stop.set()
            raise
        return table

    if len(lanes) == 1:
        return total.merge(work(0))
    with ThreadPoolExecutor(max(1, len(lanes))) as pool:
        try:
            for done in list(pool.map(work, range(len(lanes)))):
                total.merge(done)
        except BaseException:
            stop.set()
            raise
    return total


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


def _offer(sources: Sequence[Source]) -> str:
    names = names_of(sources[0]) if sources else None
    return f"; there are: {', '.join(names[:20])}" if names else ""
