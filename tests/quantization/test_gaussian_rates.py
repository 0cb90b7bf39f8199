"""Ideal rates minimise the summed loss, spend the budget and stay within their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tercile.quantization.allocation import gaussian_rates


@pytest.mark.parametrize("seed", range(6))
def test_no_other_rates_lose_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost, size = rng.exponential(size=5) ** 3 + 1e-3, rng.integers(1, 50, size=5).astype(float)
    bits = float(rng.uniform(0.5, 4) * size.sum())
    rates = gaussian_rates(cost, size, bits, least=0.25, most=6)
    assert rates @ size == pytest.approx(bits, rel=1e-9) and (rates >= 0.25).all() and (rates <= 6).all()
    found = minimize(
        lambda r: (cost * 4.0**-r).sum(), np.full(5, bits / size.sum()), method="SLSQP", bounds=[(0.25, 6)] * 5,
        constraints=[{"type": "ineq", "fun": lambda r: bits - r @ size}], options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert (cost * 4.0**-rates).sum() <= found.fun * (1 + 1e-6)


def test_a_budget_for_more_than_most_is_not_spent_and_tensors_of_no_cost_get_least() -> None:
    assert gaussian_rates(np.ones(2), np.ones(2), 100.0, most=8).tolist() == [8, 8]
    assert gaussian_rates(np.array([1.0, 0.0]), np.ones(2), 5.0, least=1).round(9).tolist() == [4, 1]
    assert gaussian_rates(np.zeros(3), np.ones(3), 9.0, least=2).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cost": np.array([1.0])}, "alike"),
        ({"cost": np.array([1.0, -1.0])}, "cost must be finite"),
        ({"size": np.array([1.0, 0.0])}, "size must be finite"),
        ({"least": 3.0, "most": 2.0}, "in order"),
        ({"least": 6.0}, "bits is 10, but 6"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gaussian_rates(**({"cost": np.ones(2), "size": np.ones(2), "bits": 10.0} | change))
