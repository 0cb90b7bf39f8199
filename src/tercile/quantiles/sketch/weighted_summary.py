"""XGBoost's weighted quantile sketch (Chen and Guestrin 2016, appendix): rank bounds that are certain, not probable.

How it works is told at the top of native/weighted_summary.hpp. Here: what goes in and out, and the file format.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tercile import _native
from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.any_sketch import RealSketch
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.incoming import MOST_COUNT
from tercile.quantiles.sketch.questions import Floats

_KIND, _VERSION = b"TWQS", 1


class WeightedSummary(RealSketch):
    """A mergeable summary of weighted numbers whose rank error is bounded for sure, whatever the stream.

    It tosses no coins: the same calls give the same bytes. The price beside `KLL` is size, some 100 kB where KLL
    needs six; what it buys is weights that may be any positive numbers, and bounds that hold always.

    Parameters
    ----------
    eps : 1e-6 to 0.25; the most that a rank may be off, as a share of the weight, for up to `expected` values.
    expected : how many values the promise is for. Beyond them the sketch goes on; see `error_bound`.

    Examples
    --------
    >>> import numpy as np
    >>> sketch = WeightedSummary(eps=0.01)
    >>> sketch.update(np.arange(100_000), weights=np.arange(1, 100_001))
    >>> low, high = sketch.rank_bounds(50_000)
    >>> bool(low <= 0.25 <= high), sketch.error_bound < 0.01
    (True, True)
    """

    __slots__ = ("_native",)

    def __init__(self, eps: float = 0.01, *, expected: int = 100_000_000) -> None:
        if isinstance(eps, bool) or not isinstance(eps, (int, float, np.integer, np.floating)):
            raise TypeError(f"eps must be a number, got {eps!r}")
        if not 1e-6 <= eps <= 0.25:
            raise ValueError(f"eps must be 1e-6 to 0.25, got {eps}")
        if isinstance(expected, bool) or not isinstance(expected, (int, np.integer)):
            raise TypeError(f"expected must be an integer, got {expected!r}")
        if not 1 <= expected <= MOST_COUNT:
            raise ValueError(f"expected must be 1 to 2**53, got {expected}")
        self._native = _native.WeightedSummary(float(eps), int(expected))

    @property
    def eps(self) -> float:
        """The promised rank error it was made with."""
        return float(self._native.eps)

    @property
    def expected(self) -> int:
        """How many values the promise is for."""
        return int(self._native.expected)

    @property
    def count(self) -> int:
        """How many values went in."""
        return int(self._native.count)

    @property
    def weight(self) -> float:
        """The sum of their weights."""
        return float(self._native.weight)

    @property
    def minimum(self) -> float:
        """The least value seen, exactly; NaN when empty."""
        return float(self._columns()[0][0]) if self.count else math.nan

    @property
    def maximum(self) -> float:
        """The largest value seen, exactly; NaN when empty."""
        return float(self._columns()[0][-1]) if self.count else math.nan

    @property
    def error_bound(self) -> float:
        """The most that any rank or quantile of this very sketch is off, as a share of the weight; certain.

        Read off the bounds that the summary keeps, so usually far below `eps`; 0 as long as nothing was thrown away.
        """
        return min(1.0, 0.5 * self._native.gap / self.weight) if self.count else 0.0

    def _feed(self, values: Floats, weights: Floats | None) -> None:
        if weights is None:
            self._native.update(values)
        else:
            self._native.update_weighted(values, weights)

    def _merge(self, other: Self) -> None:
        self._native.merge(other._native)

    def merge(self, other: Self) -> Self:
        """Put in all that another sketch of the same eps has seen; returns self. The other is left as it was.

        Raises
        ------
        TypeError, ValueError : not a WeightedSummary, or made for another error.
        """
        if not isinstance(other, WeightedSummary):
            raise TypeError(f"can only merge a WeightedSummary, got {type(other).__name__}")
        if (other.eps, other.expected) != (self.eps, self.expected):
            raise ValueError(
                f"both sketches must have the same eps and expected, got {self.eps} for {self.expected} "
                f"and {other.eps} for {other.expected}"
            )
        self._room_for(other.weight)
        self._merge(other)
        return self

    def copy(self) -> Self:
        """A sketch that goes on independently."""
        return self._wrap(self._native.copy())

    def quantile(self, q: ArrayLike) -> Any:
        """The value kept whose rank is nearest to q; 0 and 1 give the exact minimum and maximum.

        Parameters
        ----------
        q : number or array in [0, 1].

        Returns
        -------
        float, or array of the shape of q: a value of the stream whose rank is within `error_bound` of q.

        Raises
        ------
        ValueError : q outside [0, 1], or the sketch is empty.
        """
        levels = questions.as_levels(q)
        values, after, before, highest = self._columns()
        # Entry i answers every rank up to the middle of what may lie between it and the next (the paper's query).
        ends = np.append(np.maximum.accumulate(0.5 * (after[:-1] + before[1:])), highest[-1])
        found = questions.least_reaching(levels, values, ends)
        found = np.where(levels <= 0.0, values[0], np.where(levels >= 1.0, values[-1], found))
        return questions.as_answer(found)

    def _quantile_bounds(self, levels: Floats) -> tuple[Floats, Floats]:
        values, after, before, highest = self._columns()
        # Values below entry i weigh no more than before[i]: short of q, so none of them is the quantile.
        index = np.searchsorted(before, levels * highest[-1], side="left") - 1
        low = values[np.maximum(index, 0)]
        return low, questions.least_reaching(levels, values, after)

    def rank(self, x: ArrayLike) -> Any:
        """The share of weight at or below x, to within `error_bound`; ValueError when empty or x is NaN."""
        low, high = self._rank_bounds(questions.as_points(x))
        return questions.as_answer(0.5 * (low + high))

    def to_bytes(self) -> bytes:
        """The whole state, with a version and a checksum."""
        return seal(_KIND, _VERSION, self._native.save())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote, by this or an older version.

        Raises
        ------
        ValueError : not a sketch, a newer version, truncated or damaged.
        """
        return cls._wrap(_native.WeightedSummary.load(open_envelope(_KIND, _VERSION, "WeightedSummary", data)))

    def __repr__(self) -> str:
        return f"WeightedSummary(eps={self.eps:g}, count={self.count}, error_bound={self.error_bound:.4g})"

    @classmethod
    def _wrap(cls, native: Any) -> Self:
        sketch = cls.__new__(cls)
        sketch._native = native
        return sketch

    def _room_for(self, more: int | float) -> None:
        if self.weight + more > MOST_COUNT:
            raise ValueError(f"weights must not add up to more than {MOST_COUNT}, got {more} more")

    def _columns(self) -> tuple[Floats, ...]:
        """Values; what is surely at or below each; what may be below it; what may be at or below it."""
        if self.count == 0:
            raise ValueError("the sketch is empty; update it first")
        values, low, high, weight = (np.asarray(column) for column in self._native.view())
        return values, low + weight, high - weight, high

    def _rank_bounds(self, points: Floats) -> tuple[Floats, Floats]:
        values, after, before, highest = self._columns()
        above = np.searchsorted(values, points, side="right")
        at = np.maximum(above - 1, 0)
        kept = (above > 0) & (values[at] == points)
        whole = highest[-1]
        low = np.where(above > 0, after[at], 0.0)
        between = np.where(above < values.size, before[np.minimum(above, values.size - 1)], whole)
        high = np.maximum(low, np.where(kept, highest[at], between))
        return low / whole, np.minimum(high / whole, 1.0)
