"""Quantiles of columns of a table, by groups: one sketch for each group and column, fed batch by batch."""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native
from tercile.quantiles.sketch import KLL, DDSketch
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.questions import as_confidence, as_levels, as_seed
from tercile.quantiles.tables.columns import Key, as_batches, as_codes, as_numbers, find_columns

if TYPE_CHECKING:
    import pyarrow as pa

_KIND, _VERSION = b"TGRP", 1
K = 8000
_SKETCHES: dict[str, type[KLL] | type[DDSketch]] = {"KLL": KLL, "DDSketch": DDSketch}


@dataclass(frozen=True)
class Answer:
    """A quantile of one column in one group, with bounds.

    `group` has one value for each column that the table is grouped by; `missing` counts nulls and NaN. Where all
    values are missing, `value`, `low` and `high` are NaN.
    """

    group: Key
    column: str
    count: int
    missing: int
    q: float
    value: float
    low: float
    high: float


class GroupedQuantiles:
    """Mergeable sketches of some columns of a table, one for each group; memory depends on groups, not on rows.

    Parameters
    ----------
    columns : names of the columns of numbers. by : names of the columns to group by; none for one group of all rows.
    k : accuracy of the KLL sketches: ranks are off by about 1 / k at most. A group takes 8 bytes a row up to 3 k rows,
        and then no more: 192 kB at 8,000.
    accuracy : sketch by `DDSketch` instead, whose quantiles are right to this share of their value.
    random_state : int, or None for a fresh seed. Tables that are merged later need different ones.
    max_groups : how many groups to sketch before refusing to go on.

    >>> table = GroupedQuantiles(["latency"], by=["region"], random_state=0)
    >>> table.update({"region": ["eu", "us", "eu"], "latency": [1.0, 5.0, 3.0]})
    >>> [(answer.group, answer.value) for answer in table.answers([1.0])]
    [(('eu',), 3.0), (('us',), 5.0)]
    """

    def __init__(
        self,
        columns: Sequence[str],
        by: Sequence[str] = (),
        *,
        k: int = K,
        accuracy: float | None = None,
        random_state: int | None = None,
        max_groups: int = 10_000,
    ) -> None:
        for name, given in (("columns", columns), ("by", by)):
            if isinstance(given, str) or not all(isinstance(column, str) for column in given):
                raise TypeError(f"{name} must be a list of column names, got {given!r}")
        if not columns:
            raise ValueError("columns must name one column or more")
        if len({*columns, *by}) != len(columns) + len(by):
            raise ValueError(f"columns and by must not name a column twice, got {[*columns, *by]}")
        self.columns, self.by = tuple(columns), tuple(by)
        self.max_groups = int(max_groups)
        self.options: dict[str, Any] = {"k": k} if accuracy is None else {"accuracy": accuracy}
        self._sketch = KLL if accuracy is None else DDSketch
        self._seed = as_seed(random_state)
        _new(self._sketch, self.options, 0)  # refuses a k or accuracy that is out of range
        self._groups: dict[Key, int] = {}
        self._sketches: list[list[Any]] = []  # by group, then by column
        self._missing: list[list[int]] = []
        self.rows = 0
        if not self.by:
            self._ids([()])

    @property
    def groups(self) -> list[Key]:
        """The groups seen, in order."""
        return sorted(self._groups, key=_order)

    @property
    def nbytes(self) -> int:
        """Bytes of all sketches when saved."""
        return sum(len(sketch.to_bytes()) for row in self._sketches for sketch in row)

    def update(self, data: Any) -> None:
        """Put rows in.

        Parameters
        ----------
        data : a pyarrow table, batch or reader, a polars.DataFrame, a DuckDB relation, anything else with an Arrow
            stream, or a dict of columns. Read batch by batch: a reader may be longer than memory.

        Raises
        ------
        ValueError : a column is missing (the nearest name is suggested), or there are more than max_groups groups.
        TypeError : a column that should be numbers is not, or data is no table.

        Batches before the one that is refused have gone in.
        """
        for batch in as_batches(data):
            self._update(batch)

    def merge(self, other: Self) -> Self:
        """Put in all that another of the same columns, groups and accuracy has seen; returns self."""
        if not isinstance(other, GroupedQuantiles):
            raise TypeError(f"can only merge a GroupedQuantiles, got {type(other).__name__}")
        for name in ("columns", "by", "options"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"both must have the same {name}, got {ours} and {theirs}")
        theirs = list(other._groups)
        for key, at in zip(theirs, self._ids(theirs)):
            source = other._groups[key]
            for column in range(len(self.columns)):
                self._sketches[at][column].merge(other._sketches[source][column])
                self._missing[at][column] += other._missing[source][column]
        self.rows += other.rows
        return self

    def answers(self, q: ArrayLike, confidence: float = 0.99) -> list[Answer]:
        """Quantiles with bounds, by group, then column, then q.

        Parameters
        ----------
        q : number or list in [0, 1]. confidence : of the bounds, for any one answer.

        Raises
        ------
        ValueError : q or confidence out of range.
        """
        levels = np.atleast_1d(as_levels(q))
        as_confidence(confidence)
        found = []
        for key in self.groups:
            row = self._groups[key]
            for column, sketch, missing in zip(self.columns, self._sketches[row], self._missing[row]):
                value = low = high = np.full(levels.shape, math.nan)
                if sketch.count:
                    value = sketch.quantile(levels)
                    low, high = sketch.quantile_bounds(levels, confidence)
                for level, *numbers in zip(levels, value, low, high):
                    found.append(Answer(key, column, int(sketch.count), missing, float(level), *map(float, numbers)))
        return found

    def sketch(self, group: Key = (), column: str | None = None) -> KLL | DDSketch:
        """The sketch of one group and column, to ask it anything else; KeyError when there is no such group."""
        at = 0 if column is None else self.columns.index(column)
        sketch: KLL | DDSketch = self._sketches[self._groups[tuple(group)]][at]
        return sketch

    def to_bytes(self) -> bytes:
        """The whole state, with a version and a checksum; sorted by group, so the same answers give the same bytes."""
        keys = self.groups
        parts = [sketch.to_bytes() for key in keys for sketch in self._sketches[self._groups[key]]]
        head = {
            "columns": self.columns,
            "by": self.by,
            "sketch": self._sketch.__name__,
            "options": self.options,
            "rows": self.rows,
            "groups": keys,
            "missing": [self._missing[self._groups[key]] for key in keys],
            "sizes": [len(part) for part in parts],
        }
        text = json.dumps(head, ensure_ascii=False).encode()
        return seal(_KIND, _VERSION, struct.pack("<I", len(text)) + text + b"".join(parts))

    @classmethod
    def from_bytes(cls, data: bytes, *, random_state: int | None = None) -> Self:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError : something else, a newer version, truncated or damaged.
        """
        body = open_envelope(_KIND, _VERSION, "GroupedQuantiles", data)
        try:
            size = struct.unpack_from("<I", body)[0]
            head = json.loads(body[4 : 4 + size])
            kind, options = _SKETCHES[head["sketch"]], head["options"]
            table = cls(head["columns"], head["by"], random_state=random_state, **options)
            keys = [tuple(key) for key in head["groups"]]
            sizes, missing, rows = list(head["sizes"]), list(head["missing"]), int(head["rows"])
            width = len(table.columns)
            if any(len(key) != len(table.by) for key in keys) or len(set(keys)) != len(keys):
                raise ValueError("its groups do not fit")
            if len(sizes) != width * len(keys) or 4 + size + sum(sizes) != len(body) or min(sizes, default=0) < 0:
                raise ValueError("its sketches do not fit")
            if any(len(row) != width or min(row) < 0 for row in missing) or len(missing) != len(keys) or rows < 0:
                raise ValueError("its counts do not fit")
            cuts = np.cumsum([4 + size, *sizes]).tolist()
            sketches = [kind.from_bytes(body[start:stop]) for start, stop in pairwise(cuts)]
            for sketch in sketches:
                if any(getattr(sketch, name) != value for name, value in options.items()):
                    raise ValueError("its sketches are of another accuracy")
        except (KeyError, TypeError, AttributeError, struct.error, ValueError) as error:
            raise ValueError(f"the bytes are damaged: {error}") from error
        table._groups = {key: at for at, key in enumerate(keys)}
        table._sketches = [sketches[at * width : (at + 1) * width] for at in range(len(keys))]
        table._missing = [[int(count) for count in row] for row in missing]
        table.rows = rows
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"GroupedQuantiles(columns={self.columns}, by={self.by}, rows={self.rows}, groups={len(self._groups)})"

    def _update(self, batch: pa.RecordBatch) -> None:
        find_columns(batch.schema.names, [*self.columns, *self.by])
        numbers = [as_numbers(batch.column(name), name) for name in self.columns]
        if batch.num_rows == 0:
            return
        if not self.by:
            for at, flat in enumerate(numbers):
                self._feed(0, at, flat[~np.isnan(flat)] if np.isnan(flat.sum()) else flat, flat.size)
        else:
            codes, keys = as_codes([batch.column(name) for name in self.by])
            ids = self._ids(keys)
            sizes = np.bincount(codes, minlength=len(keys))
            for at, flat in enumerate(numbers):
                ordered, starts = _native.partition(flat, codes, len(keys))
                for code, group in enumerate(ids):
                    self._feed(group, at, ordered[starts[code] : starts[code + 1]], int(sizes[code]))
        self.rows += batch.num_rows

    def _feed(self, group: int, column: int, values: NDArray[Any], rows: int) -> None:
        self._missing[group][column] += rows - values.size
        self._sketches[group][column].update(values)

    def _ids(self, keys: Iterable[Key]) -> list[int]:
        """Where these groups are, new ones made."""
        keys = list(keys)
        new = [key for key in keys if key not in self._groups]
        if len(self._groups) + len(new) > self.max_groups:
            raise ValueError(
                f"by must give at most {self.max_groups:,} groups, and {', '.join(self.by)} has more; "
                "group by a column of fewer values, or raise max_groups"
            )
        for key in new:
            self._groups[key] = len(self._groups)
            self._missing.append([0] * len(self.columns))
            self._sketches.append(list(self._make(key)))
        return [self._groups[key] for key in keys]

    def _make(self, key: Key) -> Iterator[Any]:
        for column in self.columns:
            # The seed follows from the group, not from the order in which groups come.
            own = zlib.crc32(json.dumps([column, key]).encode())
            yield _new(self._sketch, self.options, self._seed ^ own << 16)


def fresh_seed() -> int:
    """A seed that no other machine has."""
    return int.from_bytes(os.urandom(8), "little")


def _new(kind: type[KLL] | type[DDSketch], options: dict[str, Any], seed: int) -> Any:
    return KLL(**options, random_state=seed) if kind is KLL else kind(**options)


def _order(key: Key) -> list[tuple[int, Any]]:
    """Numbers before text before nothing, whatever is mixed in a column."""
    return [(2, "") if part is None else (1, part) if isinstance(part, str) else (0, part) for part in key]
