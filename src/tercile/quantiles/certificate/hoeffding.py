"""Hoeffding's bound, and the sharper one of Hoeffding and Bentkus that keeps the whole tail.

For independent losses in [0, 1] with mean at least m, the chance that their average is t <= m or less is at
most

- `exp(-2 n (m - t)^2)` (Hoeffding 1963, theorem 2), and more sharply `exp(-n kl(t, m))` with kl the relative
  entropy of two coins (theorem 1);
- `e * P(Binomial(n, m) <= ceil(n t))` (Bentkus 2004).

Both bound the same probability for every t, so the smaller of the two does too, and that minimum taken at
the average seen is a p-value: no choice was made after the fact (Bates et al. 2021, Learn then Test 2021).
"""

from __future__ import annotations

import math

from tercile.quantiles.certificate.binomial import binomial_cdf, smallest_rejected
from tercile.quantiles.certificate.losses import Losses


def hoeffding_p_value(losses: Losses, max_loss: float) -> float:
    """Hoeffding's simple exponential tail at the average seen."""
    return math.exp(-2.0 * losses.size * max(0.0, max_loss - float(losses.mean())) ** 2)


def hoeffding_bound(losses: Losses, level: float) -> float:
    """mean + sqrt(log(1 / level) / (2 n)), at most 1."""
    return min(1.0, float(losses.mean()) + math.sqrt(math.log(1.0 / level) / (2.0 * losses.size)))


def _relative_entropy(t: float, m: float) -> float:
    first = t * math.log(t / m) if t > 0.0 else 0.0
    second = (1.0 - t) * (math.log1p(-t) - math.log1p(-m)) if t < 1.0 else 0.0
    return first + second


def _tail(mean: float, n: int, m: float) -> float:
    if mean >= m:
        return 1.0
    chernoff = math.exp(-n * _relative_entropy(mean, m))
    # A sum of floats may land a hair above a whole number; rounding that up would only widen the bound.
    bentkus = math.e * binomial_cdf(math.ceil(n * mean - 1e-9), n, m)
    return min(1.0, chernoff, bentkus)


def hoeffding_bentkus_p_value(losses: Losses, max_loss: float) -> float:
    """The smaller of the relative-entropy tail and Bentkus' binomial tail at the average seen."""
    return _tail(float(losses.mean()), losses.size, max_loss)


def hoeffding_bentkus_bound(losses: Losses, level: float) -> float:
    """The smallest mean that `hoeffding_bentkus_p_value` rejects at `level`."""
    mean, n = float(losses.mean()), losses.size
    return smallest_rejected(lambda m: _tail(mean, n, m) if m < 1.0 else 0.0, mean, level)
