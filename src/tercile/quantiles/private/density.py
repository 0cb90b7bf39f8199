"""Many quantiles through the density: a private histogram, whose every quantile is then free."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.private.budget import Cost, PrivacyBudget, charge, checked_positive, one_of
from tercile.quantiles.private.domain import Domain, checked_values, domain_from
from tercile.quantiles.private.many import checked_levels
from tercile.quantiles.private.randomness import (
    LARGEST_VARIANCE,
    Integers,
    Randomness,
    discrete_gaussian,
    discrete_laplace,
    laplace_scale,
    randomness_from,
)

MOST_BINS = 1 << 16


@dataclass(frozen=True)
class PrivateHistogram:
    """A released histogram. Public: anything may be computed from it, as often as wanted.

    Attributes
    ----------
    edges
        (bins + 1,) ascending.
    counts
        (bins,) estimated numbers of records, none negative.
    noisy
        (bins,) what was released: counts with noise, before negative ones were put right.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    noisy: Integers

    @property
    def total(self) -> float:
        """Estimated number of records."""
        return float(self.counts.sum())

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """Share of records at or below x, linear within a bin."""
        below = np.concatenate([[0.0], np.cumsum(self.counts)])
        return np.interp(np.asarray(x, dtype=np.float64), self.edges, below / below[-1])

    def quantile(self, q: ArrayLike) -> NDArray[np.float64]:
        """The values with shares q of the records below them, linear within a bin.

        Raises
        ------
        ValueError, TypeError
            `q` is empty or outside [0, 1].
        """
        levels = np.array([float(level) for level in checked_levels(q)])
        below = np.concatenate([[0.0], np.cumsum(self.counts)]) / self.total
        # The last edge at or before each level, so that empty bins are stepped over.
        at = np.clip(np.searchsorted(below, levels, side="left"), 1, self.counts.size)
        share = (levels - below[at - 1]) / np.maximum(below[at] - below[at - 1], 1e-300)
        return self.edges[at - 1] + np.clip(share, 0.0, 1.0) * (self.edges[at] - self.edges[at - 1])


def private_histogram(
    values: ArrayLike,
    domain: Domain | tuple[float, float],
    *,
    epsilon: float | None = None,
    rho: float | None = None,
    bins: int | None = None,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> PrivateHistogram:
    """Counts of equal bins with noise: the density route to many quantiles.

    Its cost does not depend on how many quantiles are read off afterwards. `private_quantiles` is sharper for a
    handful; past some dozens, the more the smaller epsilon is, this is.

    Parameters
    ----------
    values
        (n,) finite numbers. Clipped to the domain.
    domain
        Where values may lie; chosen without looking at them. Unlike in `private_quantiles` a wide one hurts, since
        bins are equal.
    epsilon, rho
        Exactly one: discrete Laplace noise (pure), or discrete Gaussian noise (zero-concentrated).
    bins
        1 to 65,536. By default 4 (n epsilon)^(2/5), which balances noise against the coarseness of a smooth
        density; n is then itself released for a twentieth of the budget.
    budget, random_state
        As in `private_quantile`.

    Returns
    -------
    PrivateHistogram

    Notes
    -----
    *Neighbours*: one record added or removed. *Sensitivity*: 1, since one count changes by 1. *Accounting*:
    epsilon-private with noise of scale 1/epsilon, or rho-zCDP with variance 1/(2 rho). Negative counts are put right
    by the nearest point (least squares) with no negative count and the same sum, which is free.
    Source: Lalanne, Garivier & Gribonval 2023, arXiv 2302.06943 (histograms for quantiles).

    Examples
    --------
    >>> x = np.random.default_rng(0).beta(2, 5, 100_000)
    >>> released = private_histogram(x, (0, 1), epsilon=1.0, random_state=1)
    >>> released.quantile([0.1, 0.5, 0.9]).round(2).tolist()
    [0.09, 0.27, 0.51]
    """
    numbers, where = checked_values(values), domain_from(domain)
    randomness = randomness_from(random_state)
    if bins is not None:
        if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)):
            raise TypeError(f"bins must be a whole number or None, got {bins!r}")
        if not 1 <= bins <= min(MOST_BINS, where.steps + 1):
            raise ValueError(f"bins must be 1 to {min(MOST_BINS, where.steps + 1)}, got {bins}")
    accounting = one_of(epsilon, rho)
    amount = checked_positive(epsilon if rho is None else rho, accounting)
    cost = Cost(amount, amount * amount / 2.0) if accounting == "epsilon" else Cost(math.inf, amount)
    charge(budget, "private_histogram", cost)
    if bins is None:
        counted = int(_noise(1, accounting, amount / 20.0, randomness)[0]) + numbers.size
        amount *= 0.95
        strength = amount if accounting == "epsilon" else math.sqrt(2.0 * amount)
        wanted = 4.0 * max(counted, 1) ** 0.4 * min(strength, 1.0) ** 0.4
        bins = int(np.clip(round(wanted), 8, min(MOST_BINS, where.steps + 1)))
    cells = np.sort(where.cells_of(numbers, randomness))
    borders = [(where.cells * i) // bins for i in range(bins + 1)]
    exact = np.diff(np.searchsorted(cells, borders, side="left"))
    noisy = exact + _noise(bins, accounting, amount, randomness)
    edges = where.lower + (np.array(borders) / where.cells_per_step - 0.5) * where.width_of_step
    edges = np.clip(edges, where.lower, where.upper)
    return PrivateHistogram(edges, nearest_counts(noisy), noisy)


def _noise(size: int, accounting: str, amount: float, randomness: Randomness) -> Integers:
    if accounting == "epsilon":
        return discrete_laplace(size, laplace_scale(amount, 1), randomness)
    variance = math.ceil(1.0 / (2.0 * amount))
    if variance > LARGEST_VARIANCE:
        raise ValueError(f"rho must be at least {1.0 / (2 * LARGEST_VARIANCE):.1e}, got {amount}")
    return discrete_gaussian(size, variance, randomness)


def nearest_counts(noisy: Integers) -> NDArray[np.float64]:
    """The nearest counts, by least squares, that are not negative and have the same sum (at least 1).

    All are lowered by one amount, and what falls below 0 is 0; the amount makes the sum right. Clipping alone would
    add the positive half of the noise of every empty bin.

    >>> nearest_counts(np.array([5, -3, 4])).tolist()
    [3.5, 0.0, 2.5]
    """
    total = max(float(noisy.sum()), 1.0)
    falling = np.sort(noisy)[::-1].astype(np.float64)
    amount = (np.cumsum(falling) - total) / np.arange(1, noisy.size + 1)
    kept = int(np.flatnonzero(falling > amount)[-1])
    return np.maximum(noisy - amount[kept], 0.0)
