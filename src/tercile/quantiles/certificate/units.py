"""How many certification units a promise needs, before any is scored."""

from __future__ import annotations

import math
from statistics import NormalDist

from tercile.quantiles.certificate.binomial import binomial_cdf
from tercile.quantiles.certificate.losses import checked_fraction

CHANCE = 0.8
_MOST = 10**8
# Betting has to learn the spread first; simulations of its power put the cost at 1-7% of the units.
_LEARNING = 0.08


def units_needed(
    max_loss: float, confidence: float, expected_loss: float, spread: float | None = None
) -> int:
    """How many units certify `max_loss`, four times out of five, when the true mean is `expected_loss`.

    Parameters
    ----------
    max_loss, confidence : the promise, both in (0, 1).
    expected_loss : the mean loss you expect, from 0 up to below `max_loss`. At 0 the answer is the least
        number with which a certificate is possible at all.
    spread : standard deviation of a unit's loss. Left out, losses are taken to be 0 or 1, the widest there
        is, and the answer is exact for `method="binomial"`.

    Returns
    -------
    int : with a spread, an approximation for `method="best"`: the units of a Gaussian test of that power,
        on top those that a bet of the whole stake needs to gather the evidence, and 8% for learning the
        spread.

    >>> units_needed(0.02, 0.95, expected_loss=0.0)
    149
    >>> units_needed(0.02, 0.95, expected_loss=0.01)
    969
    >>> units_needed(0.02, 0.95, expected_loss=0.01, spread=0.01)
    326
    """
    max_loss, confidence = checked_fraction(max_loss, "max_loss"), checked_fraction(confidence, "confidence")
    if not 0.0 <= expected_loss < max_loss:
        raise ValueError(
            f"expected_loss must be from 0 to below max_loss={max_loss}, got {expected_loss}; "
            "a larger expected loss cannot be certified with any number of units"
        )
    level = 1.0 - confidence
    if spread is not None:
        if not 0.0 <= spread <= 0.5:
            raise ValueError(f"spread must be from 0 to 0.5 for losses in [0, 1], got {spread}")
        gap = max_loss - expected_loss
        deviations = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(CHANCE)
        gaussian = (deviations * spread / gap) ** 2
        whole_stake = -math.log(level) / math.log1p(gap / (1.0 - max_loss))
        return math.ceil((gaussian + whole_stake) * (1.0 + _LEARNING))
    if expected_loss == 0.0:
        return math.ceil(math.log(level) / math.log1p(-max_loss) - 1e-9)
    return _coin_units(max_loss, level, expected_loss)


def _coin_units(max_loss: float, level: float, expected_loss: float) -> int:
    """Units for exact binomial: the fewest that forgive j losses, for the least j with enough power."""

    def fewest(forgiven: int) -> int:
        low, high = forgiven, forgiven + 1
        while binomial_cdf(forgiven, high, max_loss) > level:
            low, high = high, 2 * high
            if high > _MOST:
                raise ValueError(
                    f"expected_loss={expected_loss} is too near max_loss={max_loss}: over {_MOST} units"
                )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if binomial_cdf(forgiven, middle, max_loss) <= level else (middle, high)
        return high

    def passes(forgiven: int) -> bool:
        return binomial_cdf(forgiven, fewest(forgiven), expected_loss) >= CHANCE

    low, high = -1, 1
    while not passes(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return fewest(high)
