"""How private is it really? A lower bound on epsilon from an attack, to hold against what is claimed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from tercile.quantiles.private.budget import checked_positive


def audited_epsilon(
    mechanism: Callable[[Any, np.random.Generator], float],
    data: Any,
    neighbour: Any,
    *,
    runs: int = 2000,
    delta: float = 0.0,
    confidence: float = 0.999,
    random_state: int = 0,
) -> float:
    """A number that the true epsilon of a mechanism is above, with confidence: the strength of an attack on it.

    Runs the mechanism `runs` times on each of two neighbouring data sets. One half of the outcomes picks the best
    event "the outcome is at most t" or "at least t" to tell them apart; the other half bounds its two probabilities
    (Clopper-Pearson), and epsilon is at least the log of their ratio. A result above what the mechanism claims
    proves it broken. A result below proves nothing: another pair, or a cleverer event, might do better.

    Parameters
    ----------
    mechanism
        `(data set, generator) -> number`. It must draw from that generator.
    data, neighbour
        Two data sets that differ by one record, as far apart in effect as you can think of.
    runs
        On each, at least 100. With r runs nothing above about log(r/10) can be seen.
    delta
        Of an (epsilon, delta) claim; 0 for a pure one.
    confidence
        That the bound holds.
    random_state
        Seed.

    Returns
    -------
    float
        At least 0.

    Notes
    -----
    Source: the counting attack of Jagielski, Ullman & Oprea 2020, "Auditing differentially private machine learning",
    with thresholds picked on one half as in Ding et al. 2018, "Detecting violations of differential privacy".

    Examples
    --------
    >>> def laplace_counter(data, generator, scale=1.0):
    ...     return len(data) + generator.laplace(scale=scale)
    >>> found = audited_epsilon(laplace_counter, [1, 2, 3], [1, 2, 3, 4])
    >>> 0.5 < found <= 1.0
    True
    """
    if isinstance(runs, bool) or not isinstance(runs, (int, np.integer)) or runs < 100:
        raise ValueError(f"runs must be a whole number, at least 100, got {runs!r}")
    if not 0.0 <= delta < 1.0:
        raise ValueError(f"delta must be at least 0 and below 1, got {delta}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    generator = np.random.default_rng(random_state)
    outcomes = [np.array([mechanism(each, generator) for _ in range(runs)], float) for each in (data, neighbour)]
    return epsilon_lower_bound(outcomes[0], outcomes[1], delta=delta, confidence=confidence)


def epsilon_lower_bound(first: ArrayLike, second: ArrayLike, *, delta: float = 0.0, confidence: float = 0.999) -> float:
    """The same from outcomes that are at hand: (r,) numbers from each of two neighbouring data sets.

    >>> epsilon_lower_bound(np.zeros(1000), np.zeros(1000))
    0.0
    >>> round(epsilon_lower_bound(np.zeros(1000), np.ones(1000)), 1)         # told apart every time
    4.2
    """
    checked_positive(confidence, "confidence")
    x, y = (np.asarray(each, dtype=np.float64) for each in (first, second))
    if x.ndim != 1 or y.ndim != 1 or min(x.size, y.size) < 100:
        raise ValueError(f"outcomes must be (r,) with at least 100 each, got {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("outcomes hold NaN; give such outcomes a number of their own")
    # Alternate ones, so that drift in the order would not set the halves apart.
    picking = np.sort(x[::2]), np.sort(y[::2])
    cut, lower, swapped = _best_event(*picking, delta)
    holds_x, holds_y = ((side[1::2] <= cut) if lower else (side[1::2] >= cut) for side in (x, y))
    often, rarely = (holds_y, holds_x) if swapped else (holds_x, holds_y)
    risk = (1.0 - confidence) / 2.0
    least = _bound(int(often.sum()), often.size, risk, upper=False)
    most = _bound(int(rarely.sum()), rarely.size, risk, upper=True)
    return max(0.0, math.log((least - delta) / most)) if least > delta else 0.0


def _best_event(x: NDArray[np.float64], y: NDArray[np.float64], delta: float) -> tuple[float, bool, bool]:
    """Threshold, whether the event is "at most" it, and whether the second data set has it more often."""
    cuts = np.unique(np.concatenate([x, y]))
    best = (-math.inf, float(cuts[0]), True, False)
    for lower in (True, False):
        if lower:
            shares = [np.searchsorted(side, cuts, side="right") for side in (x, y)]
        else:
            shares = [side.size - np.searchsorted(side, cuts, side="left") for side in (x, y)]
        for swapped in (False, True):
            often, rarely = (shares[1], shares[0]) if swapped else (shares[0], shares[1])
            # Bounds at three deviations stand in for the exact ones: this half only picks.
            a, b = often / x.size, rarely / y.size
            least = a - 3.0 * np.sqrt(a * (1 - a) / x.size + 1 / x.size**2)
            most = b + 3.0 * np.sqrt(b * (1 - b) / y.size + 4 / y.size**2)
            worth = np.log(np.maximum(least - delta, 1e-12) / most)
            at = int(np.argmax(worth))
            if worth[at] > best[0]:
                best = (float(worth[at]), float(cuts[at]), lower, swapped)
    return best[1], best[2], best[3]


def _bound(hits: int, trials: int, risk: float, upper: bool) -> float:
    """Clopper-Pearson bound on one side of a probability."""
    if upper:
        return 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1.0 - risk))
    return 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, risk))
