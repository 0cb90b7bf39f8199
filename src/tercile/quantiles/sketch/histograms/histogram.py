"""A histogram as a summary of data that is gone: what it says about them for sure, and what it only suggests.

The functions of the R package HistogramTools (Stokely) on one frozen type. A bin tells how many values it got, not
where in it they lie: every answer about ranks and quantiles therefore comes with the two bounds that the bins give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.questions import Floats

Closed = Literal["right", "left"]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts between breaks.

    Parameters
    ----------
    breaks : (bins + 1,), finite, each above the one before.
    counts : (bins,), not negative: numbers of values, or any weight.
    closed : which end of a bin belongs to it: "right" as in R, "left" as in numpy. The outermost breaks belong to the
        outermost bins either way.
    name : what it is called, or None.

    Raises
    ------
    ValueError, TypeError : they do not fit together; the message says how.

    Examples
    --------
    >>> h = Histogram([0.0, 1.0, 2.0, 4.0], [1, 2, 1])
    >>> h.count, h.quantile(0.5), h.quantile_bounds(0.5), h.cdf_bounds(1.5)
    (4, 1.5, (1.0, 2.0), (0.25, 0.75))
    """

    breaks: Floats
    counts: NDArray[Any]
    closed: Closed = "right"
    name: str | None = None

    def __post_init__(self) -> None:
        breaks = np.array(self.breaks, dtype=np.float64)
        if breaks.ndim != 1 or breaks.size < 2:
            raise ValueError(f"breaks must be a row of two or more numbers, got shape {breaks.shape}")
        if not np.isfinite(breaks).all() or not (np.diff(breaks) > 0.0).all():
            raise ValueError("breaks must be finite and each above the one before")
        counts = np.array(self.counts)
        if counts.dtype.kind not in "iuf":
            raise TypeError(f"counts must be numbers, got an array of {counts.dtype}")
        if counts.shape != (breaks.size - 1,):
            raise ValueError(f"counts must be one for each of the {breaks.size - 1} bins, got shape {counts.shape}")
        if not np.isfinite(counts).all() or (counts < 0).any():
            raise ValueError(f"counts must be finite and not negative, got {counts.min()}")
        counts = counts.astype(np.int64 if counts.dtype.kind in "iu" else np.float64)
        if self.closed not in ("right", "left"):
            raise ValueError(f"closed must be 'right' or 'left', got {self.closed!r}")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be text or None, got {self.name!r}")
        breaks.flags.writeable = counts.flags.writeable = False
        object.__setattr__(self, "breaks", breaks)
        object.__setattr__(self, "counts", counts)

    @classmethod
    def from_values(
        cls, values: ArrayLike, breaks: int | ArrayLike = 100, *, closed: Closed = "right", name: str | None = None
    ) -> Self:
        """Count values.

        Parameters
        ----------
        values : numbers of any shape. breaks : the breaks, or how many bins of equal width from the least value to
        the largest. closed, name : as above.

        Raises
        ------
        ValueError : NaN, a value outside the breaks, or none at all where the breaks are not given.

        Cost: a binary search for each value.
        """
        array = np.asarray(values, dtype=np.float64).reshape(-1)
        if np.isnan(array).any():
            raise ValueError(f"values must not hold NaN, got one at index {int(np.isnan(array).argmax())}; drop them")
        if isinstance(breaks, (int, np.integer)):
            if breaks < 1:
                raise ValueError(f"breaks must be at least 1 bin, got {breaks}")
            if array.size == 0:
                raise ValueError("values must not be empty where the breaks are to be found from them")
            breaks = np.histogram_bin_edges(array, int(breaks))
        made = cls(np.asarray(breaks), np.zeros(np.size(breaks) - 1, dtype=np.int64), closed, name)
        outside = (array < made.breaks[0]) | (array > made.breaks[-1])
        if outside.any():
            raise ValueError(f"breaks must span all values, got a value of {array[outside][0]}")
        side: Literal["left", "right"] = "left" if closed == "right" else "right"
        index = np.clip(np.searchsorted(made.breaks, array, side=side) - 1, 0, made.counts.size - 1)
        return cls(made.breaks, np.bincount(index, minlength=made.counts.size), closed, name)

    @classmethod
    def from_numpy(cls, counts: ArrayLike, edges: ArrayLike, name: str | None = None) -> Self:
        """What `numpy.histogram` returned: ``Histogram.from_numpy(*np.histogram(values))``."""
        return cls(np.asarray(edges), np.asarray(counts), "left", name)

    def to_numpy(self) -> tuple[NDArray[Any], Floats]:
        """Counts and edges in numpy's order; which end a bin includes is not told."""
        return self.counts, self.breaks

    @property
    def count(self) -> Any:
        """How many values, or how much weight."""
        return self.counts.sum().item()

    @property
    def mids(self) -> Floats:
        """(bins,): the middle of each bin."""
        return 0.5 * (self.breaks[:-1] + self.breaks[1:])

    @property
    def widths(self) -> Floats:
        """(bins,): how wide each is."""
        return np.diff(self.breaks)

    @property
    def density(self) -> Floats:
        """(bins,): share over width; ValueError when empty."""
        return self.counts / self._filled() / self.widths

    @property
    def cumulative(self) -> Floats:
        """(bins + 1,): the share up to each break; ValueError when empty."""
        return np.concatenate(([0.0], np.cumsum(self.counts))) / self._filled()

    def mean(self) -> float:
        """The mean if values lie evenly in each bin."""
        return float(self.counts @ self.mids / self._filled())

    def mean_bounds(self) -> tuple[float, float]:
        """The true mean lies between these: all values at the lower ends of their bins, all at the upper."""
        total = self._filled()
        return float(self.counts @ self.breaks[:-1] / total), float(self.counts @ self.breaks[1:] / total)

    def cdf(self, x: ArrayLike) -> Any:
        """The share at or below x if values lie evenly in each bin, in the shape of x."""
        return questions.as_answer(np.interp(questions.as_points(x), self.breaks, self.cumulative))

    def cdf_bounds(self, x: ArrayLike) -> tuple[Any, Any]:
        """The true share at or below x lies between these, always; ValueError when empty or x is NaN."""
        points, cumulative = questions.as_points(x), self.cumulative
        # Bin `index - 1` holds x. All bins before it are below, none after it is. Its own values may be on either side,
        # unless x is its upper end and belongs to it.
        side: Literal["left", "right"] = "left" if self.closed == "right" else "right"
        index = np.clip(np.searchsorted(self.breaks, points, side=side), 1, self.counts.size)
        low, high = cumulative[index - 1], cumulative[index]
        if self.closed == "right":
            low = np.where(points == self.breaks[index], high, low)
        low = np.where(points >= self.breaks[-1], 1.0, np.where(points < self.breaks[0], 0.0, low))
        high = np.where(points >= self.breaks[-1], 1.0, np.where(points < self.breaks[0], 0.0, high))
        return questions.as_answer(low), questions.as_answer(high)

    def quantile(self, q: ArrayLike) -> Any:
        """The q-quantile if values lie evenly in each bin.

        Parameters
        ----------
        q : number or array in [0, 1].

        Returns
        -------
        float, or array of the shape of q, within `quantile_bounds`.

        Raises
        ------
        ValueError : q outside [0, 1], or the histogram is empty.
        """
        levels, index, before, share = self._bin_of(q)
        part = np.clip((levels - before) / share, 0.0, 1.0)
        low, high = self.breaks[index], self.breaks[index + 1]
        return questions.as_answer(low * (1.0 - part) + high * part)

    def quantile_bounds(self, q: ArrayLike) -> tuple[Any, Any]:
        """The true q-quantile, the least value of rank q or more, lies between these, always."""
        _, index, _, _ = self._bin_of(q)
        return questions.as_answer(self.breaks[index]), questions.as_answer(self.breaks[index + 1])

    @property
    def cdf_error(self) -> float:
        """How far apart the two bounds of the CDF are at most: what the fullest bin holds (KSDCC in R)."""
        return float(self.counts.max() / self._filled())

    @property
    def area_error(self) -> float:
        """The area between the two bounds of the CDF, as a share of the range (EMDCC in R)."""
        return float(self.widths @ self.counts / self._filled() / (self.breaks[-1] - self.breaks[0]))

    def __or__(self, other: Self) -> Self:
        """A new histogram of what both have counted; ValueError unless their breaks are the same."""
        if not isinstance(other, Histogram):
            return NotImplemented
        self.check_same_bins(other)
        return type(self)(self.breaks, self.counts + other.counts, self.closed, self.name)

    def __eq__(self, other: object) -> bool:
        """Whether breaks, counts, closed ends and name are the same."""
        if not isinstance(other, Histogram):
            return NotImplemented
        same = np.array_equal(self.breaks, other.breaks) and np.array_equal(self.counts, other.counts)
        return same and (self.closed, self.name) == (other.closed, other.name)

    __hash__ = None  # type: ignore[assignment]

    def check_same_bins(self, other: Histogram) -> None:
        """ValueError unless the other has the same breaks and the same closed ends."""
        if not np.array_equal(self.breaks, other.breaks):
            raise ValueError(
                f"both histograms must have the same breaks, got {self.counts.size} bins and {other.counts.size} bins; "
                "bring them to what they share with common_bins"
            )
        if self.closed != other.closed:
            raise ValueError(f"both histograms must be closed on one side, got {self.closed!r} and {other.closed!r}")

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}, "
        return (
            f"Histogram({name}{self.counts.size} bins from {self.breaks[0]:g} to {self.breaks[-1]:g}, {self.count:g})"
        )

    def _filled(self) -> Any:
        total = self.counts.sum()
        if total == 0:
            raise ValueError("the histogram is empty")
        return total

    def _bin_of(self, q: ArrayLike) -> tuple[Floats, NDArray[np.intp], Floats, Floats]:
        """Levels, and for each the bin that it falls into, the share before that bin and the share in it."""
        levels, total = questions.as_levels(q), self._filled()
        some = np.flatnonzero(self.counts)
        # Shares are compared, not counts: 1160 / 8000 is the same number as 0.145, 0.145 * 8000 is more than 1160.
        upto = np.cumsum(self.counts)[some] / total
        at = np.minimum(np.searchsorted(upto, levels, side="left"), some.size - 1)
        index = some[at]
        before = np.where(at > 0, upto[np.maximum(at - 1, 0)], 0.0)
        return levels, index, before, upto[at] - before
