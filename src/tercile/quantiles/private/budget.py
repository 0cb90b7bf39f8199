"""What privacy costs: pure and zero-concentrated accounting, and a budget that cannot be overspent.

Neighbours, here and in the whole room, are data sets of which one has one record more (multitask: one *user*
more) than the other. A mechanism is epsilon-private if no outcome is more than exp(epsilon) times as likely on
one neighbour as on the other; it is rho-zCDP if the Renyi divergence of order a between its outcomes on
neighbours is at most rho * a for every a > 1 (Bun & Steinke 2016). Both add up when mechanisms are run one after
the other on the same data, also when each is chosen after seeing the outcomes before.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar

#: Below this an exponential mechanism is a coin that knows next to nothing of the data.
LEAST_EPSILON = 1e-6


class BudgetExceeded(ValueError):
    """Raised before anything is computed when a mechanism would cost more than is left."""


@dataclass(frozen=True)
class Cost:
    """What one mechanism costs in each accounting; `epsilon` is infinite where there is no pure guarantee.

    >>> Cost(0.5, 0.03125) + Cost(0.5, 0.03125)
    Cost(epsilon=1.0, rho=0.0625)
    """

    epsilon: float
    rho: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.epsilon + other.epsilon, self.rho + other.rho)


def checked_positive(value: Any, name: str) -> float:
    """A finite number above 0.

    >>> checked_positive(0, "epsilon")
    Traceback (most recent call last):
    ValueError: epsilon must be above 0 and finite, got 0; 1 is a usual choice
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number above 0, got {value!r}")
    number = float(value)
    if not (0.0 < number < math.inf):
        usual = {"epsilon": "; 1 is a usual choice", "rho": "; 0.1 is a usual choice"}.get(name, "")
        raise ValueError(f"{name} must be above 0 and finite, got {value}{usual}")
    return number


def checked_delta(value: Any) -> float:
    """A number strictly between 0 and 1."""
    number = checked_positive(value, "delta")
    if number >= 1.0:
        raise ValueError(f"delta must be below 1, got {value}; take less than one over the number of records")
    return number


