"""A bound on a quantile of the loss from order statistics alone: exact for every distribution, ties included.

At most a share q of all units lies strictly below the q-quantile Q, so the number of sampled losses below Q
is at most a Binomial(n, q) draw. The k-th smallest loss is below Q only when at least k of them are:
probability `P(Binomial(n, q) >= k)` or less. The smallest k for which that is at most `1 - confidence` gives
the bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tercile.quantiles.certificate.binomial import binomial_survival
from tercile.quantiles.certificate.losses import checked_fraction, checked_losses


def quantile_upper_bound(losses: ArrayLike, q: float, confidence: float) -> float:
    """A value that the q-quantile of the loss does not exceed, with the given confidence.

    Parameters
    ----------
    losses : (n,) numbers in [0, 1], one for each independent unit. Their order does not matter.
    q : which quantile, in (0, 1).
    confidence : in (0, 1).

    Returns
    -------
    float : one of the losses, or 1.0 (the largest loss there can be) when n is too small to say anything:
        fewer than `log(1 - confidence) / log(q)` units.

    Cost: a sort, O(n log n).

    >>> import numpy as np
    >>> quantile_upper_bound(np.linspace(0, 1, 1001), 0.9, 0.95)
    0.916
    >>> quantile_upper_bound([0.1, 0.2, 0.3], 0.9, 0.95)
    1.0
    """
    values = checked_losses(losses)
    q, confidence = checked_fraction(q, "q"), checked_fraction(confidence, "confidence")
    n, level = values.size, 1.0 - confidence
    low, high = 0, n + 1  # P(B >= low) > level, P(B >= high) <= level
    while high - low > 1:
        k = (low + high) // 2
        if binomial_survival(k, n, q) <= level:
            high = k
        else:
            low = k
    return float(np.sort(values)[high - 1]) if high <= n else 1.0


def quantile_p_value(losses: ArrayLike, max_loss: float, q: float) -> float:
    """A p-value for "the q-quantile of the loss is above `max_loss`".

    It is `P(Binomial(n, q) >= number of losses at or below max_loss)`, and agrees with
    `quantile_upper_bound`: it is at most `1 - confidence` exactly when that bound is at most `max_loss`
    (below 1).

    >>> round(quantile_p_value([0.01] * 40, 0.02, 0.9), 6) == round(0.9**40, 6)
    True
    """
    values = checked_losses(losses)
    max_loss, q = checked_fraction(max_loss, "max_loss"), checked_fraction(q, "q")
    return binomial_survival(int(np.count_nonzero(values <= max_loss)), values.size, q)
