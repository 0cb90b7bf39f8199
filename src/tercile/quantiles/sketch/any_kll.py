"""The KLL sketch: quantiles of a stream of any length in a few kilobytes (Karnin, Lang and Liberty 2016).

How it works is told at the top of native/sketches/kll.hpp. Here: questions and answers, whatever the items are.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.any_sketch import AnySketch
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.incoming import NanPolicy
from tercile.quantiles.sketch.questions import Floats

VERSION = 1


class AnyKLL(AnySketch):
    """What the KLL sketches of numbers, integers and strings share: they differ in their items only."""

    __slots__ = ("_native",)
    _same = ("k",)
    _kind: ClassVar[bytes]
    _type: ClassVar[Any]

    def __init__(self, k: int = 200, *, random_state: int | None = None) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"k must be an integer, got {k!r}")
        if not 8 <= k <= 65535:
            raise ValueError(f"k must be 8 to 65535, got {k}")
        self._native = self._type(int(k), questions.as_seed(random_state))

    @property
    def k(self) -> int:
        """The accuracy parameter it was made with."""
        return int(self._native.k)

    @property
    def count(self) -> int:
        """How many values (or how much weight) went in."""
        return int(self._native.count)

    @property
    def error_bound(self) -> float:
        """How far a rank may be off, as a share of the count, with probability 99% for any one question.

        Not a formula in k but added up from the coins that this very sketch has tossed: 0 as long as nothing
        was thrown away. It holds for every stream and order that does not depend on the seed.
        """
        return self._rank_error(0.99)

    @abstractmethod
    def update(self, values: Any, weights: ArrayLike | None = None, *, nan_policy: NanPolicy = "raise") -> None:
        """Put values in."""

    def _merge(self, other: Self) -> None:
        self._native.merge(other._native)

    def copy(self) -> Self:
        """A sketch that goes on independently, in the same state of the random numbers."""
        return self._wrap(self._native.copy())

    def quantile(self, q: ArrayLike) -> Any:
        """The least value kept whose rank is at least q; 0 and 1 give the exact minimum and maximum.

        Parameters
        ----------
        q : number or array in [0, 1].

        Returns
        -------
        A value, or an array of the shape of q.

        Raises
        ------
        ValueError : q outside [0, 1], or the sketch is empty.
        """
        levels = questions.as_levels(q)
        found = questions.least_reaching(levels, *self._view())
        return self._answer(np.where(levels <= 0.0, self._low(), np.where(levels >= 1.0, self._high(), found)))

    def quantile_bounds(self, q: ArrayLike, confidence: float = 0.99) -> tuple[Any, Any]:
        """Two values kept, with the true q-quantile between them at this confidence for any one q.

        Parameters
        ----------
        q : number or array in [0, 1]. confidence : between 0 and 1.

        Returns
        -------
        lower and upper ends, each in the shape of q.
        """
        levels = questions.as_levels(q)
        error = self._rank_error(questions.as_confidence(confidence))
        view, cumulative = self._view()
        low = questions.least_reaching(np.maximum(levels - error, 0.0), view, cumulative)
        # With nothing thrown away the quantile itself; else its rank may be `error` more, and it lies before the
        # first value kept beyond that.
        reach = questions.least_reaching if error == 0.0 else questions.least_exceeding
        high = reach(np.minimum(levels + error, 1.0), view, cumulative)
        if error > 0.0:
            low = np.where(levels <= error, self._low(), low)
            high = np.where(levels + error >= 1.0, self._high(), high)
        return self._answer(low), self._answer(high)

    def rank(self, x: Any) -> Any:
        """The share of values at or below x, in the shape of x; ValueError when empty or x is NaN."""
        return self._answer_shares(self._ranks(x))

    def rank_bounds(self, x: Any, confidence: float = 0.99) -> tuple[Any, Any]:
        """Two shares with the true rank of x between them at this confidence for any one x.

        Parameters
        ----------
        x : value or array. confidence : between 0 and 1.

        Returns
        -------
        lower and upper ends, each in the shape of x.
        """
        share, error = self._ranks(x), self._rank_error(questions.as_confidence(confidence))
        exact = (share == 0.0) & self._below_all(x) | (share == 1.0)
        low = np.where(exact, share, np.maximum(share - error, 0.0))
        high = np.where(exact, share, np.minimum(share + error, 1.0))
        return self._answer_shares(low), self._answer_shares(high)

    def to_bytes(self) -> bytes:
        """The whole state, the random numbers included, with a version and a checksum."""
        return seal(self._kind, VERSION, self._native.save())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote, by this or an older version.

        Raises
        ------
        ValueError : another sketch or none at all, a newer version, truncated or damaged.
        """
        return cls._wrap(cls._type.load(open_envelope(cls._kind, VERSION, cls.__name__, data)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, count={self.count}, error_bound={self.error_bound:.4g})"

    @classmethod
    def _wrap(cls, native: Any) -> Self:
        sketch = cls.__new__(cls)
        sketch._native = native
        return sketch

    def _rank_error(self, confidence: float) -> float:
        count = self.count
        spread = math.sqrt(self._native.variance)
        return min(1.0, questions.sub_gaussian(confidence) * spread / count) if count else 0.0

    def _view(self) -> tuple[NDArray[Any], Floats]:
        if self.count == 0:
            raise ValueError("the sketch is empty; update it first")
        kept, cumulative = self._native.view()
        return np.asarray(kept), np.asarray(cumulative)

    def _ranks(self, x: Any) -> Floats:
        view, cumulative = self._view()
        points = self._points(x)
        share = questions.share_at_or_below(points, view, cumulative)
        return np.where(points < self._low(), 0.0, np.where(points >= self._high(), 1.0, share))

    def _below_all(self, x: Any) -> NDArray[np.bool_]:
        below: NDArray[np.bool_] = np.asarray(self._points(x) < self._low())
        return below

    def _points(self, x: Any) -> NDArray[Any]:
        return questions.as_points(x)

    def _low(self) -> Any:
        return self._native.minimum

    def _high(self) -> Any:
        return self._native.maximum

    def _answer(self, found: NDArray[Any]) -> Any:
        return questions.as_answer(found)

    @staticmethod
    def _answer_shares(found: NDArray[Any]) -> Any:
        return questions.as_answer(found)
