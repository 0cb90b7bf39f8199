"""From a stream of anything to three clean, separate sides: the first step of the main job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tercile.filters.data.checks import check
from tercile.filters.data.example import Example, Rejection
from tercile.filters.data.lsh import DuplicateIndex, duplicate_key
from tercile.filters.data.pool import Pool
from tercile.filters.data.selection import Selection, counted
from tercile.filters.data.sides import SIDES, Share, check_shares, split
from tercile.filters.data.sources import Source, read

Progress = Callable[[str, int, int | None], None]
_SAMPLES = 5


def select(
    source: Source,
    *,
    seed: int,
    calibration: Share = 0.25,
    selection: Share = 0.25,
    certification: Share = 0.5,
    needed: int | None = None,
    min_length: int = 1,
    max_length: int | None = None,
    length: Callable[[str], int] = len,
    threshold: float = 0.8,
    picture_threshold: float = 0.99,
    column: str | None = None,
    label_column: str | None = None,
    unit: str | None = None,
    progress: Progress | None = None,
) -> Selection:
    """Read a pool, drop what cannot be used or is there already, and deal the rest to three sides.

    A unit is dropped when it cannot be read (`read`), fails a check (`check`), or is an exact or
    near-duplicate of another (`near_duplicates`). Of each cluster of duplicates the one with the smallest
    content hash stays, and a hash of that content, keyed by the seed, decides its side (`split`).

    So what is chosen depends on what is in the pool, never on its order. With fractions a unit that is
    nobody's duplicate keeps its side whatever is added to the pool or taken from it; a cluster keeps its
    side as long as its member with the smallest hash does not change. With counts the cuts move with the
    pool. (Origins of exact duplicates are those of the first one read.)

    Parameters
    ----------
    source, column, label_column, unit
        As in `read`.
    seed : int
        Of the split.
    calibration, selection, certification : int, float or None
        Fractions, or counts with at most one None for the rest; as in `split`.
    needed : int, optional
        The fewest certification units that will do (`tercile.quantiles.certificate.units_needed`).
    min_length, max_length, length
        As in `check`.
    threshold, picture_threshold : float
        As in `near_duplicates`.
    progress : callable, optional
        Called with a stage (``reading``, ``comparing``, ``loading``), how much of it is done, and out of
        how much, or None while that is not known.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        The source cannot be read, or too few units are left: the message says how many are, how many are
        needed and what happened to the others.
    OSError
        No room for the pool in the temporary folder.

    Notes
    -----
    Memory: the chosen units, and about 550 bytes for every distinct unit of the pool (its key in a
    dictionary, a signature of 128 bytes or two, a few numbers). Contents wait in a temporary file.

    >>> pool = [f"The number {i} is written {'I' * i}, said the Roman." for i in range(1, 41)]
    >>> chosen = select([*pool, "", pool[0].upper()], seed=0, calibration=2, selection=3, certification=None)
    >>> chosen.read, dict(chosen.rejected)["exact-duplicate"], len(chosen.calibration)
    (42, 1, 2)
    """
    shares = (calibration, selection, certification)
    check_shares(*shares)
    if needed is not None and needed < 1:
        raise ValueError(f"needed must be at least 1, got {needed}")
    if max_length is not None and max_length < max(1, min_length):
        raise ValueError(f"max_length must be at least min_length and 1, got {max_length}")
    tell: Progress = progress or (lambda stage, done, total: None)
    tally = _Tally()
    index = DuplicateIndex(threshold=threshold, picture_threshold=picture_threshold)
    with Pool() as pool:
        keys: dict[bytes, int] = {}
        units = 0
        for example in read(
            source, column=column, label_column=label_column, unit=unit, rejected=tally.unreadable
        ):
            units += 1
            if units % 256 == 0:
                tell("reading", units, None)
            fault = check(example, min_length=min_length, max_length=max_length, length=length)
            if fault is not None:
                tally.reject(fault)
                continue
            key = duplicate_key(example.content)
            if key in keys:
                tally.reject(_exact_duplicate(example, keys[key], pool))
            else:
                keys[key] = pool.add(example)
                index.add(example.content, key)
        tell("reading", units, units)
        by_number = list(keys)
        clusters = index.clusters(
            lambda number: pool[number].content, lambda done, steps: tell("comparing", done, steps)
        )
        kept = _representatives(clusters, by_number)
        _reject_others(clusters, kept, pool, tally)
        so_far = f"{len(kept):,} of {tally.read(units):,} units kept{counted(tally.counts())}"
        try:
            dealt = split(
                [by_number[number] for number in kept],
                seed=seed,
                calibration=calibration,
                selection=selection,
                certification=certification,
            )
        except ValueError as error:
            raise ValueError(f"{so_far}: {error}") from None
        _check_enough(tuple(map(len, dealt)), shares, needed, so_far)
        loaded, total = 0, sum(map(len, dealt))
        sides: list[tuple[Example, ...]] = []
        for side in dealt:
            sides.append(tuple(pool[int(number)] for number in kept[side]))
            loaded += len(side)
            tell("loading", loaded, total)
    return Selection(
        calibration=sides[0],
        selection=sides[1],
        certification=sides[2],
        seed=seed,
        read=tally.read(units),
        kept=len(kept),
        rejected=tally.counts(),
        samples=tally.samples(),
        settings={
            **dict(zip(SIDES, shares)),
            "min_length": min_length,
            "max_length": max_length,
            "threshold": threshold,
            "picture_threshold": picture_threshold,
        },
    )


class _Tally:
    """Counts every rejection and keeps the first five of each reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, list[Rejection]] = {}
        self._unread = 0

    def reject(self, rejection: Rejection) -> None:
        self._counts[rejection.reason] += 1
        if self.wants(rejection.reason):
            self._samples.setdefault(rejection.reason, []).append(rejection)

    def wants(self, reason: str) -> bool:
        """Whether a sample of this reason would still be kept."""
        return len(self._samples.get(reason, ())) < _SAMPLES

    def unreadable(self, rejection: Rejection) -> None:
        self._unread += 1
        self.reject(rejection)

    def read(self, units: int) -> int:
        return units + self._unread

    def counts(self) -> dict[str, int]:
        return dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0])))

    def samples(self) -> dict[str, tuple[Rejection, ...]]:
        return {reason: tuple(self._samples[reason]) for reason in self.counts()}


