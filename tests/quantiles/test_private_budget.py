"""Accounting: what is added, converted and refused."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from tercile.quantiles.private import (
    BudgetExceeded,
    Cost,
    PrivacyBudget,
    epsilon_from_rho,
    private_histogram,
    private_quantile,
    private_quantiles,
    rho_from_epsilon,
    subset_optimal_mean,
)

VALUES = np.arange(100.0)


def gaussian_epsilon(rho: float, delta: float) -> float:
    """The exact epsilon of the Gaussian mechanism that is rho-zCDP (Balle & Wang 2018)."""
    mu = math.sqrt(2 * rho)

    def excess(epsilon: float) -> float:
        first = stats.norm.cdf(-epsilon / mu + mu / 2)
        return first - math.exp(epsilon) * stats.norm.cdf(-epsilon / mu - mu / 2) - delta

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize("rho", [0.001, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10])
def test_conversion_is_valid_for_the_gaussian_and_not_far_above_it(rho: float, delta: float) -> None:
    exact = gaussian_epsilon(rho, delta)
    found = epsilon_from_rho(rho, delta)
    usual = rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert exact <= found <= usual
    assert found <= 1.3 * exact


def test_conversion_there_and_back_never_gains() -> None:
    for epsilon in (0.01, 0.5, 1.0, 8.0):
        rho = rho_from_epsilon(epsilon, 1e-6)
        assert 0.999 * epsilon < epsilon_from_rho(rho, 1e-6) <= epsilon


def test_ten_tenths_are_one_and_an_eleventh_is_refused_before_anything_is_read() -> None:
    budget = PrivacyBudget(epsilon=1.0)
    for _ in range(10):
        private_quantile(VALUES, 0.5, (0, 100), epsilon=0.1, budget=budget)
    assert budget.remaining == 0.0
    with pytest.raises(BudgetExceeded, match=r"private_quantile needs epsilon 0.1, and 0 of 1 is left"):
        private_quantile(VALUES, 0.5, (0, 100), epsilon=0.1, budget=budget)
    assert len(budget.history) == 10


def test_each_mechanism_charges_what_it_says_in_both_accountings() -> None:
    budget = PrivacyBudget(rho=100.0)
    private_quantiles(VALUES, [0.25, 0.5, 0.75], (0, 100), epsilon=1.0, budget=budget)
    assert budget.spent == Cost(1.0, 2 * 0.5**2 / 8)
    private_histogram(VALUES, (0, 100), epsilon=1.0, budget=budget)
    assert budget.history[-1].cost == Cost(1.0, 0.5)
    subset_optimal_mean(VALUES, (0, 100), rho=0.5, budget=budget)
    assert budget.history[-1].cost.rho == 0.5
    private_histogram(VALUES, (0, 100), rho=0.25, budget=budget)
    assert budget.history[-1].cost == Cost(math.inf, 0.25)
    assert math.isinf(budget.spent.epsilon)


def test_concentrated_accounting_lets_many_small_releases_through() -> None:
    pure, approximate = PrivacyBudget(epsilon=1.0), PrivacyBudget(epsilon=1.0, delta=1e-6)
    counts = []
    for budget in (pure, approximate):
        count = 0
        while True:
            try:
                budget.charge("a quantile", Cost(0.01, 0.01**2 / 8))
            except BudgetExceeded:
                break
            count += 1
        counts.append(count)
    assert counts[0] == 100 and counts[1] > 1500
    epsilon, delta = approximate.guarantee()
    assert epsilon <= 1.0 and delta == 1e-6


def test_a_mechanism_without_a_pure_guarantee_is_refused_by_a_pure_budget() -> None:
    budget = PrivacyBudget(epsilon=10.0)
    with pytest.raises(BudgetExceeded, match="no pure guarantee"):
        private_histogram(VALUES, (0, 100), rho=0.01, budget=budget)
    assert budget.history == ()


def test_the_better_of_both_accountings_is_reported() -> None:
    one = PrivacyBudget(rho=100.0)
    one.charge("one", Cost(0.1, 0.1**2 / 8))
    assert one.guarantee(1e-6) == (0.1, 0.0)
    assert PrivacyBudget(rho=1.0).guarantee(1e-6) == (0.0, 0.0)
    one.charge("gauss", Cost(math.inf, 0.1))
    with pytest.raises(ValueError, match="delta must be given"):
        one.guarantee()


def test_threads_cannot_overspend_together() -> None:
    budget = PrivacyBudget(epsilon=1.0)
    passed: list[int] = []

    def spend() -> None:
        for _ in range(50):
            try:
                budget.charge("a share", Cost(0.01, 1e-5))
                passed.append(1)
            except BudgetExceeded:
                return

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 100


@pytest.mark.parametrize("name", ["epsilon", "rho"])
@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "1", True, None])
def test_amounts_that_are_none_are_refused_by_name(name: str, bad: object) -> None:
    error = TypeError if isinstance(bad, (str, bool)) else ValueError
    message = "give exactly one of epsilon" if bad is None else f"{name} must be"
    with pytest.raises(error, match=message):
        PrivacyBudget(**{name: bad})  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        private_quantile(VALUES, 0.5, (0, 100), **{name: bad})  # type: ignore[arg-type]


def test_two_accountings_at_once_and_odd_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly one of epsilon"):
        PrivacyBudget(epsilon=1.0, rho=1.0)
    with pytest.raises(ValueError, match="delta belongs with epsilon"):
        PrivacyBudget(rho=1.0, delta=1e-6)
    with pytest.raises(ValueError, match="delta must be below 1"):
        PrivacyBudget(epsilon=1.0, delta=1.0)
    with pytest.raises(ValueError, match="cost of nothing must be above 0"):
        PrivacyBudget(epsilon=1.0).charge("nothing", Cost(0.0, 0.0))
    with pytest.raises(TypeError, match="budget must be a PrivacyBudget"):
        private_quantile(VALUES, 0.5, (0, 100), epsilon=1.0, budget=1.0)  # type: ignore[arg-type]