def epsilon_from_rho(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP is known to imply (epsilon, delta)-privacy.

    Parameters
    ----------
    rho, delta
        Above 0; `delta` below 1.

    Returns
    -------
    float
        The minimum over orders a > 1 of `rho a + (log(1/delta) + (a-1) log(1-1/a) - log a) / (a-1)`, at least 0.

    Notes
    -----
    Source: Canonne, Kamath & Steinke 2020, "The discrete Gaussian for differential privacy", their conversion from
    concentrated to approximate privacy. Any order gives a valid bound, so the numerical minimum is safe.

    >>> round(epsilon_from_rho(0.1, 1e-6), 2), round(0.1 + 2 * math.sqrt(0.1 * math.log(1e6)), 2)   # the usual bound
    (2.14, 2.45)
    """
    rho, delta = checked_positive(rho, "rho"), checked_delta(delta)

    def bound(log_excess: float) -> float:
        excess = math.exp(log_excess)
        order = 1.0 + excess
        return rho * order + (-math.log(delta) - math.log(order)) / excess + math.log1p(-1.0 / order)

    best = minimize_scalar(bound, bounds=(-12.0, 16.0), method="bounded", options={"xatol": 1e-10})
    return max(0.0, float(best.fun))


def rho_from_epsilon(epsilon: float, delta: float) -> float:
    """The largest rho whose (epsilon, delta) bound stays within `epsilon`.

    >>> rho = rho_from_epsilon(1.0, 1e-6)
    >>> epsilon_from_rho(rho, 1e-6) <= 1.0, round(rho, 4)
    (True, 0.0244)
    """
    epsilon, delta = checked_positive(epsilon, "epsilon"), checked_delta(delta)
    low, high = 1e-15, epsilon + 1.0
    while epsilon_from_rho(high, delta) < epsilon:
        high *= 2.0
    if epsilon_from_rho(low, delta) > epsilon:
        raise ValueError(f"no rho gives epsilon {epsilon} at delta {delta}; allow a larger delta")
    root = float(brentq(lambda rho: epsilon_from_rho(rho, delta) - epsilon, low, high, xtol=1e-16, rtol=1e-12))
    while epsilon_from_rho(root, delta) > epsilon:
        root *= 1.0 - 1e-9
    return root


def exponential_steps(epsilon: float | None, rho: float | None, steps: int = 1) -> tuple[float, Cost]:
    """Epsilon of each of `steps` exponential mechanisms run one after another, and what they cost together.

    An exponential mechanism with parameter epsilon has privacy losses within a range of width epsilon, hence is
    epsilon^2/8-zCDP (Cesar & Rogers 2021), a quarter of what epsilon-privacy alone would give.

    >>> exponential_steps(1.0, None, 4)
    (0.25, Cost(epsilon=1.0, rho=0.03125))
    """
    if one_of(epsilon, rho) == "epsilon":
        total = checked_positive(epsilon, "epsilon")
        step = total / steps
        cost = Cost(total, steps * step * step / 8.0)
    else:
        total = checked_positive(rho, "rho")
        step = math.sqrt(8.0 * total / steps)
        cost = Cost(steps * step, total)
    if step < LEAST_EPSILON:
        raise ValueError(
            f"{'epsilon' if rho is None else 'rho'} leaves {step:.1e} for each of {steps} steps, and "
            f"{LEAST_EPSILON:.0e} is the least; allow more, or ask for less"
        )
    return step, cost


def one_of(epsilon: float | None, rho: float | None) -> str:
    """Which of the two accountings was chosen; exactly one has to be."""
    if (epsilon is None) == (rho is None):
        given = "both" if rho is not None else "neither"
        raise ValueError(f"give exactly one of epsilon (pure) and rho (zero-concentrated), got {given}")
    return "epsilon" if rho is None else "rho"


@dataclass(frozen=True)
class Charge:
    """One entry of a budget's history."""

    what: str
    cost: Cost


class PrivacyBudget:
    """A limit on the privacy that a data set may lose, and what has been spent of it.

    Hand it to every mechanism that reads the data set; each charges it *before* it reads anything and raises
    `BudgetExceeded` when too little is left. Amounts are added as exact decimals, so that ten times 0.1 is 1.
    Safe to share between threads.

    Parameters
    ----------
    epsilon
        Alone: a limit in pure accounting. With `delta`: a limit on (epsilon, delta), kept in zero-concentrated
        accounting with the largest rho that stays within it (see `rho_from_epsilon`).
    rho
        Alone: a limit in zero-concentrated accounting.
    delta
        Only with `epsilon`.

    Raises
    ------
    ValueError
        An amount is not positive, or the limits are not one of these three.

    Examples
    --------
    >>> budget = PrivacyBudget(epsilon=1.0)
    >>> for _ in range(10):
    ...     budget.charge("a tenth", Cost(0.1, 0.1**2 / 8))
    >>> budget.remaining
    0.0
    >>> budget.charge("one more", Cost(0.1, 0.1**2 / 8))
    Traceback (most recent call last):
    tercile.quantiles.private.budget.BudgetExceeded: one more needs epsilon 0.1, and 0 of 1 is left
    """

    def __init__(self, *, epsilon: float | None = None, rho: float | None = None, delta: float | None = None) -> None:
        if one_of(epsilon, rho) == "rho" and delta is not None:
            raise ValueError("delta belongs with epsilon; a limit on rho alone needs none")
        self.epsilon = None if epsilon is None else checked_positive(epsilon, "epsilon")
        self.delta = None if delta is None else checked_delta(delta)
        self.rho = None if rho is None else checked_positive(rho, "rho")
        if self.epsilon is not None and self.delta is not None:
            self.rho = rho_from_epsilon(self.epsilon, self.delta)
        self._lock = threading.Lock()
        self._history: list[Charge] = []

    @property
    def accounting(self) -> str:
        """``"epsilon"`` or ``"rho"``: in what the limit is kept."""
        return "rho" if self.rho is not None else "epsilon"

    @property
    def limit(self) -> float:
        """The limit, in its own accounting."""
        return float(getattr(self, self.accounting))

    @property
    def history(self) -> tuple[Charge, ...]:
        """What was charged, in order."""
        with self._lock:
            return tuple(self._history)

    @property
    def spent(self) -> Cost:
        """The sum of all charges, in both accountings."""
        charges = self.history
        pure = math.inf if any(math.isinf(c.cost.epsilon) for c in charges) else float(_sum(charges, "epsilon"))
        return Cost(pure, float(_sum(charges, "rho")))

    @property
    def remaining(self) -> float:
        """What is left of the limit, in its own accounting."""
        return float(_decimal(self.limit) - _sum(self.history, self.accounting))

    def charge(self, what: str, cost: Cost) -> None:
        """Take `cost` off the budget, or raise `BudgetExceeded` and take nothing.

        Parameters
        ----------
        what
            Named in the history and in the error.
        cost
            In both accountings; the one of the limit counts.
        """
        amount = getattr(cost, self.accounting)
        if not amount > 0.0:
            raise ValueError(f"cost of {what} must be above 0, got {amount}")
        if math.isinf(amount):
            raise BudgetExceeded(f"{what} has no pure guarantee; make the budget one of rho, or of epsilon and delta")
        with self._lock:
            left = _decimal(self.limit) - _sum(self._history, self.accounting)
            if _decimal(amount) > left:
                raise BudgetExceeded(
                    f"{what} needs {self.accounting} {amount:g}, and {float(left):g} of {self.limit:g} is left"
                )
            self._history.append(Charge(what, cost))

    def guarantee(self, delta: float | None = None) -> tuple[float, float]:
        """The (epsilon, delta) that holds for everything charged so far, by the better of both accountings.

        >>> budget = PrivacyBudget(rho=1.0)
        >>> for _ in range(100):
        ...     budget.charge("a quantile", Cost(0.1, 0.1**2 / 8))
        >>> [round(value, 6) for value in budget.guarantee(1e-6)]        # the plain sum is 10
        [2.419093, 1e-06]
        """
        spent = self.spent
        if spent.rho == 0.0:
            return 0.0, 0.0
        chosen = self.delta if delta is None else checked_delta(delta)
        if chosen is None:
            if math.isinf(spent.epsilon):
                raise ValueError("delta must be given: some of what was charged has no pure guarantee")
            return spent.epsilon, 0.0
        concentrated = epsilon_from_rho(spent.rho, chosen)
        return (spent.epsilon, 0.0) if spent.epsilon <= concentrated else (concentrated, chosen)

    def __repr__(self) -> str:
        stated = ", ".join(
            f"{name}={value:g}"
            for name, value in (("epsilon", self.epsilon), ("rho", self.rho), ("delta", self.delta))
            if value is not None
        )
        return f"<PrivacyBudget {stated}; {self.accounting} left: {self.remaining:g}>"


def charge(budget: PrivacyBudget | None, what: str, cost: Cost) -> None:
    """Charge a budget if there is one."""
    if budget is None:
        return
    if not isinstance(budget, PrivacyBudget):
        raise TypeError(f"budget must be a PrivacyBudget or None, got {budget!r}")
    budget.charge(what, cost)


def _decimal(amount: float) -> Fraction:
    """The number as it is written: 0.1 is a tenth."""
    return Fraction(repr(float(amount)))


def _sum(charges: list[Charge] | tuple[Charge, ...], accounting: str) -> Fraction:
    return sum((_decimal(getattr(one.cost, accounting)) for one in charges), Fraction(0))
