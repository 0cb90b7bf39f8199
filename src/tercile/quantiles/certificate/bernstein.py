"""The empirical Bernstein bound of Maurer and Pontil (2009), theorem 4.

With V the sample variance (divisor n - 1), the mean is at most

    average + sqrt(2 V log(2 / level) / n) + 7 log(2 / level) / (3 (n - 1))

with probability 1 - level. It needs no order of the units and adapts to a small spread, at the price of the
last term.
"""

from __future__ import annotations

import math

from tercile.quantiles.certificate.losses import Losses


def _terms(losses: Losses) -> tuple[float, float]:
    """The factors of sqrt(log(2 / level)) and of log(2 / level)."""
    n = losses.size
    return math.sqrt(2.0 * float(losses.var(ddof=1)) / n), 7.0 / (3.0 * (n - 1))


def bernstein_bound(losses: Losses, level: float) -> float:
    """The bound above, at most 1; one unit has no variance and gives 1."""
    if losses.size < 2:
        return 1.0
    root, linear = _terms(losses)
    log_term = math.log(2.0 / level)
    return min(1.0, float(losses.mean()) + root * math.sqrt(log_term) + linear * log_term)


def bernstein_p_value(losses: Losses, max_loss: float) -> float:
    """The level at which the bound equals `max_loss`: a quadratic in sqrt(log(2 / level))."""
    gap = max_loss - float(losses.mean())
    if losses.size < 2 or gap <= 0.0:
        return 1.0
    root, linear = _terms(losses)
    solution = (math.sqrt(root * root + 4.0 * linear * gap) - root) / (2.0 * linear)
    return min(1.0, 2.0 * math.exp(-solution * solution))
