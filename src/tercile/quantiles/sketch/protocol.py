"""What every sketch of one stream can do: the protocol that tests/contracts/test_sketches.py holds each of them to."""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

from numpy.typing import ArrayLike


@runtime_checkable
class Sketch(Protocol):
    """A mergeable summary of a stream that answers quantiles and ranks, with bounds on each answer.

    The rank of x is the share of the values at or below x; the q-quantile is the least value of rank q or more.
    """

    @property
    def count(self) -> int | float:
        """How many values, or how much weight, went in."""

    @property
    def minimum(self) -> Any:
        """The least value seen, exactly."""

    @property
    def maximum(self) -> Any:
        """The largest value seen, exactly."""

    def update(self, values: ArrayLike, weights: ArrayLike | None = None) -> None:
        """Put values in; on bad input nothing goes in."""

    def merge(self, other: Self) -> Self:
        """Put in all that the other has seen, and leave it as it was; returns self."""

    def quantile(self, q: ArrayLike) -> Any:
        """An estimate of the q-quantile, in the shape of q."""

    def rank(self, x: ArrayLike) -> Any:
        """An estimate of the rank of x, in the shape of x."""

    def cdf(self, points: ArrayLike) -> Any:
        """`rank` at each of the points, as an array."""

    def quantile_bounds(self, q: ArrayLike, confidence: float = 0.99) -> tuple[Any, Any]:
        """Two values with the true q-quantile between them, at this confidence for any one question."""

    def rank_bounds(self, x: ArrayLike, confidence: float = 0.99) -> tuple[Any, Any]:
        """Two shares with the true rank of x between them, at this confidence for any one question."""

    def to_bytes(self) -> bytes:
        """The whole state, with a version and a checksum."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote, by this or an older version; ValueError for anything else."""
