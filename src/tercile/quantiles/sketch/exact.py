"""Exact weighted quantiles: of an array at once, or of a stream that is kept whole."""

from __future__ import annotations

import struct
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.any_sketch import RealSketch
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.incoming import MOST_COUNT, NanPolicy
from tercile.quantiles.sketch.questions import Floats

_KIND, _VERSION = b"TEXQ", 1


def weighted_quantile(
    values: Any, q: ArrayLike, weights: ArrayLike | None = None, *, nan_policy: NanPolicy = "raise"
) -> Any:
    """The least value at or below which lies a share q of the weight or more.

    Parameters
    ----------
    values : numbers in any array that `KLL.update` takes. q : number or array in [0, 1].
    weights : positive numbers of the shape of values; None for all the same.
    nan_policy : "raise", or "omit" to leave NaN and nulls out.

    Returns
    -------
    float, or array of the shape of q: values, never something between them.

    Raises
    ------
    ValueError, TypeError : no values, NaN, q outside [0, 1], weights that are not positive.

    Cost: a sort.

    >>> weighted_quantile([1.0, 2.0, 10.0], 0.5, weights=[1, 1, 5])
    10.0
    """
    exact = Exact()
    exact.update(values, weights, nan_policy=nan_policy)
    return exact.quantile(q)


class Exact(RealSketch):
    """A stream kept whole, behind the face of a sketch: what the others are compared with.

    Memory grows with the stream: 16 bytes a value.

    >>> exact = Exact()
    >>> exact.update([3.0, 1.0, 2.0], weights=[0.5, 2.0, 1.0])
    >>> exact.quantile([0.0, 0.5, 1.0]).tolist(), exact.rank(2.5)
    ([1.0, 1.0, 3.0], 0.8571428571428571)
    """

    __slots__ = ("_values", "_weights")

    def __init__(self) -> None:
        # Sorted by value when a question is asked, and not before.
        self._values: Floats = np.empty(0)
        self._weights: Floats = np.empty(0)

    @property
    def count(self) -> float:
        """How much weight went in: the number of values where no weights were given."""
        return float(self._weights.sum())

    @property
    def minimum(self) -> float:
        """The least value seen; NaN when empty."""
        return float(self._values.min()) if self._values.size else float("nan")

    @property
    def maximum(self) -> float:
        """The largest value seen; NaN when empty."""
        return float(self._values.max()) if self._values.size else float("nan")

    @property
    def error_bound(self) -> float:
        """Nothing is ever off: 0."""
        return 0.0

    def copy(self) -> Self:
        """One that goes on independently."""
        twin = type(self)()
        twin._values, twin._weights = self._values.copy(), self._weights.copy()
        return twin

    def quantile(self, q: ArrayLike) -> Any:
        """The least value whose rank is at least q, in the shape of q; ValueError when empty or q is out of [0, 1]."""
        return questions.as_answer(questions.least_reaching(questions.as_levels(q), *self._view()))

    def rank(self, x: ArrayLike) -> Any:
        """The share of weight at or below x, in the shape of x; ValueError when empty or x is NaN."""
        points = questions.as_points(x)
        return questions.as_answer(questions.share_at_or_below(points, *self._view()))

    def to_bytes(self) -> bytes:
        """All values and weights with a version and a checksum."""
        self._sort()
        size = struct.pack("<Q", self._values.size)
        return seal(_KIND, _VERSION, size + self._values.tobytes() + self._weights.tobytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote; ValueError when it is something else, newer, truncated or damaged."""
        body = open_envelope(_KIND, _VERSION, "Exact", data)
        size = int.from_bytes(body[:8], "little")
        if len(body) != 8 + 16 * size:
            raise ValueError("the bytes of the sketch are damaged: their length does not fit")
        exact = cls()
        values, weights = np.frombuffer(body, "<f8", offset=8).reshape(2, size)
        if np.isnan(values).any() or not ((weights > 0.0) & (weights <= MOST_COUNT)).all():
            raise ValueError("the bytes of the sketch are damaged: NaN, or a weight that is not positive")
        exact._feed(values, weights)
        return exact

    def __repr__(self) -> str:
        return f"Exact(count={self.count:g})"

    def _feed(self, values: Floats, weights: Floats | None) -> None:
        self._values = np.concatenate([self._values, values])
        self._weights = np.concatenate([self._weights, np.ones(values.size) if weights is None else weights])

    def _merge(self, other: Self) -> None:
        self._feed(other._values, other._weights)

    def _quantile_bounds(self, levels: Floats) -> tuple[Floats, Floats]:
        exact = questions.least_reaching(levels, *self._view())
        return exact, exact

    def _rank_bounds(self, points: Floats) -> tuple[Floats, Floats]:
        exact = questions.share_at_or_below(points, *self._view())
        return exact, exact

    def _view(self) -> tuple[Floats, Floats]:
        if self._values.size == 0:
            raise ValueError("the sketch is empty; update it first")
        self._sort()
        return self._values, np.cumsum(self._weights)

    def _sort(self) -> None:
        if (self._values[1:] < self._values[:-1]).any():
            order = np.argsort(self._values, kind="stable")
            self._values, self._weights = self._values[order], self._weights[order]
