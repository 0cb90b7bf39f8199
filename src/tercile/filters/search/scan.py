"""A search of a snapshot: what passes, where to look for it, and the nearest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tercile import _native
from tercile.filters.search.lists import FIRST, Lists
from tercile.filters.search.masks import passing
from tercile.filters.search.planner import Plan, cheaper_to_scan, not_worth_it, planned
from tercile.filters.search.rows import Segment, Snapshot
from tercile.filters.search.summaries import may_pass
from tercile.filters.search.vectors import Asked
from tercile.filters.search.where import Where

_ALL = np.zeros(0, dtype=np.uint8)


@dataclass
class _Nearest:
    """The k nearest rows so far of each query: a heap each, which the kernels keep in order."""

    distance: np.ndarray
    row: np.ndarray

    @classmethod
    def none(cls, queries: int, k: int) -> _Nearest:
        return cls(np.full((queries, k), np.inf, dtype=np.float32), np.full((queries, k), -1, dtype=np.int64))

    @property
    def full(self) -> bool:
        return bool((self.row >= 0).all())


def search(
    snapshot: Snapshot, queries: np.ndarray, k: int, where: Where | None, recall: float, squared: bool
) -> tuple[np.ndarray, np.ndarray, Plan]:
    """The k nearest rows that pass: ids, distances in double precision, and how they were found.

    queries are float32, one a row. Where fewer than k pass, ids are -1 and distances infinite.
    """
    base, tail = snapshot.base, snapshot.tail
    near = _Nearest.none(len(queries), k)
    plan = planned(base, where, len(queries), recall)
    looked: list[tuple[Segment, int, Asked]] = []  # segments, their first rows, and what they were asked
    if len(base):
        asked = base.codec.ask(queries, squared)
        looked.append((base, 0, asked))
        if plan.method == "lists":
            plan, near = _in_lists(snapshot, queries, asked, near, where, plan, recall, squared)
        else:
            mask = _mask(base, snapshot.base_alive, where)
            if recall < 1 and not cheaper_to_scan(base, int(mask.sum()), len(queries), recall):
                plan, near = _in_lists(
                    snapshot, queries, asked, near, where, plan.switched_to("lists"), recall, squared, mask
                )
            else:
                plan = plan.met(_scan(base, asked, near, mask, 0), int(mask.sum()))
    if len(tail):
        asked = tail.codec.ask(queries, squared)
        looked.append((tail, len(base), asked))
        plan = plan.met(_scan(tail, asked, near, _mask(tail, snapshot.tail_alive, where), len(base)))
    return *_answer(looked, near), plan


def _mask(segment: Segment, alive: np.ndarray | None, where: Where | None) -> np.ndarray:
    if where is None:
        return np.ones(len(segment), dtype=bool) if alive is None else alive
    mask = passing(where, segment.columns, len(segment))
    return mask if alive is None else mask & alive


def _scan(segment: Segment, asked: Asked, near: _Nearest, mask: np.ndarray, first: int) -> int:
    rows = np.flatnonzero(mask).astype(np.uint32)
    _native.search_rows(asked.queries, _bytes(segment), *asked[1:], rows, first, near.distance, near.row)
    return len(rows) * len(near.row)


def _bytes(segment: Segment) -> np.ndarray:
    return segment.vectors.view(np.uint8)


class _Passing:
    """Which rows of the lists pass, looked up list by list, and how many are thought to in the others."""

    def __init__(self, snapshot: Snapshot, where: Where | None, share: float, mask: np.ndarray | None) -> None:
        self.segment, self.alive, self.where = snapshot.base, snapshot.base_alive, where
        lists = self.segment.lists
        assert lists is not None
        self.lists: Lists = lists
        self.sizes = np.diff(lists.begins)
        self.everything = where is None and self.alive is None
        self.mask = np.zeros(0 if self.everything else len(self.segment), dtype=bool)
        self.known = np.full(lists.count, self.everything)
        self.counts = self.sizes.copy() if self.everything else np.ceil(self.sizes * share).astype(np.int64)
        if where is not None and mask is None:
            texts = {name: column.texts for name, column in self.segment.columns.items() if column.texts is not None}
            empty = ~may_pass(where, lists.summaries, texts, lists.count)
            self.counts[empty] = 0
            self.known |= empty
            self.counts[~empty & (self.sizes > 0)] = np.maximum(self.counts[~empty & (self.sizes > 0)], 1)
        if mask is not None:
            self._all_known(mask)

    @property
    def native_mask(self) -> np.ndarray:
        return _ALL if self.everything else self.mask.view(np.uint8)

    def look(self, chosen: np.ndarray) -> None:
        """Looks up the rows of these lists; all rows, once that is little more."""
        new = np.zeros(self.lists.count, dtype=bool)
        new[chosen] = True
        new &= ~self.known
        if not new.any():
            return
        if 4 * self.sizes[new].sum() > self.sizes[~self.known].sum():
            self.look_at_all()
            return
        numbers = np.flatnonzero(new)
        sizes = self.sizes[numbers]
        ends = np.cumsum(sizes)
        rows = np.repeat(self.lists.begins[numbers] - (ends - sizes), sizes) + np.arange(int(ends[-1]))
        there = np.ones(len(rows), dtype=bool)
        if self.where is not None:
            there = passing(self.where, {name: c[rows] for name, c in self.segment.columns.items()}, len(rows))
        if self.alive is not None:
            there &= self.alive[rows]
        self.mask[rows] = there
        self.counts[numbers] = np.add.reduceat(there, ends - sizes, dtype=np.int64) if len(rows) else 0
        self.counts[numbers[sizes == 0]] = 0
        self.known |= new

    def look_at_all(self) -> None:
        """Looks up every row."""
        self._all_known(_mask(self.segment, self.alive, self.where))

    def _all_known(self, mask: np.ndarray) -> None:
        self.mask = mask
        before = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        self.counts = before[self.lists.begins[1:]] - before[self.lists.begins[:-1]]
        self.known[:] = True


def _in_lists(
    snapshot: Snapshot,
    queries: np.ndarray,
    asked: Asked,
    near: _Nearest,
    where: Where | None,
    plan: Plan,
    recall: float,
    squared: bool,
    mask: np.ndarray | None = None,
) -> tuple[Plan, _Nearest]:
    """Reads the most promising lists, then those that may hold something nearer than what was found, round by round.

    The number of rows that pass in a list is a guess until the list has been looked at. Where guesses were far too
    high, queries stay without k rows; all rows are then looked at, and scanned if few pass. They are also scanned once
    the lists so far and those to come would cost more than that.
    """
    base = snapshot.base
    found = _Passing(snapshot, where, plan.share, mask)
    lists, k = found.lists, near.row.shape[1]
    assert lists.reach is not None
    deviations = lists.reach.allowed(recall)
    products = lists.products(queries)
    bounds = lists.bounds(queries, products, deviations, squared)
    order = lists.bounds(queries, products, 1.0, squared)
    data, begins = _bytes(base), np.asarray(lists.begins)
    wanted, met, opened, rounds = max(2 * k, FIRST), 0, 0, 0
    while True:
        starts, chosen = _native.search_choose(bounds, order, found.counts, near.distance, wanted)
        if not len(chosen):
            return plan.met(met), near
        if not found.known.all():
            found.look(chosen)
            if rounds == 2 and not near.full:  # guesses were far too high: what is known now decides
                found.look_at_all()
            scan = found.known.all() and cheaper_to_scan(base, int(found.counts.sum()), len(queries), recall)
        else:
            scan = False
        opened += len(chosen)
        ahead = int(found.counts[chosen].sum())
        if scan or not_worth_it(opened, met + ahead, int(found.counts.sum()), len(queries)):
            if not found.known.all():
                found.look_at_all()
            if where is not None or snapshot.base_alive is not None:
                fresh = _Nearest.none(*near.row.shape)
                distances = _scan(base, asked, fresh, found.mask, 0)
                return plan.switched_to("scan").met(met + distances, int(found.counts.sum())), fresh
        met += _native.search_lists(
            asked.queries, data, *asked[1:], begins, found.native_mask, starts, chosen, near.distance, near.row
        )
        rounds += 1
        wanted *= 8


def _answer(looked: Sequence[tuple[Segment, int, Asked]], near: _Nearest) -> tuple[np.ndarray, np.ndarray]:
    """Distances once more in double precision, in order; of equals the lesser id first."""
    distance = np.full(near.row.shape, np.inf)
    ids = np.full(near.row.shape, -1, dtype=np.int64)
    for segment, first, asked in looked:
        _native.search_exact(asked.queries, _bytes(segment), *asked[1:], first, near.row, distance)
        here = (near.row >= first) & (near.row < first + len(segment))
        ids[here] = segment.ids[near.row[here] - first]
    order = np.lexsort((ids, distance), axis=-1)
    return np.take_along_axis(ids, order, -1), np.take_along_axis(distance, order, -1)
