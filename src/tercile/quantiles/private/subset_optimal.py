"""Private mean, quantile and l_p centre with an error that fits the data at hand, not the worst data there could be.

Global sensitivity pays for a record that could appear anywhere in the domain. The standard here is one that knows the
data set beforehand and need only cope with the *removal* of some of its records: the error has to be about what
leaving out a few of the most extreme ones does to the answer. Two steps reach it. First a private radius around a
private centre, outside of which only a few records lie; they are pulled in to the edge. Then the inverse-sensitivity
mechanism within: candidate y scores the number of records that would have to be added or removed for y to be the
exact answer. Both steps are exponential mechanisms on whole numbers.

Source: Dick, Kulesza, Sun & Suresh 2023, arXiv 2303.01262 (the standard, thresholds, inverse sensitivity for monotone
properties). Shares of the budget, the count outside, and the exact arithmetic are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from tercile.quantiles.private.budget import Cost, PrivacyBudget, charge, exponential_steps, one_of
from tercile.quantiles.private.domain import Domain, checked_values, domain_from
from tercile.quantiles.private.exponential import MOST, SLACK, draw_rank, draw_step
from tercile.quantiles.private.many import checked_levels
from tercile.quantiles.private.power_sums import PowerSums
from tercile.quantiles.private.prior import Cauchy, LogUniform, measure_of
from tercile.quantiles.private.randomness import Randomness, randomness_from

#: Shares of epsilon for the centre, the scale, the radius and the answer.
SHARES = (0.08, 0.07, 0.4, 0.45)
#: Records that should lie outside of the radius, times epsilon of the radius' share.
OUTSIDE = 6.0
MOST_POWER = 8


@dataclass(frozen=True)
class _Plan:
    """Epsilon of each of the four steps, and what they cost together."""

    steps: tuple[float, ...]
    cost: Cost

    @property
    def answer(self) -> float:
        """Epsilon of the last step."""
        return self.steps[-1]


def subset_optimal_mean(
    values: ArrayLike,
    domain: Domain | tuple[float, float],
    *,
    epsilon: float | None = None,
    rho: float | None = None,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> float:
    """A private mean whose error is about what leaving out the most extreme records would change.

    Parameters
    ----------
    values
        (n,) finite numbers. Clipped to the domain.
    domain
        Where values may lie; chosen without looking at them. A thousand times too wide costs next to nothing.
    epsilon, rho, budget, random_state
        As in `private_quantile`.

    Notes
    -----
    *Neighbours*: one record added or removed; n is not taken as known. *Sensitivity*: 1 for the count outside of the
    radius and for the number of edits, 1/2 for the two medians. *Accounting*: four exponential mechanisms. Error: from
    pulling in some 15/epsilon records, and noise of about 4.4 radius/(n epsilon). Cost: a sort, and 240/epsilon edits
    by bisection at some 0.2 ms each.

    Examples
    --------
    >>> x = np.random.default_rng(0).lognormal(size=20_000)
    >>> round(float(x.mean()), 2), round(subset_optimal_mean(x, (0, 1e9), epsilon=1.0, random_state=1), 2)
    (1.64, 1.63)
    """
    return subset_optimal_center(
        values, domain, power=2, epsilon=epsilon, rho=rho, budget=budget, random_state=random_state
    )


def subset_optimal_center(
    values: ArrayLike,
    domain: Domain | tuple[float, float],
    *,
    power: int,
    epsilon: float | None = None,
    rho: float | None = None,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> float:
    """The private minimiser of the l_p norm of `values - y`: the median at power 1, the mean at 2, towards the
    middle of the range as it grows.

    Parameters
    ----------
    power
        A whole number from 1 to 8: then every comparison is exact.
    values, domain, epsilon, rho, budget, random_state
        As in `subset_optimal_mean`.

    Raises
    ------
    ValueError, TypeError
        Bad input, by name.

    Notes
    -----
    *Neighbours*, *sensitivity*, *accounting*: as in `subset_optimal_mean`. The minimiser is where the sum of
    sign(y - x) |y - x|^(p-1) over records changes its sign. That is a whole number here, and grows with y and falls
    with x, so the fewest edits that move the change beyond y are to drop the records that are farthest away on one
    side or to add some at the edge on the other.

    Examples
    --------
    >>> x = np.random.default_rng(0).exponential(size=20_000)
    >>> [round(subset_optimal_center(x, (0, 1e6), power=p, epsilon=1.0, random_state=1), 1) for p in (1, 2, 3)]
    [0.7, 1.0, 1.3]
    """
    if isinstance(power, bool) or not isinstance(power, (int, np.integer)) or not 1 <= power <= MOST_POWER:
        raise ValueError(f"power must be a whole number from 1 to {MOST_POWER}, got {power!r}")
    numbers, where, randomness = checked_values(values), domain_from(domain), randomness_from(random_state)
    plan = _planned(epsilon, rho)
    charge(budget, f"subset_optimal_center (power {power})" if power != 2 else "subset_optimal_mean", plan.cost)
    low, high = _range(numbers, where, plan, Fraction(1, 2), randomness)
    inside = np.clip(np.sort(where.centers_of(numbers)), low, high)
    rate = (plan.answer - SLACK) / 2.0
    most = math.ceil(MOST / rate)
    sums = PowerSums(inside, int(power) - 1)
    # A cell further than reachable, so that an answer between two cells has both.
    ups = np.minimum(sums.upper_edges(high, most) + 1, high)
    # The other side is the same on the mirror image.
    mirrored = PowerSums((low + high) - inside[::-1], int(power) - 1)
    downs = (low + high) - mirrored.upper_edges(high, most, low=low)
    edges = np.concatenate([downs[::-1], ups + 1])
    scores = np.concatenate([np.arange(downs.size - 1, 0, -1), [0], np.arange(1, ups.size)])
    edges[0], edges[-1] = low, high + 1
    edges = np.maximum.accumulate(edges)
    cell = draw_step(edges, np.minimum(scores, most), rate, measure_of(None, where), randomness)
    return float(where.points_of(cell))


def subset_optimal_quantile(
    values: ArrayLike,
    q: float,
    domain: Domain | tuple[float, float],
    *,
    epsilon: float | None = None,
    rho: float | None = None,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> float:
    """A private quantile that looks only where the data are, found privately first.

    As `private_quantile`, but in a domain of absurd width, or without any idea of the scale, the answer is not drawn
    to the empty far side: the logarithm of the width is paid once, in log scales, for the radius.

    Parameters
    ----------
    values, q, domain, epsilon, rho, budget, random_state
        As in `private_quantile`.

    Notes
    -----
    *Neighbours*: one record added or removed. *Sensitivity*: as there for the range; max(q, 1-q) for the quantile,
    whose rank score is its inverse sensitivity. *Accounting*: four exponential mechanisms.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(5, 1, 20_000)
    >>> round(subset_optimal_quantile(x, 0.9, (-1e9, 1e9), epsilon=1.0, random_state=1), 1)
    6.3
    """
    level = checked_levels(q)[0]
    numbers, where, randomness = checked_values(values), domain_from(domain), randomness_from(random_state)
    plan = _planned(epsilon, rho)
    charge(budget, "subset_optimal_quantile", plan.cost)
    low, high = _range(numbers, where, plan, level, randomness)
    cells = np.sort(np.clip(where.cells_of(numbers, randomness), low, high))
    sensitivity = max(level, 1 - level)
    measure = measure_of(None, where)
    cell = draw_rank(cells, level * cells.size, sensitivity, plan.answer, measure, (low, high), randomness)
    return float(where.values_of(cell))


def _planned(epsilon: float | None, rho: float | None) -> _Plan:
    if one_of(epsilon, rho) == "epsilon":
        _, cost = exponential_steps(epsilon, None)
        parts = tuple(share * cost.epsilon for share in SHARES)
        return _Plan(parts, Cost(cost.epsilon, sum(part * part for part in parts) / 8.0))
    whole, _ = exponential_steps(None, rho)
    # Squares add up in this accounting; the steps keep their proportions.
    scale = whole / math.sqrt(sum(share * share for share in SHARES))
    parts = tuple(share * scale for share in SHARES)
    assert rho is not None
    return _Plan(parts, Cost(sum(parts), float(rho)))


def _range(
    numbers: np.ndarray, domain: Domain, plan: _Plan, level: Fraction, randomness: Randomness
) -> tuple[int, int]:
    """First and last cell of the private range: about OUTSIDE/epsilon records are further from the centre.

    The centre is a quantile, and the scale the median distance from it; neither has more to go by than its size, so
    their priors are log-uniform, and they can afford it, being in the middle of the data. The radius is in the
    tail, where a few records are all that keeps it from going astray. Its prior is a Cauchy of that scale: going a
    thousand times too far is then as unlikely as it is harmful.
    """
    for_centre, for_scale, for_radius, _ = plan.steps
    width = domain.upper - domain.lower
    whole = (0, domain.cells - 1)
    zero = min(max(0.0, domain.lower), domain.upper)
    around_zero = measure_of(LogUniform(zero, domain.width_of_step, width), domain)
    from_zero = measure_of(LogUniform(domain.lower, domain.width_of_step, width), domain)
    cells = np.sort(domain.cells_of(numbers, randomness))
    n = cells.size
    side = max(level, 1 - level)
    centre = draw_rank(cells, level * n, side, for_centre, around_zero, whole, randomness)
    distances = np.sort(np.abs(cells - centre))
    half = Fraction(1, 2)
    typical = draw_rank(distances, half * n, half, for_scale, from_zero, whole, randomness)
    scale = max(typical, domain.cells_per_step) / domain.cells_per_step * domain.width_of_step
    away = measure_of(Cauchy(domain.lower, scale), domain)
    # Rank n - k from below: one record more changes it, or the number below, by one.
    target = Fraction(n - min(math.ceil(OUTSIDE / for_radius), n))
    radius = draw_rank(distances, target, Fraction(1), for_radius, away, whole, randomness)
    return max(0, centre - radius), min(domain.cells - 1, centre + radius)


def removal_effect(values: ArrayLike, count: int, power: int = 2) -> float:
    """By how much leaving out at most `count` records can change the l_p centre: the standard to compare with.

    Not private: for experiments. For a mean or a median the worst records to leave out are at one end.

    >>> removal_effect([0.0, 0.0, 0.0, 4.0], 1)
    1.0
    """
    x = np.sort(checked_values(values))
    if not 0 <= count < x.size:
        raise ValueError(f"count must be at least 0 and below {x.size}, got {count}")
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")
    of = np.mean if power == 2 else np.median
    return float(max(abs(of(x[: x.size - count]) - of(x)), abs(of(x[count:]) - of(x))))
