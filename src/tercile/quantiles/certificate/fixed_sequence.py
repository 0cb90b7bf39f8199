"""Fixed-sequence testing: the walk down a ladder of ever smaller, ever riskier models.

The rungs are ordered beforehand, safest first. Each is tested at the full level, and the walk stops at the
first that fails. A wrong certificate needs the *first* rung whose true risk is too high to be certified, and
that single test errs with probability `1 - confidence` at most; so the last certified rung, and all before
it, hold together with the given confidence, without any correction for how many were tried (Angelopoulos et
al. 2021, Learn then Test).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tercile.quantiles.certificate.losses import checked_fraction, checked_losses
from tercile.quantiles.certificate.mean import Method, bound_and_p_value, checked_method
from tercile.quantiles.certificate.order_statistics import quantile_p_value, quantile_upper_bound


@dataclass(frozen=True)
class Step:
    """What the walk found at one rung.

    risk : the mean (or q-quantile) of the losses seen.
    p_value : for "the true risk is above the promise".
    bound : the upper confidence bound on the true risk.
    certified : p_value <= 1 - confidence, which is the same as bound <= max_loss.
    """

    rung: int
    risk: float
    p_value: float
    bound: float
    certified: bool


def walk(
    score_rung: Callable[[int], ArrayLike] | Iterable[ArrayLike],
    max_loss: float,
    confidence: float,
    method: Method = "best",
    *,
    rungs: int | None = None,
    q: float | None = None,
) -> Iterator[Step]:
    """Test rungs from the safest on, scoring each only once the one before has passed.

    Parameters
    ----------
    score_rung : the losses (n,) of a rung, by its index; or an iterable of such arrays, pulled one at a
        time. The same units, in the same order, for every rung.
    max_loss : the promise, in (0, 1).
    confidence : in (0, 1).
    method : as in `upper_bound`; ignored for a quantile.
    rungs : how many there are; needed when `score_rung` is a function.
    q : certify the q-quantile of the loss instead of its mean, by order statistics.

    Yields
    ------
    Step, one a rung, ending with the first that is not certified or with the last rung.

    Raises
    ------
    ValueError, TypeError : at once, for the arguments; at the rung, for losses that are not in [0, 1].

    >>> import numpy as np
    >>> [step.certified for step in walk([np.full(300, 0.001), np.full(300, 0.5), np.zeros(300)], 0.02, 0.95)]
    [True, False]
    """
    max_loss, confidence = checked_fraction(max_loss, "max_loss"), checked_fraction(confidence, "confidence")
    method = checked_method(method)
    if q is not None:
        q = checked_fraction(q, "q")
    if callable(score_rung):
        if rungs is None or rungs < 1:
            raise ValueError(f"rungs must say how many rungs score_rung can score, got {rungs}")
        return _steps(map(score_rung, range(rungs)), max_loss, confidence, method, q)
    ladder = iter(score_rung)
    if rungs is not None:
        ladder = (losses for _, losses in zip(range(rungs), ladder))
    return _steps(ladder, max_loss, confidence, method, q)


def _steps(
    ladder: Iterator[ArrayLike], max_loss: float, confidence: float, method: Method, q: float | None
) -> Iterator[Step]:
    for rung, losses in enumerate(ladder):
        values = checked_losses(losses, name=f"losses of rung {rung}")
        if q is None:
            risk = float(values.mean())
            bound, p = bound_and_p_value(losses, max_loss, confidence, method)
        else:
            risk = float(np.quantile(values, q, method="inverted_cdf"))
            bound, p = quantile_upper_bound(values, q, confidence), quantile_p_value(values, max_loss, q)
        step = Step(rung, risk, p, bound, certified=p <= 1.0 - confidence)
        yield step
        if not step.certified:
            return


def fixed_sequence(
    losses: ArrayLike, max_loss: float, confidence: float, method: Method = "best"
) -> int | None:
    """The last rung of a ladder that can be certified, or None.

    Parameters
    ----------
    losses : (n, rungs) numbers in [0, 1] or booleans: the same units down, rungs from safest to smallest
    across. max_loss, confidence, method : as in `walk`.

    Returns
    -------
    int or None : with probability `confidence` at least, the mean loss of this rung and of all before it is
        at most `max_loss`.

    >>> import numpy as np
    >>> ladder = np.outer(np.ones(500), [0.001, 0.01, 0.03, 0.001])
    >>> fixed_sequence(ladder, max_loss=0.02, confidence=0.95)
    1
    """
    checked_losses(losses, dimensions=2)
    last = None
    for step in walk(iter(np.asarray(losses).T), max_loss, confidence, method):
        if step.certified:
            last = step.rung
    return last
