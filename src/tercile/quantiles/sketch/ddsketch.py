"""The relative-error sketch (DDSketch: Masson, Rim and Lee 2019): quantiles right to a share of their own value.

Why this one: docs/decisions/0010-tails-by-ddsketch.md. The bins are counted by native/relative.cpp.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native
from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.any_sketch import RealSketch
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.incoming import MOST_COUNT
from tercile.quantiles.sketch.questions import Floats

_KIND, _VERSION = b"TDDS", 1
_HEAD = struct.Struct("<dddddd")
# Below this a double has fewer digits than the bins tell apart: it counts as zero.
_TINY = 2.0**-1022
# More than rounding can move the edge of a bin by.
_SLACK = 1e-12


@dataclass(frozen=True)
class _Bins:
    """All bins in use in ascending order: least and largest value possible in each, and the weight up to its end."""

    low: Floats
    high: Floats
    middle: Floats
    cumulative: Floats


class DDSketch(RealSketch):
    """A mergeable summary whose quantiles are right to a fixed share of their own value, always.

    Every number is counted in a bin about 2 * `accuracy` wide beside it, so the 0.9999-quantile of a latency is as
    sure as its median. No coin is tossed: merging in any order gives the same answers as one stream. Bins are
    only kept between the least and the largest number seen; at 1% that is 2 kB for each factor of 10 between them.

    Parameters
    ----------
    accuracy : 0.0001 to 0.5, the most by which a quantile is off, as a share of its value.

    Numbers closer to 0 than 2.2e-308 count as 0.

    >>> import numpy as np
    >>> sketch = DDSketch(accuracy=0.01)
    >>> sketch.update(np.arange(1, 100_001))
    >>> abs(sketch.quantile(0.999) - 99_900) < 0.01 * 99_900
    True
    """

    _same = ("accuracy",)
    __slots__ = ("_accuracy", "_apart", "_maximum", "_minimum", "_negative", "_positive")

    def __init__(self, accuracy: float = 0.01) -> None:
        if isinstance(accuracy, bool) or not isinstance(accuracy, (int, float, np.integer, np.floating)):
            raise TypeError(f"accuracy must be a number, got {accuracy!r}")
        if not 1e-4 <= accuracy <= 0.5:
            raise ValueError(f"accuracy must be 0.0001 to 0.5, got {accuracy}; write 0.01 for 1%")
        self._accuracy = float(accuracy)
        self._positive, self._negative = _native.LogBins(self._accuracy), _native.LogBins(self._accuracy)
        self._apart = [0.0, 0.0, 0.0]  # weight at 0, at -inf and at inf
        self._minimum, self._maximum = np.nan, np.nan

    @property
    def accuracy(self) -> float:
        """The most by which a quantile is off, as a share of its value."""
        return self._accuracy

    @property
    def count(self) -> float:
        """How much weight went in: the number of values where no weights were given."""
        return float(sum(self._apart) + self._positive.counts().sum() + self._negative.counts().sum())

    @property
    def minimum(self) -> float:
        """The least value seen, exactly; NaN when empty."""
        return self._minimum

    @property
    def maximum(self) -> float:
        """The largest value seen, exactly; NaN when empty."""
        return self._maximum

    @property
    def error_bound(self) -> float:
        """How far a rank may be off, as a share of the count: the fullest bin. Not what this sketch is made for."""
        if self.count == 0.0:
            return 0.0
        bins = self._bins()
        wide = bins.low < bins.high
        weight = np.diff(bins.cumulative, prepend=0.0)
        return float(weight[wide].max(initial=0.0) / bins.cumulative[-1])

    def _feed(self, values: Floats, weights: Floats | None) -> None:
        if values.size == 0:
            return
        self._see(float(values.min()), float(values.max()))
        apart = _native.LogBins.update(self._positive, self._negative, values, weights)
        self._apart = [mine + more for mine, more in zip(self._apart, apart)]

    def _merge(self, other: Self) -> None:
        if other.count == 0.0:
            return
        other = other.copy()
        self._see(other._minimum, other._maximum)
        self._positive.merge(other._positive)
        self._negative.merge(other._negative)
        self._apart = [mine + theirs for mine, theirs in zip(self._apart, other._apart)]

    def copy(self) -> Self:
        """A sketch that goes on independently."""
        twin = type(self)(self._accuracy)
        twin._positive, twin._negative = self._positive.copy(), self._negative.copy()
        twin._apart = list(self._apart)
        twin._minimum, twin._maximum = self._minimum, self._maximum
        return twin

    def quantile(self, q: ArrayLike) -> Any:
        """Within `accuracy` times itself of the least value whose rank is at least q.

        Parameters
        ----------
        q : number or array in [0, 1]; 0 and 1 give the exact minimum and maximum.

        Returns
        -------
        float, or array of the shape of q.

        Raises
        ------
        ValueError : q outside [0, 1], or the sketch is empty.
        """
        levels, bins = questions.as_levels(q), self._bins()
        found = questions.least_reaching(levels, bins.middle, bins.cumulative)
        found = np.where(levels <= 0.0, self._minimum, np.where(levels >= 1.0, self._maximum, found))
        return questions.as_answer(found)

    def rank(self, x: ArrayLike) -> Any:
        """The share of weight at or below x, in the shape of x; inside a bin taken to be spread evenly."""
        points, bins = questions.as_points(x), self._bins()
        below = np.concatenate(([0.0], bins.cumulative))
        # The last bin that starts at or below x: what is in it counts by how far x has come.
        at = np.searchsorted(bins.low, points, side="right") - 1
        start, end = bins.low[np.maximum(at, 0)], bins.high[np.maximum(at, 0)]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            part = np.where(points >= end, 1.0, (points - start) / (end - start))
        share = (below[at] + (below[at + 1] - below[at]) * part) / below[-1]
        share = np.where(points < self._minimum, 0.0, np.where(points >= self._maximum, 1.0, share))
        return questions.as_answer(share)

    def to_bytes(self) -> bytes:
        """The whole state with a version and a checksum: 12 bytes for each bin in use."""
        body = _HEAD.pack(self._accuracy, *self._apart, self._minimum, self._maximum)
        for bins in (self._positive, self._negative):
            counts = bins.counts()
            used = np.flatnonzero(counts)
            body += struct.pack("<I", used.size)
            body += (used + bins.first).astype("<i4").tobytes() + counts[used].astype("<f8").tobytes()
        return seal(_KIND, _VERSION, body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError : another sketch or none at all, a newer version, truncated or damaged.
        """
        body = open_envelope(_KIND, _VERSION, "DDSketch", data)
        if len(body) < _HEAD.size:
            raise ValueError("the bytes of the sketch end too early")
        accuracy, *apart, minimum, maximum = _HEAD.unpack_from(body)
        if not 1e-4 <= accuracy <= 0.5 or not all(0.0 <= weight <= MOST_COUNT for weight in apart):
            raise ValueError("the bytes of the sketch are damaged: accuracy or weights out of range")
        sketch, at = cls(accuracy), _HEAD.size
        for bins in (sketch._positive, sketch._negative):
            at = _read_bins(body, at, bins)
        if at != len(body):
            raise ValueError("the bytes of the sketch are damaged: more follows their end")
        sketch._apart, sketch._minimum, sketch._maximum = list(apart), minimum, maximum
        count = sketch.count
        if count > MOST_COUNT:
            raise ValueError("the bytes of the sketch are damaged: the count is too large")
        if count > 0.0:
            edges = sketch._edges()
            first, last = (edges[0][0], edges[1][0]), (edges[0][-1], edges[1][-1])
            if not (first[0] <= minimum <= first[1] and last[0] <= maximum <= last[1] and minimum <= maximum):
                raise ValueError("the bytes of the sketch are damaged: minimum and maximum do not fit the bins")
        elif not (np.isnan(minimum) and np.isnan(maximum)):
            raise ValueError("the bytes of the sketch are damaged: empty, but with a minimum")
        return sketch

    def __repr__(self) -> str:
        return f"DDSketch(accuracy={self._accuracy}, count={self.count:g})"

    def _quantile_bounds(self, levels: Floats) -> tuple[Floats, Floats]:
        bins = self._bins()
        low, high = (questions.least_reaching(levels, edge, bins.cumulative) for edge in (bins.low, bins.high))
        return low, high

    def _rank_bounds(self, points: Floats) -> tuple[Floats, Floats]:
        bins = self._bins()
        low, high = (questions.share_at_or_below(points, edge, bins.cumulative) for edge in (bins.high, bins.low))
        return low, high

    def _see(self, low: float, high: float) -> None:
        self._minimum = float(np.fmin(self._minimum, low))  # fmin: the NaN of an empty sketch gives way
        self._maximum = float(np.fmax(self._maximum, high))

    def _edges(self) -> tuple[Floats, Floats, Floats]:
        """Least and largest value possible in each bin in use, and its weight, in ascending order."""
        low, high, weight = _edges_of(self._positive)
        down, up, under = _edges_of(self._negative)
        zero, least, most = self._apart
        apart = [([-np.inf], [-np.inf], [least]), ([0.0], [0.0], [zero]), ([np.inf], [np.inf], [most])]
        rows = [apart[0], (-up[::-1], -down[::-1], under[::-1]), apart[1], (low, high, weight), apart[2]]
        lows, highs, weights = (np.concatenate([row[i] for row in rows]) for i in range(3))
        used = weights > 0.0
        return lows[used], highs[used], weights[used]

    def _bins(self) -> _Bins:
        if self.count == 0.0:
            raise ValueError("the sketch is empty; update it first")
        low, high, weight = self._edges()
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            # In the middle of l and h as 2 l h / (l + h), which is as far from both as a share of each.
            middle = np.where(low < 0.0, -1.0, 1.0) * 2.0 / (1.0 / np.abs(low) + 1.0 / np.abs(high))
        middle = np.where(low == high, low, middle)
        clip = (self._minimum, self._maximum)
        return _Bins(np.clip(low, *clip), np.clip(high, *clip), np.clip(middle, *clip), np.cumsum(weight))


