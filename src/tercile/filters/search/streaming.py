"""An index written from a stream: more rows than memory holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercile.filters.search.build import FITTED_ON, Piece, built, lists_for
from tercile.filters.search.columns import Kind, read_attributes
from tercile.filters.search.disk import Disk
from tercile.filters.search.index import Index, Metric
from tercile.filters.search.lists import SAMPLE
from tercile.filters.search.segment_files import FileArrays
from tercile.filters.search.store import Store

#: Ids, vectors and attributes of some rows, as `Index.add` takes them.
Batch = tuple[ArrayLike, ArrayLike, Mapping[str, Any]]


def write_index(
    folder: str | os.PathLike[str],
    batches: Callable[[], Iterable[Batch]],
    dimension: int,
    metric: Metric = "cosine",
    *,
    storage: str = "float32",
    lists: int | None = None,
) -> None:
    """Write an index to a folder without having all rows in memory.

    Parameters
    ----------
    folder : where to.
    batches : gives the rows, some thousands at a time, in the same order each time it is called; it is called three
        times (to count and sample, to find each row's list, to write).
    dimension, metric, storage, lists : as for `Index`.

    Raises
    ------
    ValueError, TypeError : as `Index.add`; nothing was written then. BlockingIOError : the folder is being written to.

    Cost: as for building in memory; memory for a batch, a sample of `SAMPLE` rows a list, and some 30 bytes a row.

    >>> import tempfile
    >>> def batches():
    ...     for start in range(0, 100, 10):
    ...         ids = np.arange(start, start + 10)
    ...         yield ids, np.stack([ids, ids % 3], axis=1), {"even": ids % 2 == 0}
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_index(place, batches, 2, "l2")
    ...     Index.open(place).search([41, 1], 2, where="even").ids.tolist()
    [[40, 42]]
    """
    checks = Index(dimension, metric, storage=storage, lists=lists)
    source = _Stream(batches, checks)
    count = lists_for(len(source)) if lists is None else lists
    settings = {
        "dimension": dimension,
        "metric": metric,
        "storage": storage,
        "lists": lists,
        "schema": source.schema,
    }

    def build(files: FileArrays) -> Any:
        segment = built(source, source.schema, checks._codec, False, count, metric != "ip", files, relax=files.relax)
        ids = np.asarray(segment.sorted_ids)
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if len(twice):
            raise ValueError(f"ids holds {int(ids[twice[0]])} more than once; give each once")
        return segment

    Store.write(Path(folder), settings, build, Disk())


class _Stream:
    """Rows that come in batches, counted and sampled while they were read the first time."""

    def __init__(self, batches: Callable[[], Iterable[Batch]], checks: Index) -> None:
        self.batches, self.checks = batches, checks
        self.schema: dict[str, Kind] = {}
        self.rows = 0
        # A row is kept if its draw is among the least: an even sample, whatever the number of rows turns out to be.
        random = np.random.default_rng(0)
        draws: list[np.ndarray] = []
        kept: list[np.ndarray] = []
        for piece in self.pieces():
            draw = random.random(len(piece.ids))
            self.rows += len(piece.ids)
            wanted = self._sample_of(self.rows)
            limit = 1.1 * wanted / self.rows
            draws.append(draw[draw < limit])
            kept.append(piece.vectors[draw < limit])
            for i, (drawn, vectors) in enumerate(zip(draws, kept)):  # one by one: memory of a batch, not of a sample
                if drawn.size and drawn.max() >= limit:
                    draws[i], kept[i] = drawn[drawn < limit], vectors[drawn < limit]
        self.kept = np.empty((sum(map(len, kept)), checks.dimension), dtype=np.float32)
        at = len(self.kept)
        while kept:
            last = kept.pop()
            self.kept[at - len(last) : at] = last
            at -= len(last)

    @staticmethod
    def _sample_of(rows: int) -> int:
        return max(SAMPLE * lists_for(rows), FITTED_ON)

    def __len__(self) -> int:
        return self.rows

    def pieces(self) -> Iterator[Piece]:
        """Every batch, checked."""
        for ids, vectors, attributes in self.batches():
            number = self.checks._ids(ids)
            columns, self.schema = read_attributes(attributes, len(number), self.schema)
            yield Piece(number, self.checks._vectors("vectors", vectors, len(number)), columns)

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Some vectors, picked evenly. Up to a quarter more are given away without a copy: ask once."""
        random = np.random.default_rng(seed)
        if 1.25 * count >= len(self.kept):
            given, self.kept = self.kept, self.kept[:0]
            return given
        return self.kept[random.choice(len(self.kept), count, replace=False)]
