"""Other bins for the same data: fewer, coarser, a part of the range; and many histograms in one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from tercile.quantiles.sketch.histograms.histogram import Histogram


def merge(histograms: Iterable[Histogram], name: str | None = None) -> Histogram:
    """All that histograms of the same breaks have counted.

    Parameters
    ----------
    histograms : one or more. name : of the result.

    Raises
    ------
    ValueError : none, or of different breaks.

    Examples
    --------
    >>> parts = [Histogram.from_values(part, [0, 1, 2, 3]) for part in ([0.5, 1.5], [2.5], [2.7, 0.1])]
    >>> merge(parts).counts
    array([2, 1, 2])
    """
    parts = list(histograms)
    if not parts:
        raise ValueError("histograms must be one or more")
    for part in parts[1:]:
        parts[0].check_same_bins(part)
    counts = reduce(np.add, (part.counts for part in parts))
    return Histogram(parts[0].breaks, counts, parts[0].closed, name)


def rebin(histogram: Histogram, breaks: int | ArrayLike) -> Histogram:
    """Coarser bins, without loss of exactness: neighbouring bins are put together.

    Parameters
    ----------
    histogram : Histogram. breaks : some of its breaks, its ends among them; or how many bins to have at most, each of
    as many old ones but the last.

    Raises
    ------
    ValueError : a break that it does not have, or an end is missing.

    Examples
    --------
    >>> h = Histogram([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    >>> rebin(h, [0, 2, 5]).counts, rebin(h, 3).breaks
    (array([ 3, 12]), array([0., 2., 4., 5.]))
    """
    if isinstance(breaks, (int, np.integer)):
        if not 1 <= breaks <= histogram.counts.size:
            raise ValueError(f"breaks must be 1 to {histogram.counts.size} bins, got {breaks}")
        together = -(-histogram.counts.size // int(breaks))
        breaks = np.append(histogram.breaks[:-1][::together], histogram.breaks[-1])
    wanted = np.asarray(breaks, dtype=np.float64)
    at = _places(histogram, wanted)
    if at[0] != 0 or at[-1] != histogram.counts.size:
        raise ValueError(
            f"breaks must begin and end where the histogram does, at {histogram.breaks[0]:g} and "
            f"{histogram.breaks[-1]:g}; take the part with subset first"
        )
    counts = np.add.reduceat(histogram.counts, at[:-1])
    return Histogram(histogram.breaks[at], counts, histogram.closed, histogram.name)


def subset(histogram: Histogram, low: float | None = None, high: float | None = None) -> Histogram:
    """The bins between two of the breaks.

    Parameters
    ----------
    histogram : Histogram. low, high : breaks of it, or None for its end.

    Raises
    ------
    ValueError : not a break, or not in order.

    Notes
    -----
    An inner break becomes an outermost one. A value equal to it may have been counted on the side that is cut off.

    Examples
    --------
    >>> subset(Histogram([0, 1, 2, 3], [5, 6, 7]), low=1).counts
    array([6, 7])
    """
    ends = np.array(
        [histogram.breaks[0] if low is None else low, histogram.breaks[-1] if high is None else high], dtype=np.float64
    )
    start, stop = _places(histogram, ends)
    return Histogram(histogram.breaks[start : stop + 1], histogram.counts[start:stop], histogram.closed, histogram.name)


def trim(histogram: Histogram, *, left: bool = True, right: bool = True) -> Histogram:
    """Without the empty bins at either end; one with nothing in it is returned as it is.

    Examples
    --------
    >>> trim(Histogram([0, 1, 2, 3, 4], [0, 6, 0, 0])).breaks
    array([1., 2.])
    """
    some = np.flatnonzero(histogram.counts)
    if some.size == 0:
        return histogram
    start = int(some[0]) if left else 0
    stop = int(some[-1]) + 1 if right else histogram.counts.size
    return Histogram(histogram.breaks[start : stop + 1], histogram.counts[start:stop], histogram.closed, histogram.name)


def common_bins(one: Histogram, other: Histogram) -> tuple[Histogram, Histogram]:
    """Both with the finest bins that they share: what their distances and their merging need.

    Raises
    ------
    ValueError : they have fewer than two breaks in common, count outside these, or are closed on different sides.

    Examples
    --------
    >>> a, b = common_bins(Histogram([0, 1, 2, 4], [1, 2, 3]), Histogram([0, 2, 3, 4], [4, 5, 6]))
    >>> a.breaks, a.counts, b.counts
    (array([0., 2., 4.]), array([3, 3]), array([ 4, 11]))
    """
    shared = np.intersect1d(one.breaks, other.breaks)
    if shared.size < 2:
        raise ValueError("the histograms must share two or more breaks")
    found = []
    for histogram in (one, other):
        part = subset(histogram, shared[0], shared[-1])
        if part.count != histogram.count:
            raise ValueError(f"{histogram} counts values outside the breaks that both share")
        found.append(rebin(part, shared))
    found[0].check_same_bins(found[1])
    return found[0], found[1]


def _places(histogram: Histogram, breaks: np.ndarray) -> np.ndarray:
    """Where breaks stand among those of the histogram; checks that they do."""
    if breaks.ndim != 1 or breaks.size < 2 or not (np.diff(breaks) > 0.0).all():
        raise ValueError(f"breaks must be two or more, each above the one before, got {breaks.tolist()}")
    at = np.minimum(np.searchsorted(histogram.breaks, breaks), histogram.counts.size)
    wrong = histogram.breaks[at] != breaks
    if wrong.any():
        nearest = histogram.breaks[np.abs(histogram.breaks - breaks[wrong][0]).argmin()]
        raise ValueError(
            f"breaks must be breaks of the histogram, got {breaks[wrong][0]:g}; the nearest is {nearest:g}"
        )
    return at
