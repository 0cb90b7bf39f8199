"""Puts rows into lists: from any source that can be read twice, into memory or files, a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from tercile import _native
from tercile.filters.search.columns import DTYPES, Column, Kind, SortedTexts, nothing
from tercile.filters.search.lists import FIRST, RECALLS, SAMPLE, SHARES, Lists, Reach, k_means, nearest_center, packed
from tercile.filters.search.rows import Segment, Snapshot
from tercile.filters.search.selectivity import ColumnShares
from tercile.filters.search.summaries import ListSummary
from tercile.filters.search.vectors import Codec

#: Rows in hand at once, and below how many there are no lists.
PIECE, FEWEST = 16_384, 10_000
#: Rows that a way of keeping vectors learns from.
FITTED_ON = 20_000
#: Rows that play queries when it is measured how far to look, how many nearest each is asked for, and along how many
#: directions rows are taken that have to do with the query.
ASKED, NEAREST, DIRECTIONS = 60, 10, 4


class Piece(NamedTuple):
    """Some rows."""

    ids: np.ndarray
    vectors: np.ndarray
    columns: Mapping[str, Column]


class Source(Protocol):
    """Rows that can be read more than once, in the same order."""

    def __len__(self) -> int: ...

    def pieces(self) -> Iterator[Piece]: ...

    def sample(self, count: int, seed: int) -> np.ndarray: ...


MakeArray = Callable[[str, tuple[int, ...], Any], np.ndarray]


def in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array in memory."""
    return np.empty(shape, dtype=dtype)


class Alive:
    """The rows of a snapshot that are not deleted."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def __len__(self) -> int:
        return len(self.snapshot)

    def _segments(self) -> Iterator[tuple[Segment, np.ndarray]]:
        for segment, alive in (
            (self.snapshot.base, self.snapshot.base_alive),
            (self.snapshot.tail, self.snapshot.tail_alive),
        ):
            yield segment, np.arange(len(segment)) if alive is None else np.flatnonzero(alive)

    def pieces(self) -> Iterator[Piece]:
        """All of them, base first."""
        for segment, rows in self._segments():
            for at in range(0, len(rows), PIECE):
                here = rows[at : at + PIECE]
                columns = {name: column[here] for name, column in segment.columns.items()}
                yield Piece(segment.ids[here], segment.codec.decode(segment.vectors[here]), columns)

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Some vectors, picked evenly."""
        random = np.random.default_rng(seed)
        picked = []
        for segment, rows in self._segments():
            share = min(len(rows), math.ceil(count * len(rows) / max(len(self), 1)))
            if share:
                here = rows[np.sort(random.choice(len(rows), share, replace=False))]
                picked.append(segment.codec.decode(segment.vectors[here]))
        return np.concatenate(picked)


def lists_for(rows: int) -> int:
    """How many lists serve so many rows: three times the square root, none for a few rows.

    >>> lists_for(5_000), lists_for(1_000_000)
    (0, 3000)
    """
    return 0 if rows < FEWEST else round(3 * math.sqrt(rows))


def built(
    source: Source,
    schema: Mapping[str, Kind],
    codec: Codec,
    fitted: bool,
    lists: int,
    squared: bool,
    make: MakeArray = in_memory,
    seed: int = 0,
    relax: Callable[[], None] = lambda: None,
) -> Segment:
    """A segment of all rows of a source.

    Parameters
    ----------
    source : what is read, twice. schema : the kinds of its columns. codec, fitted : how vectors are kept, and whether
        it has learned already. lists : how many; 0 for rows in the order of the source. squared : the metric.
    make : gives the arrays that rows are written to. seed : of samples. relax : called after each piece.

    Cost: k-means on `SAMPLE` rows a list, then each row meets each centre once; memory of a piece, and 20 bytes a row.
    """
    rows = len(source)
    lists = min(lists, rows)
    sample = (
        source.sample(max(SAMPLE * lists, FITTED_ON if not fitted else 0), seed)
        if lists or (rows and not fitted)
        else None
    )
    if not fitted and sample is not None:
        codec = codec.fit(sample)
    centers = k_means(sample, lists, seed) if lists and sample is not None else None
    del sample
    label, texts = _first_reading(source, schema, centers)
    begins = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=max(lists, 1)))])
    segment, spread, variance = _written(source, schema, codec, centers, label, texts, begins, make, relax)
    order = np.argsort(segment.ids, kind="stable")
    sorted_ids, sorted_rows = make("sorted_ids", (rows,), np.int64), make("sorted_rows", (rows,), np.int64)
    sorted_ids[:], sorted_rows[:] = segment.ids[order], order
    shares = {
        name: ColumnShares.of(column[at : at + PIECE] for at in range(0, max(rows, 1), PIECE))
        for name, column in segment.columns.items()
    }
    segment = replace(segment, sorted_ids=sorted_ids, sorted_rows=sorted_rows, shares=shares)
    if centers is None:
        return segment
    made = Lists(
        begins,
        packed(centers),
        np.einsum("cd,cd->c", centers, centers),
        spread,
        variance,
        (spread / centers.shape[1]).astype(np.float32),
        summaries={name: ListSummary.of(column, begins) for name, column in segment.columns.items()},
    )
    return replace(segment, lists=replace(made, reach=measured_reach(segment, made, squared, seed)))