def _edges_of(bins: Any) -> tuple[Floats, Floats, Floats]:
    counts = bins.counts()
    used = np.flatnonzero(counts)
    low = np.array([bins.edge(int(bin) + bins.first) for bin in used], dtype=np.float64)
    high = np.array([bins.edge(int(bin) + bins.first + 1) for bin in used], dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.maximum(low * (1.0 - _SLACK), _TINY), np.minimum(high * (1.0 + _SLACK), _LARGEST), counts[used]


_LARGEST = float(np.finfo(np.float64).max)


def _read_bins(body: bytes, at: int, bins: Any) -> int:
    """Fill the bins from the body; returns where they end."""
    if len(body) < at + 4:
        raise ValueError("the bytes of the sketch end too early")
    (size,) = struct.unpack_from("<I", body, at)
    at += 4
    if len(body) < at + 12 * size:
        raise ValueError("the bytes of the sketch end too early")
    index: NDArray[Any] = np.frombuffer(body, "<i4", size, at)
    weight = np.frombuffer(body, "<f8", size, at + 4 * size)
    if (np.diff(index) <= 0).any() or not ((weight > 0.0) & (weight <= MOST_COUNT)).all():
        raise ValueError("the bytes of the sketch are damaged: its bins are out of order or empty")
    if size and not 0 <= index[0] <= index[-1] <= bins.highest:
        raise ValueError("the bytes of the sketch are damaged: a bin out of range")
    # The ends first, so that the store is made once.
    for i in [0, size - 1, *range(1, size - 1)] if size > 1 else range(size):
        bins.put(int(index[i]), float(weight[i]))
    return at + 12 * size
