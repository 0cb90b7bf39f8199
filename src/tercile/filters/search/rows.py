"""Rows of an index: ids, vectors and columns that stay where they are, and the tail that new rows are put on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tercile.filters.search.columns import DTYPES, Column, GrowingTexts, Kind
from tercile.filters.search.lists import Lists
from tercile.filters.search.selectivity import ColumnShares
from tercile.filters.search.vectors import Codec, Floats


@dataclass(frozen=True)
class Segment:
    """Rows that never change: in memory, or where they lie on disk."""

    ids: np.ndarray
    vectors: np.ndarray
    codec: Codec
    columns: dict[str, Column] = field(default_factory=dict)
    sorted_ids: np.ndarray | None = None
    sorted_rows: np.ndarray | None = None
    lists: Lists | None = None
    shares: dict[str, ColumnShares] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, -1 where there is none. Cost: a bisection each."""
        if not len(self) or self.sorted_ids is None or self.sorted_rows is None:
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.sorted_ids, ids), len(self) - 1)
        return np.where(self.sorted_ids[at] == ids, self.sorted_rows[at], -1)


def no_rows(dimension: int) -> Segment:
    """A segment without rows."""
    return Segment(np.zeros(0, dtype=np.int64), np.zeros((0, dimension), dtype=np.float32), Floats())


@dataclass(frozen=True)
class Snapshot:
    """Everything a search reads, as it was at one moment. `alive` arrays are None where no row is deleted."""

    base: Segment
    base_alive: np.ndarray | None
    tail: Segment
    tail_alive: np.ndarray | None
    schema: Mapping[str, Kind]

    def __len__(self) -> int:
        return sum(
            len(segment) if alive is None else int(alive.sum())
            for segment, alive in ((self.base, self.base_alive), (self.tail, self.tail_alive))
        )


class _Growing:
    """An array that rows are put behind. What was handed out before stays as it is: rows are only ever added."""

    def __init__(self, width: tuple[int, ...], dtype: Any) -> None:
        self._room = np.empty((0, *width), dtype=dtype)
        self.count = 0

    def append(self, rows: np.ndarray) -> None:
        wanted = self.count + len(rows)
        if wanted > len(self._room):
            room = np.empty((max(wanted, 2 * len(self._room), 64), *self._room.shape[1:]), dtype=self._room.dtype)
            room[: self.count] = self._room[: self.count]
            self._room = room
        self._room[self.count : wanted] = rows
        self.count = wanted

    @property
    def rows(self) -> np.ndarray:
        return self._room[: self.count]


class Tail:
    """New rows in the order of their arrival, and which are alive. One writer; readers get views."""

    def __init__(self, dimension: int) -> None:
        self.row_of: dict[int, int] = {}
        self._ids = _Growing((), np.int64)
        self._vectors = _Growing((dimension,), np.float32)
        self._columns: dict[str, tuple[Kind, _Growing, _Growing, GrowingTexts]] = {}

    def append(self, ids: np.ndarray, vectors: np.ndarray, columns: Mapping[str, Column]) -> None:
        """Puts rows behind the others; columns that are not given are missing in them."""
        before, rows = self._ids.count, len(ids)
        for name, column in columns.items():
            if name not in self._columns:
                made = (column.kind, _Growing((), DTYPES[column.kind]), _Growing((), np.bool_), GrowingTexts())
                self._columns[name] = made
                self._pad(name, before)
            self._extend(name, column)
        for name in self._columns:
            self._pad(name, before + rows)
        self._ids.append(ids)
        self._vectors.append(vectors)
        self.row_of.update(zip(ids.tolist(), range(before, before + rows)))

    def _extend(self, name: str, column: Column) -> None:
        _, values, missing, texts = self._columns[name]
        stored = column.values
        if column.kind == "text" and len(stored):
            assert column.texts is not None
            codes = np.array(
                [texts.add(column.texts[code]) for code in range(len(column.texts))] + [-1], dtype=np.int32
            )
            stored = codes[stored]  # -1, the missing one, picks the last
        values.append(stored)
        missing.append(column.nulls)

    def _pad(self, name: str, rows: int) -> None:
        kind, values, missing, _ = self._columns[name]
        short = rows - values.count
        if short > 0:
            fill = 0 if kind == "integer" else np.nan if kind == "real" else -1
            values.append(np.full(short, fill, dtype=DTYPES[kind]))
            missing.append(np.ones(short, dtype=bool))

    @property
    def segment(self) -> Segment:
        """The rows so far."""
        columns = {
            name: Column(
                kind, values.rows, missing.rows if kind == "integer" else None, texts if kind == "text" else None
            )
            for name, (kind, values, missing, texts) in self._columns.items()
        }
        return Segment(self._ids.rows, self._vectors.rows, Floats(), columns)