def _first_reading(
    source: Source, schema: Mapping[str, Kind], centers: np.ndarray | None
) -> tuple[np.ndarray, dict[str, SortedTexts]]:
    """The list of each row, and the texts of each column."""
    label = np.zeros(len(source), dtype=np.int32)
    met: dict[str, set[str]] = {name: set() for name, kind in schema.items() if kind == "text"}
    at = 0
    for piece in source.pieces():
        if centers is not None:
            label[at : at + len(piece.ids)] = nearest_center(piece.vectors, centers)
        at += len(piece.ids)
        for name, texts in met.items():
            column = piece.columns.get(name)
            if column is not None and column.texts is not None:
                texts.update(column.texts[code] for code in np.unique(column.values).tolist() if code >= 0)
    return label, {name: SortedTexts.of(texts) for name, texts in met.items()}


def _written(
    source: Source,
    schema: Mapping[str, Kind],
    codec: Codec,
    centers: np.ndarray | None,
    label: np.ndarray,
    texts: Mapping[str, SortedTexts],
    begins: np.ndarray,
    make: MakeArray,
    relax: Callable[[], None],
) -> tuple[Segment, np.ndarray, np.ndarray]:
    """Every row at its place, and mean and variance of squared distances from the centre in each list."""
    rows, lists = len(source), len(begins) - 1
    ids = make("ids", (rows,), np.int64)
    vectors: np.ndarray | None = None
    values = {name: make(f"column-{i}", (rows,), DTYPES[kind]) for i, (name, kind) in enumerate(schema.items())}
    missing = {name: np.zeros(rows, dtype=bool) for name, kind in schema.items() if kind == "integer"}
    free = begins[:-1].copy()
    sums, squares = np.zeros(lists), np.zeros(lists)
    recoded: dict[str, tuple[Any, int, np.ndarray]] = {}
    at = 0
    for piece in source.pieces():
        here = label[at : at + len(piece.ids)]
        at += len(piece.ids)
        order = np.argsort(here, kind="stable")
        of = here[order]
        # The j-th row of a list in this piece goes to the j-th free place of the list.
        first = np.searchsorted(of, of, "left")
        places = free[of] + np.arange(len(of)) - first
        free += np.bincount(here, minlength=lists)
        stored = codec.encode(piece.vectors)
        if vectors is None:
            vectors = make("vectors", (rows, stored.shape[1]), stored.dtype)
        vectors[places] = stored[order]
        ids[places] = piece.ids[order]
        for name, kind in schema.items():
            column = piece.columns.get(name) or nothing(kind, len(of))
            new = column.values
            if kind == "text":
                assert column.texts is not None
                known = recoded.get(name)
                if known is None or known[0] is not column.texts or known[1] != len(column.texts):
                    codes = [texts[name].code(column.texts[code]) for code in range(len(column.texts))]
                    known = column.texts, len(column.texts), np.array([*codes, -1], dtype=np.int32)
                    recoded[name] = known
                new = known[2][new]
            values[name][places] = new[order]
            if kind == "integer" and column.missing is not None:
                missing[name][places] = column.missing[order]
        if centers is not None:
            off = piece.vectors - centers[here]
            square = np.einsum("nd,nd->n", off, off)
            sums += np.bincount(here, square, minlength=lists)
            squares += np.bincount(here, square.astype(np.float64) ** 2, minlength=lists)
        relax()
    if vectors is None:
        vectors = make("vectors", (0, 1), np.float32)
    columns = {
        name: Column(
            kind, values[name], missing[name] if name in missing and missing[name].any() else None, texts.get(name)
        )
        for name, kind in schema.items()
    }
    sizes = np.maximum(np.diff(begins), 1)
    mean = sums / sizes
    spread, variance = mean.astype(np.float32), np.maximum(squares / sizes - mean**2, 0).astype(np.float32)
    return Segment(ids, vectors, codec, columns), spread, variance


