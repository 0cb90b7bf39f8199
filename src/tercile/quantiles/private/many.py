"""One quantile, and many of them by recursion, by the exponential mechanism on the line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.private.budget import PrivacyBudget, charge, exponential_steps
from tercile.quantiles.private.domain import Domain, checked_values, domain_from
from tercile.quantiles.private.exponential import draw_rank
from tercile.quantiles.private.prior import Measure, Prior, checked_priors, measure_of
from tercile.quantiles.private.randomness import Integers, Randomness, randomness_from

#: Levels are fractions with denominators up to this, so that scores fit 64 bits for 10^9 records.
_FINEST = 1_000_000_000


def private_quantile(
    values: ArrayLike,
    q: float,
    domain: Domain | tuple[float, float],
    *,
    epsilon: float | None = None,
    rho: float | None = None,
    prior: Prior | None = None,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> float:
    """One private quantile, drawn from the whole domain: no candidates, no starting point.

    Parameters
    ----------
    values
        (n,) finite numbers. Clipped to the domain.
    q
        From 0 to 1. For 0 (or 1) anything below (or above) all values is a right answer; ask for 1/n to get a
        value near the least.
    domain
        Where values may lie; chosen without looking at them.
    epsilon, rho
        Exactly one: pure or zero-concentrated privacy.
    prior
        Where the quantile probably is; public. By default uniform.
    budget
        Charged before anything is read.
    random_state
        None on data that matter.

    Returns
    -------
    float
        A value of the domain, on its steps.

    Raises
    ------
    ValueError, TypeError
        Bad input, by name; `BudgetExceeded` if the budget cannot pay.

    Notes
    -----
    *Neighbours*: one record added or removed (one record *changed* counts as two). *Sensitivity*: the score of y is
    |(1-q) #{values below y} - q #{values above y}| (zero across ties that hold the quantile), which one record
    changes by at most max(q, 1-q). *Accounting*: one exponential mechanism: epsilon, and epsilon^2/8 in rho.
    With probability 1-b the rank is off by at most 2 max(q, 1-q)/epsilon * log(1/(b m)), m being the prior's mass
    of the cells with the right rank. Cost: a sort, and 65 us a thousand ranks within reach.
    Source: Smith 2011; exact sampling and ties are this project's (docs/decisions/0019).

    Examples
    --------
    >>> heights = np.random.default_rng(0).normal(170, 10, 5000)
    >>> round(private_quantile(heights, 0.5, (0, 300), epsilon=1.0, random_state=1), 1)
    169.7
    """
    released = _released(values, [q], domain, epsilon, rho, [prior], budget, random_state, "private_quantile")
    return float(released[0])


def private_quantiles(
    values: ArrayLike,
    q: Sequence[float] | NDArray[np.float64],
    domain: Domain | tuple[float, float],
    *,
    epsilon: float | None = None,
    rho: float | None = None,
    priors: Prior | Sequence[Prior | None] | None = None,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """Many private quantiles by recursion: the middle one first, then each half by itself.

    A record is in one half only, so all quantiles of one depth cost what one does, and m quantiles cost
    ceil(log2(m + 1)) exponential mechanisms instead of m. Answers come out in order.

    Parameters
    ----------
    values
        (n,) finite numbers. Clipped to the domain.
    q
        (m,) levels from 0 to 1, in any order, repeats allowed.
    domain
        Where values may lie; chosen without looking at them.
    epsilon, rho
        Exactly one, for all quantiles together.
    priors
        One for all, or one for each level, in the order of `q`; public. See `fit_priors` and `OnlinePriors`.
    budget, random_state
        As in `private_quantile`.

    Returns
    -------
    (m,) float64
        In the order of `q`; never a higher quantile below a lower one.

    Notes
    -----
    *Neighbours*: one record added or removed. *Sensitivity*: as in `private_quantile`, for the level relative to the
    part of the data between the answers already out; a record changes one part a depth. *Accounting*: one
    exponential mechanism a depth, the budget in equal shares. Cost: one sort, then as `private_quantile` for each.
    Source: Kaplan, Schnapp & Stemmer 2022, arXiv 2110.05429; its statistics: Lalanne, Garivier & Gribonval 2023,
    arXiv 2302.06943; priors: Khodak et al. 2023, arXiv 2210.11222.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=10_000)
    >>> private_quantiles(x, [0.25, 0.5, 0.75], (-100, 100), epsilon=1.0, random_state=1).round(2).tolist()
    [-0.67, -0.01, 0.69]
    """
    levels = checked_levels(q)
    prior_of_each = checked_priors(priors, len(levels))
    return _released(values, levels, domain, epsilon, rho, prior_of_each, budget, random_state, "private_quantiles")


def checked_levels(q: Any, name: str = "q") -> list[Fraction]:
    """Levels as the decimals they are written as, each from 0 to 1.

    >>> checked_levels([0.1, 0.5])
    [Fraction(1, 10), Fraction(1, 2)]
    """
    array = np.atleast_1d(np.asarray(q))
    if array.dtype.kind not in "iuf" or array.ndim != 1:
        raise TypeError(f"{name} must be numbers from 0 to 1, got {q!r}")
    if array.size == 0:
        raise ValueError(f"{name} is empty; ask for at least one level")
    bad = ~((array >= 0) & (array <= 1))
    if bad.any():
        first = float(array[bad][0])
        hint = f"; write {first / 100:g}" if 1 < first <= 100 else ""
        raise ValueError(f"{name} must be from 0 to 1, got {first:g}{hint}")
    return [Fraction(repr(float(each))).limit_denominator(_FINEST) for each in array.tolist()]


def _released(
    values: ArrayLike,
    q: Sequence[Any],
    domain: Domain | tuple[float, float],
    epsilon: float | None,
    rho: float | None,
    priors: Sequence[Prior | None],
    budget: PrivacyBudget | None,
    random_state: int | np.random.Generator | None,
    what: str,
) -> NDArray[np.float64]:
    levels = q if isinstance(q[0], Fraction) else checked_levels(q)
    numbers, where = checked_values(values), domain_from(domain)
    randomness = randomness_from(random_state)
    order = sorted(set(levels))
    measures = {
        level: measure_of(prior, where) for level, prior in reversed(list(zip(levels, priors)))
    }  # of levels asked for twice, the first one's prior
    depth = math.ceil(math.log2(len(order) + 1))
    step, cost = exponential_steps(epsilon, rho, depth)
    charge(budget, what, cost)
    cells = np.sort(where.cells_of(numbers, randomness))
    out: dict[Fraction, int] = {}
    _recurse(cells, order, (Fraction(0), Fraction(1)), (0, where.cells - 1), step, measures, randomness, out)
    return where.values_of([out[level] for level in levels])


def _recurse(
    ordered: Integers,
    levels: list[Fraction],
    known: tuple[Fraction, Fraction],
    within: tuple[int, int],
    epsilon: float,
    measures: dict[Fraction, Measure],
    randomness: Randomness,
    out: dict[Fraction, int],
) -> None:
    """Puts a cell for each level into `out`: `ordered` are the records between the levels `known`."""
    if not levels:
        return
    middle = levels[len(levels) // 2]
    low, high = known
    # Levels 0 and 1 may themselves be asked for; nothing lies beyond them.
    share = ((middle - low) / (high - low)).limit_denominator(_FINEST) if high > low else Fraction(1, 2)
    cell = draw_rank(
        ordered, share * ordered.size, max(share, 1 - share), epsilon, measures[middle], within, randomness
    )
    out[middle] = cell
    # Records on the cell itself belong to neither side; cells are so fine that there is hardly ever one.
    left = ordered[: np.searchsorted(ordered, cell, side="left")]
    right = ordered[np.searchsorted(ordered, cell, side="right") :]
    at = len(levels) // 2
    shared = (epsilon, measures, randomness, out)
    _recurse(left, levels[:at], (low, middle), (within[0], cell), *shared)
    _recurse(right, levels[at + 1 :], (middle, high), (cell, within[1]), *shared)
