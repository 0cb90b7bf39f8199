"""What sketches of one stream do alike: refuse to merge what does not fit, and the answers that follow from others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from tercile.quantiles.sketch import incoming, questions
from tercile.quantiles.sketch.incoming import MOST_COUNT, NanPolicy
from tercile.quantiles.sketch.questions import Floats


class AnySketch(ABC):
    """A sketch of one stream; `_same` names what two sketches must agree on to be merged."""

    __slots__ = ()
    _same: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def count(self) -> int | float:
        """How many values, or how much weight, went in."""

    @abstractmethod
    def rank(self, x: Any) -> Any:
        """The share of values at or below x."""

    @abstractmethod
    def copy(self) -> Self:
        """A sketch that goes on independently."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The whole state with a version and a checksum."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Put in another that fits, which may be this one."""

    def merge(self, other: Self) -> Self:
        """Put in all that another sketch of the same kind has seen; returns self. The other is left as it was.

        Raises
        ------
        TypeError, ValueError : another kind of sketch, or one made with another accuracy.
        """
        if type(other) is not type(self):
            raise TypeError(f"can only merge a {type(self).__name__}, got {type(other).__name__}")
        for name in self._same:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"both sketches must have the same {name}, got {ours} and {theirs}")
        self._room_for(other.count)
        self._merge(other)
        return self

    def __or__(self, other: Self) -> Self:
        """A new sketch of what both have seen."""
        return self.copy().merge(other)

    def cdf(self, points: Any) -> Floats:
        """`rank` at each of the points, as an array."""
        return np.atleast_1d(np.asarray(self.rank(points), dtype=np.float64))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def _room_for(self, more: int | float) -> None:
        if self.count + more > MOST_COUNT:
            raise ValueError(f"the count must stay below {MOST_COUNT}, got {more} more on top of {self.count}")


class RealSketch(AnySketch):
    """A sketch of doubles with weights that may be any positive numbers."""

    __slots__ = ()

    @abstractmethod
    def _feed(self, values: Floats, weights: Floats | None) -> None:
        """Put in values that are none of them NaN."""

    @abstractmethod
    def _quantile_bounds(self, levels: Floats) -> tuple[Floats, Floats]:
        """Two values with the quantile between them, always."""

    @abstractmethod
    def _rank_bounds(self, points: Floats) -> tuple[Floats, Floats]:
        """Two shares with the rank between them, always."""

    def update(self, values: Any, weights: ArrayLike | None = None, *, nan_policy: NanPolicy = "raise") -> None:
        """Put values in.

        Parameters
        ----------
        values : numbers in any array that `KLL.update` takes; float64 is read where it lies.
        weights : positive numbers of the same shape. nan_policy : "raise", or "omit" to leave NaN and nulls out.

        Raises
        ------
        ValueError, TypeError : NaN (named by its index), weights that are not positive; nothing was put in.

        Cost: reading the values once, or sorting each few thousand of them.
        """
        if weights is None:
            pieces = incoming.floats(values, nan_policy)
            self._room_for(sum(piece.size for piece in pieces))
            for piece in pieces:
                self._feed(piece.astype(np.float64, copy=False), None)
            return
        flat, weight = incoming.weighted(values, weights, nan_policy, whole=False)
        self._room_for(float(weight.sum()))
        self._feed(flat, weight)

    def quantile_bounds(self, q: ArrayLike, confidence: float = 0.99) -> tuple[Any, Any]:
        """Two values with the true q-quantile between them, always, whatever the confidence."""
        questions.as_confidence(confidence)
        low, high = self._quantile_bounds(questions.as_levels(q))
        return questions.as_answer(low), questions.as_answer(high)

    def rank_bounds(self, x: ArrayLike, confidence: float = 0.99) -> tuple[Any, Any]:
        """Two shares with the true rank of x between them, always, whatever the confidence."""
        questions.as_confidence(confidence)
        low, high = self._rank_bounds(questions.as_points(x))
        return questions.as_answer(low), questions.as_answer(high)
