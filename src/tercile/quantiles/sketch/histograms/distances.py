"""How far two histograms of the same bins are apart.

Those that look at bins one by one (Minkowski, intersection, Kullback-Leibler, Jeffreys) are as the R package
HistogramTools has them; the Kolmogorov-Smirnov and the earth mover's distance compare the distribution functions, and
come with bounds on what the distance was between the data themselves.
"""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr

from tercile.quantiles.sketch.histograms.histogram import Histogram


def intersection(one: Histogram, other: Histogram) -> Histogram:
    """In every bin the smaller of both counts.

    Raises
    ------
    ValueError : of different bins; see `common_bins`.

    Examples
    --------
    >>> intersection(Histogram([0, 1, 2], [3, 5]), Histogram([0, 1, 2], [4, 1])).counts
    array([3, 1])
    """
    one.check_same_bins(other)
    return Histogram(one.breaks, np.minimum(one.counts, other.counts), one.closed)


def intersection_distance(one: Histogram, other: Histogram) -> float:
    """1 minus the share of the other's counts that both have; the same both ways when both count as many.

    Examples
    --------
    >>> intersection_distance(Histogram([0, 1, 2], [3, 5]), Histogram([0, 1, 2], [4, 1]))
    0.19999999999999996
    """
    shared = intersection(one, other)
    if other.count == 0:
        raise ValueError("the other histogram is empty")
    return float(1.0 - shared.count / other.count)


def minkowski(one: Histogram, other: Histogram, p: float) -> float:
    """The p-norm of the difference of the counts, p above 0.

    Examples
    --------
    >>> minkowski(Histogram([0, 1, 2], [3, 5]), Histogram([0, 1, 2], [0, 1]), 2)
    5.0
    """
    if not p > 0.0 or not np.isfinite(p):
        raise ValueError(f"p must be finite and above 0, got {p}")
    one.check_same_bins(other)
    return float((np.abs(one.counts - other.counts).astype(np.float64) ** p).sum() ** (1.0 / p))


def kullback_leibler(one: Histogram, other: Histogram) -> float:
    """The divergence of the first's shares from the other's, in nats; infinite where only the first has counts.

    Examples
    --------
    >>> round(kullback_leibler(Histogram([0, 1, 2], [1, 1]), Histogram([0, 1, 2], [1, 3])), 4)
    0.1438
    """
    return float(rel_entr(*_shares(one, other)).sum())


def jeffreys(one: Histogram, other: Histogram) -> float:
    """The divergences of both from their mean, added: 0 when equal, 2 log 2 when they share no bin.

    Examples
    --------
    >>> round(jeffreys(Histogram([0, 1, 2], [1, 0]), Histogram([0, 1, 2], [0, 9])), 4)
    1.3863
    """
    p, q = _shares(one, other)
    middle = 0.5 * (p + q)
    return float((rel_entr(p, middle) + rel_entr(q, middle)).sum())


def kolmogorov_smirnov(one: Histogram, other: Histogram) -> float:
    """The largest difference of the distribution functions at the breaks.

    Examples
    --------
    >>> kolmogorov_smirnov(Histogram([0, 1, 2], [1, 1]), Histogram([0, 1, 2], [1, 3]))
    0.25
    """
    return float(np.abs(_cdf_difference(one, other)).max())


def kolmogorov_smirnov_bounds(one: Histogram, other: Histogram) -> tuple[float, float]:
    """The distance of the data themselves lies between these: inside a bin either may come first.

    Examples
    --------
    >>> kolmogorov_smirnov_bounds(Histogram([0, 1, 2], [1, 1]), Histogram([0, 1, 2], [1, 3]))
    (0.25, 0.75)
    """
    low = kolmogorov_smirnov(one, other)
    a, b = one.cumulative, other.cumulative
    return low, float(max((a[1:] - b[:-1]).max(), (b[1:] - a[:-1]).max()))


def earth_movers(one: Histogram, other: Histogram) -> float:
    """The area between the distribution functions, values lying evenly in each bin: in the units of the values.

    Examples
    --------
    >>> earth_movers(Histogram([0, 1, 2], [4, 0]), Histogram([0, 1, 2], [0, 1]))
    1.0
    """
    difference = _cdf_difference(one, other)
    start, end = difference[:-1], difference[1:]
    both = np.abs(start) + np.abs(end)
    # A straight line from start to end encloses a trapezium with zero, or two triangles where it crosses.
    crossing = np.divide(start**2 + end**2, both, out=np.zeros_like(both), where=both > 0.0)
    return float((one.widths * 0.5 * np.where(start * end < 0.0, crossing, both)).sum())


def earth_movers_bounds(one: Histogram, other: Histogram) -> tuple[float, float]:
    """The distance of the data themselves lies between these.

    In each bin the data are no farther from lying evenly than half its width; the triangle inequality does the rest.
    """
    distance = earth_movers(one, other)
    moved = sum(0.5 * float(h.widths @ h.counts) / h.count for h in (one, other))
    return max(0.0, distance - moved), distance + moved


def _shares(one: Histogram, other: Histogram) -> tuple[np.ndarray, np.ndarray]:
    one.check_same_bins(other)
    if one.count == 0 or other.count == 0:
        raise ValueError("the histogram is empty")
    return one.counts / one.count, other.counts / other.count


def _cdf_difference(one: Histogram, other: Histogram) -> np.ndarray:
    one.check_same_bins(other)
    difference: np.ndarray = one.cumulative - other.cumulative
    return difference
