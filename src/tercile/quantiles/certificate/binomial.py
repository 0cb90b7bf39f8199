"""The exact binomial bound for losses that are 0 or 1 (Clopper and Pearson, 1934)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tercile.quantiles.certificate.losses import Losses


@lru_cache(maxsize=8)
def _log_binomial_coefficients(n: int) -> NDArray[np.float64]:
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))))
    coefficients: NDArray[np.float64] = log_factorial[n] - log_factorial - log_factorial[::-1]
    return coefficients


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(B <= k) for B binomial with n trials of probability p, to about ten digits, in the far tails as well.

    Sums the shorter tail in the log domain. Cost: O(n) once for each n, then O(min(k, n - k)).

    >>> round(binomial_cdf(1, 10, 0.5), 9)
    0.010742188
    """
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    lower = k <= n * p
    count = np.arange(0, k + 1) if lower else np.arange(k + 1, n + 1)
    log_terms = _log_binomial_coefficients(n)[count] + count * math.log(p) + (n - count) * math.log1p(-p)
    largest = float(log_terms.max())
    tail = math.exp(largest) * float(np.exp(log_terms - largest).sum())
    return min(1.0, tail) if lower else max(0.0, 1.0 - tail)


def binomial_survival(k: int, n: int, p: float) -> float:
    """P(B >= k) for B binomial with n trials of probability p.

    >>> binomial_survival(10, 10, 0.5) == 0.5**10
    True
    """
    return binomial_cdf(n - k, n, 1.0 - p)


def smallest_rejected(p_value_at: Callable[[float], float], lowest: float, level: float) -> float:
    """The smallest mean whose p-value is at most `level`, for a p-value that falls as the mean grows.

    By bisection, rounded up and never down: the answer itself is rejected, or is 1.
    """
    low, high = lowest, 1.0
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if p_value_at(middle) <= level:
            high = middle
        else:
            low = middle
    return high


def _count(losses: Losses) -> int:
    other = np.flatnonzero((losses != 0.0) & (losses != 1.0))
    if other.size:
        raise ValueError(
            f"method='binomial' needs losses that are 0 or 1, got {losses[other[0]]} at index {other[0]}; "
            "use method='best'"
        )
    return int(losses.sum())


def binomial_p_value(losses: Losses, max_loss: float) -> float:
    """P(as few or fewer losses) were the mean exactly `max_loss`."""
    return binomial_cdf(_count(losses), losses.size, max_loss)


def binomial_bound(losses: Losses, level: float) -> float:
    """Upper end of the one-sided Clopper-Pearson interval at confidence 1 - level."""
    count, n = _count(losses), losses.size
    if count == 0:
        return -math.expm1(math.log(level) / n)  # (1 - p)^n = level
    return smallest_rejected(lambda p: binomial_cdf(count, n, p), count / n, level)