def _exact_duplicate(example: Example, number: int, pool: Pool) -> Rejection:
    """Keep one of two units with the same key: the smaller, so that the order of the pool does not matter."""
    there = pool[number]
    loser, winner = example, there
    if _rank(example) < _rank(there):
        pool.replace(number, example)
        loser, winner = there, example
    detail = f"exact duplicate of {winner.origin}"
    if loser.label != winner.label:
        detail += f", but labelled {loser.label!r} and not {winner.label!r}"
    return Rejection("exact-duplicate", detail, loser.origin, loser.excerpt)


def _rank(example: Example) -> tuple[str, str]:
    content = example.content if isinstance(example.content, str) else example.digest
    return content, repr(example.label)


def _representatives(clusters: NDArray[np.intp], keys: list[bytes]) -> NDArray[np.intp]:
    """Of each cluster the unit with the smallest key: a choice that no order or seed has a part in."""
    high, low = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2).T
    ranked = np.lexsort((low, high))
    return ranked[np.unique(clusters[ranked], return_index=True)[1]]


def _reject_others(clusters: NDArray[np.intp], kept: NDArray[np.intp], pool: Pool, tally: _Tally) -> None:
    for number in np.flatnonzero(kept[clusters] != np.arange(len(clusters))):
        if tally.wants("near-duplicate"):
            example, stays = pool[int(number)], pool[int(kept[clusters[number]])]
            detail = f"near-duplicate of {stays.origin}"
            tally.reject(Rejection("near-duplicate", detail, example.origin, example.excerpt))
        else:
            tally.reject(_UNSAMPLED)


# Counted only: building the texts of a million rejections that nobody sees would take minutes.
_UNSAMPLED = Rejection("near-duplicate", "", "")


def _check_enough(sizes: tuple[int, ...], shares: tuple[Share, ...], needed: int | None, so_far: str) -> None:
    for side, size, share in zip(SIDES, sizes, shares):
        if size == 0 and share != 0:
            raise ValueError(f"{so_far}: too few, none falls to {side}; give more data")
    if needed is not None and sizes[2] < needed:
        raise ValueError(
            f"{so_far}: that leaves {sizes[2]:,} for certification and {needed:,} are needed; "
            "give more data, or a larger share for certification"
        )
