"""Which units are nearly the same, over a pool too large to compare each with each.

Locality-sensitive hashing (Indyk & Motwani 1998; for MinHash: Leskovec, Rajaraman & Ullman, *Mining of
Massive Datasets*, 3.4): cut each signature into bands of r bytes; units that agree in all of a band are
proposed, the similarity itself decides, and a union-find joins what it confirms. So a pair that is joined
directly is alike beyond doubt, and a pair that is alike is missed with a known, small probability.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tercile.filters.data.example import Content, content_digest
from tercile.filters.data.similarity import (
    PLACES,
    agreement,
    jaccard,
    normalised,
    shingles,
    signatures,
    thumbnail,
)

# A unit is tried against this many neighbours in a bucket. Buckets of real data hold a few; the bound keeps
# a pool of a million half-alike pages from taking the square of a million steps.
_NEIGHBOURS = 128
# Chance to miss an alike pair just at the threshold, of which there is one for each signature.
_MISS = 1e-3


def near_duplicates(
    contents: Sequence[Content], *, threshold: float = 0.8, picture_threshold: float = 0.99
) -> NDArray[np.intp]:
    """Put contents that are nearly the same into one cluster.

    Parameters
    ----------
    contents : sequence of str or array
        Texts and pictures. An array that is no picture has exact duplicates only.
    threshold : float
        Texts alike have a Jaccard index of shingles at least this high (see `shingles`).
    picture_threshold : float
        Pictures alike have thumbnails correlated at least this much.

    Returns
    -------
    (n,) int
        The cluster of each content, numbered from 0 in order of first appearance. Likeness is passed on:
        if A is like B and B like C, all three share a cluster. Which contents share one does not depend on
        their order, except in buckets of more than 128 half-alike contents.

    >>> near_duplicates(["One and one is two.", "Quite another text.", "one and one  is two"])
    array([0, 1, 0])
    """
    index = DuplicateIndex(threshold=threshold, picture_threshold=picture_threshold)
    first_with: dict[bytes, int] = {}
    unit_of = np.empty(len(contents), np.intp)
    where: list[int] = []
    for i, content in enumerate(contents):
        key = duplicate_key(content)
        if key not in first_with:
            first_with[key] = index.add(content, key)
            where.append(i)
        unit_of[i] = first_with[key]
    clusters = index.clusters(lambda unit: contents[where[unit]])
    return clusters[unit_of]


def duplicate_key(content: Content) -> bytes:
    """16 bytes that exact duplicates share: of the normalised text, or of an array as it is.

    >>> duplicate_key("A  text") == duplicate_key("a text")
    True
    """
    return content_digest(normalised(content) if isinstance(content, str) else content)


class DuplicateIndex:
    """Near-duplicate search over a stream: keeps 16 bytes of key and 132 of signature a unit, no content.

    (A text of 16 to 24 words has two signatures.) `add` costs O(shingles); `clusters` sorts each band,
    O(n log n), and asks for the contents of proposed pairs only.

    >>> index = DuplicateIndex()
    >>> texts = ["Nothing is so painful to the mind.", "Nothing is so painful to the mind!", "Else."]
    >>> for text in texts:
    ...     _ = index.add(text, duplicate_key(text))
    >>> index.clusters(texts.__getitem__)
    array([0, 0, 1])
    """

    def __init__(self, *, threshold: float = 0.8, picture_threshold: float = 0.99) -> None:
        for name, value in (("threshold", threshold), ("picture_threshold", picture_threshold)):
            if not 0.5 <= value <= 1:
                raise ValueError(
                    f"{name} must be between 0.5 and 1, got {value!r}; 0.8 suits texts, 0.99 pictures"
                )
        self._thresholds = (threshold, picture_threshold)
        self._keys = bytearray()
        self._rows: dict[str, tuple[bytearray, array[int]]] = {}

    def __len__(self) -> int:
        return len(self._keys) // 16

    def add(self, content: Content, key: bytes) -> int:
        """Add one unit; `key` is its `duplicate_key`, no two alike. Returns its number, from 0."""
        number = len(self)
        self._keys += key
        for way, signature in signatures(content).items():
            rows, owners = self._rows.setdefault(way, (bytearray(), array("q")))
            rows += signature.tobytes()
            owners.append(number)
        return number

    def clusters(
        self, content_of: Callable[[int], Content], progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.intp]:
        """Compare what was added.

        Parameters
        ----------
        content_of : callable
            Unit number -> its content; called for proposed pairs only.
        progress : callable, optional
            Called with (steps done, steps in all).

        Returns
        -------
        (n,) int
            The cluster of each unit, numbered in order of first appearance.
        """
        forest = _Forest(len(self))
        high, low = np.frombuffer(self._keys, dtype=">u8").reshape(-1, 2).T
        plans = {way: _band_width(agreement(way, self._threshold(way))) for way in sorted(self._rows)}
        done, steps = 0, sum(PLACES // width for width in plans.values())
        for way, width in plans.items():
            packed, owned = self._rows[way]
            rows = np.frombuffer(packed, np.uint8).reshape(-1, PLACES)
            owners = np.frombuffer(owned, np.int64)
            # By key, so that neither the pairs nor the neighbours tried depend on the order of the stream.
            ranked = np.lexsort((low[owners], high[owners]))
            alike = _alike_test(way, self._threshold(way), content_of)
            fewest = _fewest_agreeing(agreement(way, self._threshold(way)))
            for start in range(0, PLACES - width + 1, width):
                for bucket in _buckets(rows, ranked, start, width):
                    _join_bucket(rows[bucket], owners[bucket], fewest, alike, forest)
                done += 1
                if progress is not None:
                    progress(done, steps)
        return forest.labels()

    def _threshold(self, way: str) -> float:
        return self._thresholds[1 if way.startswith("picture") else 0]


def _band_width(agree: float) -> int:
    """The widest band (fewest false proposals) that misses a pair at the threshold less than _MISS."""
    widths = [r for r in range(1, 9) if (1 - agree**r) ** (PLACES // r) <= _MISS]
    return max(widths, default=1)


def _fewest_agreeing(agree: float) -> int:
    """Agreements below which a pair is not worth testing: five deviations under what an alike pair has."""
    return int(PLACES * agree - 5 * (PLACES * agree * (1 - agree)) ** 0.5)


def _buckets(
    rows: NDArray[np.uint8], ranked: NDArray[np.intp], start: int, width: int
) -> Iterator[NDArray[np.intp]]:
    """Rows (in ranked order) that agree in all the bytes of one band."""
    padded = np.zeros((len(ranked), 8), np.uint8)
    padded[:, :width] = rows[ranked, start : start + width]
    band = padded.view(np.uint64).ravel()
    order = np.argsort(band, kind="stable")
    edges = np.flatnonzero(np.diff(band[order])) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(band))
    shared = ends - starts > 1
    for a, b in zip(starts[shared], ends[shared]):
        yield ranked[order[a:b]]


def _join_bucket(
    rows: NDArray[np.uint8],
    owners: NDArray[np.int64],
    fewest: int,
    alike: Callable[[int, int], bool],
    forest: _Forest,
) -> None:
    roots = np.array([forest.root(int(owner)) for owner in owners])
    for i in range(1, len(owners)):
        first = max(0, i - _NEIGHBOURS)
        # Units already together need no proof: another link would change no cluster.
        apart = roots[first:i] != roots[i]
        if not apart.any():
            continue
        proposed = np.flatnonzero(apart & ((rows[first:i] == rows[i]).sum(1) >= fewest))
        for j in proposed[::-1]:
            a, b = int(owners[i]), int(owners[first + j])
            if roots[first + j] != roots[i] and alike(min(a, b), max(a, b)):
                low, high = sorted((int(roots[i]), int(roots[first + j])))
                forest.join(low, high)
                roots[roots == high] = low


def _alike_test(
    way: str, threshold: float, content_of: Callable[[int], Content]
) -> Callable[[int, int], bool]:
    """The test that decides, remembering what it worked out last."""

    def fingerprint(unit: int) -> frozenset[str] | NDArray[np.float64]:
        content = content_of(unit)
        if isinstance(content, str):
            return shingles(content)[way]
        row = thumbnail(content)
        assert row is not None, "a picture without thumbnail has no signature either"
        return row

    kept = lru_cache(maxsize=1024)(fingerprint)

    @lru_cache(maxsize=100_000)
    def alike(a: int, b: int) -> bool:
        first, second = kept(a), kept(b)
        if isinstance(first, frozenset) and isinstance(second, frozenset):
            return jaccard(first, second) >= threshold
        return float(np.dot(first, second)) >= threshold  # type: ignore[arg-type]

    return alike


class _Forest:
    """Union-find with path halving; the lower number becomes the root."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int64)

    def root(self, unit: int) -> int:
        parent = self._parent
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = int(parent[unit])
        return unit

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low

    def labels(self) -> NDArray[np.intp]:
        roots = self._parent
        while True:
            above = roots[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        # A root is its cluster's lowest number, so counting roots numbers clusters by first appearance.
        return (np.cumsum(roots == np.arange(len(roots))) - 1)[roots].astype(np.intp)
