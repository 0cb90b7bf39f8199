"""The index: rows with ids, vectors and attributes, and the nearest of those that pass a filter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from tercile.filters.search.build import Alive, built, in_memory, lists_for
from tercile.filters.search.columns import Kind, read_attributes
from tercile.filters.search.disk import Disk
from tercile.filters.search.log import Change
from tercile.filters.search.masks import read_where
from tercile.filters.search.planner import Plan
from tercile.filters.search.rows import Segment, Snapshot, Tail, no_rows
from tercile.filters.search.scan import search
from tercile.filters.search.segment_files import FileArrays, damaged
from tercile.filters.search.store import Store
from tercile.filters.search.vectors import Codec, codec_named
from tercile.filters.search.where import Where

Metric = Literal["l2", "ip", "cosine"]
METRICS = ("l2", "ip", "cosine")
#: New rows are scanned until there are so many, and half as many as the others; then all are put in order.
TAIL = 50_000


@dataclass(frozen=True)
class Hits:
    """What a search found: ids and distances of shape (queries, k), the nearest first, and how it was found.

    Distances are squared for "l2", 1 - cosine for "cosine", and the inner product with its sign changed for "ip". Where
    fewer than k rows pass, ids are -1 and distances infinite.
    """

    ids: np.ndarray
    distances: np.ndarray
    plan: Plan


@dataclass(frozen=True)
class Records:
    """Rows by id: vectors as they are kept (of length 1 for "cosine"), and attributes as Python values."""

    ids: np.ndarray
    vectors: np.ndarray
    attributes: dict[str, list[Any]]


class Index:
    """Vectors with ids and attributes; the k nearest of those that pass a filter.

    A planner picks the way for each search: a few rows that pass are scanned, and many are looked for in lists around
    centres, with the filter inside. Searches may run in other threads while one thread writes; each sees the rows
    of one moment.

    Parameters
    ----------
    dimension : of the vectors.
    metric : "l2" (squared distance), "ip" (inner product) or "cosine" (vectors are kept with length 1).
    storage : "float32", "float16" or "int8", which take 4, 2 and 1 bytes a dimension; or a product code of so many
        bytes a row, such as "pq32", or "opq32" with a learnt rotation. Distances are those from what is stored.
    lists : how many lists; None for three times the square root of the rows, once there are 10,000.

    >>> index = Index(2, "l2")
    >>> index.add([7, 8, 9], [[0, 0], [1, 0], [5, 5]], {"year": [2022, 2023, 2024], "lang": ["en", "de", "en"]})
    >>> hits = index.search([0, 0], 2, where="year >= 2023 and lang in ('en', 'de')")
    >>> hits.ids.tolist(), hits.distances.tolist()
    ([[8, 9]], [[1.0, 50.0]])
    >>> index.delete([8])
    >>> index.search([0, 0], 2, where="year >= 2023").ids.tolist()
    [[9, -1]]
    """

    def __init__(
        self, dimension: int, metric: Metric = "cosine", *, storage: str = "float32", lists: int | None = None
    ) -> None:
        if not isinstance(dimension, int) or isinstance(dimension, bool) or dimension < 1:
            raise ValueError(f"dimension must be a whole number of at least 1, got {dimension!r}")
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if lists is not None and (not isinstance(lists, int) or lists < 0):
            raise ValueError(f"lists must be a whole number, 0 for none or None to choose, got {lists!r}")
        self.dimension, self.metric, self.storage, self.lists = dimension, metric, storage, lists
        self._codec: Codec = codec_named(storage)
        self._codec.check(dimension)
        self._writing = threading.RLock()
        self._store: Store | None = None
        self._tail = Tail(dimension)
        self._now = Snapshot(no_rows(dimension), None, self._tail.segment, None, {})

    def __len__(self) -> int:
        return len(self._now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def schema(self) -> dict[str, Kind]:
        """The kind of each column."""
        return dict(self._now.schema)

    def add(self, ids: ArrayLike, vectors: ArrayLike, attributes: Mapping[str, Any] | None = None) -> None:
        """Put rows in.

        Parameters
        ----------
        ids : n different integers that are not in the index.
        vectors : (n, dimension) finite numbers.
        attributes : n values for each name: integers, reals, booleans or texts, None where missing. A name that was
            not there before opens a column.

        Raises
        ------
        ValueError, TypeError : something does not fit; nothing was put in.

        Cost: a copy, and on disk one write; when new rows are many, all rows are put into lists (see `compact`).
        """
        with self._writing:
            self._check_writable()
            number = self._ids(ids)
            there = number[self._rows(number) >= 0]
            if len(there):
                raise ValueError(f"ids holds {int(there[0])}, which is in the index; use update for it")
            kept = self._vectors("vectors", vectors, len(number))
            columns, schema = read_attributes(attributes, len(number), self._now.schema)
            self._change(Change(number[:0], number, kept, columns), schema)
            if len(self._now.tail) > max(TAIL, len(self._now.base) // 2):
                self.compact()

    def update(
        self, ids: ArrayLike, vectors: ArrayLike | None = None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Give rows other vectors or attributes; what is not given stays.

        Parameters
        ----------
        ids : n different integers that are in the index. vectors, attributes : as for `add`, or None.

        Raises
        ------
        ValueError, TypeError : something does not fit; nothing has changed.
        """
        with self._writing:
            self._check_writable()
            number = self._ids(ids)
            old = self.get(number)
            kept = old.vectors if vectors is None else self._vectors("vectors", vectors, len(number))
            read_attributes(attributes, len(number), self._now.schema)
            columns, schema = read_attributes({**old.attributes, **(attributes or {})}, len(number), self._now.schema)
            self._change(Change(number, number, kept, columns), schema)

    def delete(self, ids: ArrayLike) -> None:
        """Take rows out.

        Parameters
        ----------
        ids : different integers that are in the index.

        Raises
        ------
        ValueError : one is not in the index; nothing was taken out.
        """
        with self._writing:
            self._check_writable()
            number = self._ids(ids)
            self._known_rows(number)
            self._change(Change(number, number[:0], np.zeros((0, self.dimension), dtype=np.float32)), self._now.schema)

    def search(self, queries: ArrayLike, k: int, where: str | Where | None = None, *, recall: float = 0.99) -> Hits:
        """The k nearest rows of each query among those that pass.

        Parameters
        ----------
        queries : (m, dimension), or one vector. k : at least 1. where : a filter such as
            "year >= 2023 and lang in ('en', 'de')"; see `tercile.filters.search.where`.
        recall : the share of the true nearest to be found on average, above 0; 1 scans everything that passes.

        Returns
        -------
        Hits.

        Raises
        ------
        ValueError, TypeError : something does not fit; for a filter the message names the place.

        Cost: many queries in one call share the filter and read each list once.
        """
        now = self._now
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
        if not 0 < recall <= 1:
            raise ValueError(f"recall must be above 0 and at most 1, got {recall!r}")
        asked = np.asarray(queries)
        asked = self._vectors("queries", asked[None] if asked.ndim == 1 else asked, None)
        tree = read_where(where, now.schema)
        squared = self.metric != "ip"
        ids, distances, plan = search(now, asked, int(k), tree, recall, squared)
        return Hits(ids, distances / 2 if self.metric == "cosine" else distances, plan)

    def get(self, ids: ArrayLike) -> Records:
        """Rows by id.

        Raises
        ------
        ValueError : an id that is not in the index.

        >>> index = Index(2, "l2")
        >>> index.add([3], [[1, 2]], {"lang": ["en"]})
        >>> index.get([3]).attributes
        {'lang': ['en']}
        """
        now, number = self._now, self._ids(ids)
        rows = self._known_rows(number)
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        attributes: dict[str, list[Any]] = {name: [None] * len(rows) for name in now.schema}
        for segment, first in ((now.base, 0), (now.tail, len(now.base))):
            at = np.flatnonzero((rows >= first) & (rows < first + len(segment)))
            if len(at):
                here = rows[at] - first
                vectors[at] = segment.codec.decode(np.asarray(segment.vectors[here]))
                for name, column in segment.columns.items():
                    for place, value in zip(at.tolist(), column[here].python()):
                        attributes[name][place] = value
        return Records(number, vectors, attributes)

    def compact(self) -> None:
        """Put all rows into lists, and deleted ones out of the way; on disk this is a new generation.

        Cost: about as long as building the index. Readers go on with what they see.
        """
        with self._writing:
            self._check_writable()
            build = self._build_from(self._now)
            if self._store is not None:
                base = self._store.next_generation(self._settings(), build)
            else:
                base = build(None)
            self._codec = base.codec
            self._tail = Tail(self.dimension)
            self._now = Snapshot(base, None, self._tail.segment, None, self._now.schema)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index to a folder, in place of the one that is there; `open` reads it.

        Raises
        ------
        BlockingIOError : the folder is being written to. OSError : the disk is full; what was there is still there.
        """
        with self._writing:
            Store.write(Path(folder), self._settings(), self._build_from(self._now), Disk())

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, writable: bool = False, disk: Disk | None = None) -> Self:
        """Open an index where it lies.

        Parameters
        ----------
        folder : what `save` wrote. writable : whether to change it; there is one writer at a time, and a change is on
            the disk when its call returns. Others see it after `refresh`.

        Raises
        ------
        ValueError : no index, or a damaged one. BlockingIOError : there is a writer already.

        Cost: milliseconds, plus the log of what has changed since the rows were written.
        """
        store, base, changes = Store.open(Path(folder), writable, disk or Disk())
        index = cls._of(store)
        index._start(base, changes)
        return index

    def refresh(self) -> None:
        """See what a writer has changed since; only for an index that was opened to read."""
        with self._writing:
            if self._store is None or self._store.writable:
                return
            changes = self._store.news()
            if changes is None:
                self._store, base, changes = Store.open(self._store.folder, False, self._store.disk)
                self._start(base, changes)
            else:
                self._replay(changes)

    def damaged(self) -> list[str]:
        """Names of files of an opened index that differ from what was written. Cost: reads all of them."""
        if self._store is None:
            raise ValueError("the index is in memory alone; damaged() is about files")
        return damaged(self._store.folder / f"rows-{self._store.generation:06d}")

    def close(self) -> None:
        """Let another write; searches go on."""
        with self._writing:
            if self._store is not None:
                self._store.close()

    @classmethod
    def _of(cls, store: Store) -> Self:
        given = store.settings
        index = cls(given["dimension"], given["metric"], storage=given["storage"], lists=given["lists"])
        index._store = store
        return index

    def _settings(self) -> dict[str, Any]:
        return {
            "dimension": self.dimension,
            "metric": self.metric,
            "storage": self.storage,
            "lists": self.lists,
            "schema": dict(self._now.schema),
        }

    def _start(self, base: Segment, changes: list[Change]) -> None:
        assert self._store is not None
        self._codec = base.codec
        self._tail = Tail(self.dimension)
        self._now = Snapshot(base, None, self._tail.segment, None, dict(self._store.settings["schema"]))
        self._replay(changes)

    def _replay(self, changes: list[Change]) -> None:
        for change in changes:
            self._apply(change, {**self._now.schema, **{name: c.kind for name, c in change.columns.items()}})

    def _build_from(self, now: Snapshot) -> Callable[[FileArrays | None], Segment]:
        lists = lists_for(len(now)) if self.lists is None else self.lists

        def build(files: FileArrays | None) -> Segment:
            fitted = len(now.base) > 0
            return built(
                Alive(now),
                now.schema,
                now.base.codec if fitted else self._codec,
                fitted,
                lists,
                self.metric != "ip",
                in_memory if files is None else files,
                relax=(lambda: None) if files is None else files.relax,
            )

        return build

    def _change(self, change: Change, schema: Mapping[str, Kind]) -> None:
        if self._store is not None:
            self._store.append(change)
        self._apply(change, schema)

    def _apply(self, change: Change, schema: Mapping[str, Kind]) -> None:
        """Changes what searches see, in one step."""
        now = self._now
        rows, bases = self._rows(change.removed), len(now.base)
        base_alive = _without(now.base_alive, rows[(rows >= 0) & (rows < bases)], bases)
        tail_alive = _without(now.tail_alive, rows[rows >= bases] - bases, len(now.tail))
        for number in change.removed.tolist():
            self._tail.row_of.pop(number, None)
        if len(change.ids):
            self._tail.append(change.ids, change.vectors, change.columns)
            if tail_alive is not None:
                tail_alive = np.concatenate([tail_alive, np.ones(len(change.ids), dtype=bool)])
        self._now = replace(
            now, base_alive=base_alive, tail=self._tail.segment, tail_alive=tail_alive, schema=dict(schema)
        )

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, base before tail, -1 where it is not in the index."""
        now = self._now
        rows = now.base.find(ids)
        if now.base_alive is not None:
            rows = np.where((rows >= 0) & ~now.base_alive[np.maximum(rows, 0)], -1, rows)
        row_of = self._tail.row_of
        if row_of:
            later = np.fromiter((row_of.get(number, -1) for number in ids.tolist()), dtype=np.int64, count=len(ids))
            rows = np.where(later >= 0, later + len(now.base), rows)
        return rows

    def _known_rows(self, ids: np.ndarray) -> np.ndarray:
        rows = self._rows(ids)
        if (rows < 0).any():
            raise ValueError(f"ids holds {int(ids[rows < 0][0])}, which is not in the index; use add for it")
        return rows

    def _check_writable(self) -> None:
        if self._store is not None and not self._store.writable:
            raise ValueError(f"{self._store.folder} was opened to read; open it with writable=True to change it")

    def _ids(self, ids: ArrayLike) -> np.ndarray:
        number = np.asarray(ids)
        if number.ndim != 1:
            raise ValueError(f"ids must have one dimension, got shape {number.shape}")
        if number.size and number.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got {number.dtype}; keep texts as an attribute")
        if number.size and (number.min() < 0 or number.max() >= 2**63):
            raise ValueError("ids must lie between 0 and 2**63 - 1")
        number = number.astype(np.int64)
        values, counts = np.unique(number, return_counts=True)
        if len(values) < len(number):
            raise ValueError(f"ids holds {int(values[counts > 1][0])} more than once; give each once")
        return number

    def _vectors(self, name: str, vectors: ArrayLike, rows: int | None) -> np.ndarray:
        given = np.asarray(vectors)
        if given.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be numbers, got {given.dtype}")
        if given.ndim != 2 or given.shape[1] != self.dimension or (rows is not None and len(given) != rows):
            wanted = f"({'n' if rows is None else rows}, {self.dimension})"
            raise ValueError(f"{name} must have shape {wanted}, got {given.shape}")
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(given, dtype=np.float32)
        if not np.isfinite(kept).all():
            bad = int(np.flatnonzero(~np.isfinite(kept).all(axis=1))[0])
            raise ValueError(f"{name}[{bad}] holds NaN, infinity or a number beyond float32; leave it out")
        if self.metric == "cosine":
            length = np.sqrt(np.einsum("nd,nd->n", kept, kept, dtype=np.float64))
            if (length == 0).any():
                raise ValueError(f"{name}[{int(np.flatnonzero(length == 0)[0])}] is all zeros: it has no direction")
            kept = (kept / length[:, None]).astype(np.float32)
        return kept


class FlatIndex(Index):
    """An index that always scans all that passes: exact.

    Parameters
    ----------
    dimension, metric, storage : as for `Index`.

    >>> index = FlatIndex(2, "ip")
    >>> index.add([1, 2], [[1, 0], [0, 3]])
    >>> index.search([1, 1], 1).distances.tolist()
    [[-3.0]]
    """

    def __init__(self, dimension: int, metric: Metric = "cosine", *, storage: str = "float32") -> None:
        super().__init__(dimension, metric, storage=storage, lists=0)

    @classmethod
    def _of(cls, store: Store) -> Self:
        given = store.settings
        index = cls(given["dimension"], given["metric"], storage=given["storage"])
        index._store = store
        return index


def _without(alive: np.ndarray | None, rows: np.ndarray, count: int) -> np.ndarray | None:
    if not len(rows):
        return alive
    left = np.ones(count, dtype=bool) if alive is None else alive.copy()
    left[rows] = False
    return left