def measured_reach(segment: Segment, lists: Lists, squared: bool, seed: int) -> Reach | None:
    """How far a search must look: rows play queries, and some of the others pass.

    The nearest `NEAREST` rows that pass are found by a scan. A row in a list of mean distance m and deviation s from
    the query is found if its list is among the first that are read anyway, or is taken to come at least (m - d) / s
    deviations nearer than its mean, where d is the distance of the farthest of the nearest. Quantiles of that, over
    queries and rows, are the deviations to allow for: the most over filters that pass a random share of the rows, and
    over filters that have to do with the query: rows at one end of a direction pass when it lies at the other.

    Cost: some hundred scans of all rows. None if there are too few rows to tell.
    """
    random = np.random.default_rng(seed)
    few = min(ASKED, len(segment) // 4)
    rows = np.sort(random.choice(len(segment), few, replace=False))
    trials = [(rows, random.random(len(segment)) < share, share) for share in SHARES]
    dimension = segment.codec.decode(segment.vectors[:1]).shape[1]
    for _ in range(DIRECTIONS):
        along = _along(segment, random.standard_normal((dimension, 1)).astype(np.float32))
        end = np.argpartition(along, -max(few, len(segment) // 100))[-max(few, len(segment) // 100) :]
        rows = np.sort(random.choice(end, few, replace=False))
        trials += [(rows, along < np.quantile(along, share), 0.0) for share in (0.01, 0.1, 0.5)]
    # Half of what may be missed is kept in hand for queries unlike the rows; at least one deviation in any case.
    levels = [1 - (1 - recall) / 2 for recall in RECALLS]
    deviations = np.ones(len(RECALLS))
    even: list[tuple[float, _Trial]] = []
    for rows, passes, share in trials:
        passes[rows] = False
        if passes.sum() >= 4 * NEAREST:
            trial = _Trial(segment, lists, squared, rows, passes)
            deviations = np.maximum(deviations, np.quantile(trial.needed, levels, method="inverted_cdf"))
            if share:
                even.append((share, trial))
    if not even:
        return None
    read = tuple(tuple(trial.read(float(allowed)) for allowed in deviations) for _, trial in even)
    return Reach(tuple(deviations.tolist()), tuple(share for share, _ in even), read)


class _Trial:
    """What a search for the rows that pass must read when some rows play queries.

    `needed` are the deviations to allow for so that each of the nearest is found, minus infinity where it is anyway.
    """

    def __init__(self, segment: Segment, lists: Lists, squared: bool, rows: np.ndarray, passes: np.ndarray) -> None:
        queries = segment.codec.decode(np.asarray(segment.vectors[rows]))
        asked = segment.codec.ask(queries, squared)
        products = lists.products(queries)
        self.mean = lists.bounds(queries, products, 0.0, squared)
        self.deviation = np.maximum(self.mean - lists.bounds(queries, products, 1.0, squared), np.float32(1e-30))
        distance = np.full((len(queries), NEAREST), np.inf, dtype=np.float32)
        place = np.full((len(queries), NEAREST), -1, dtype=np.int64)
        which = np.flatnonzero(passes).astype(np.uint32)
        _native.search_rows(asked.queries, segment.vectors.view(np.uint8), *asked[1:], which, 0, distance, place)
        self.farthest = distance.max(axis=1, keepdims=True)
        before = np.concatenate([[0], np.cumsum(passes, dtype=np.int64)])
        counts = before[lists.begins[1:]] - before[lists.begins[:-1]]
        self.some = counts > 0
        order = np.argsort(self.mean - self.deviation, axis=1)
        self.first = np.empty(self.mean.shape, dtype=bool)
        ahead = np.cumsum(counts[order], axis=1) - counts[order]
        np.put_along_axis(self.first, order, (ahead < FIRST) & self.some[order], axis=1)
        home = np.searchsorted(lists.begins, place, "right") - 1
        near = np.take_along_axis(self.mean, home, 1) - self.farthest
        needed = near / np.take_along_axis(self.deviation, home, 1)
        self.needed = np.where(np.take_along_axis(self.first, home, 1), -np.inf, needed)

    def read(self, allowed: float) -> float:
        """The share of the lists that is read."""
        may = (self.mean - allowed * self.deviation < self.farthest) & self.some
        return float((self.first | may).mean())


def _along(segment: Segment, direction: np.ndarray) -> np.ndarray:
    """How far each row lies along a direction."""
    pieces = (segment.codec.decode(segment.vectors[at : at + PIECE]) for at in range(0, len(segment), PIECE))
    return np.concatenate([piece @ direction for piece in pieces])[:, 0]
