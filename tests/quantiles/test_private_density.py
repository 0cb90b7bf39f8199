"""The density route: noise, repair of negative counts, and quantiles read off it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tercile.quantiles.private import Domain, private_histogram, private_quantiles
from tercile.quantiles.private.density import nearest_counts


def test_noise_has_the_scale_that_privacy_asks_for() -> None:
    x = np.random.default_rng(0).uniform(0, 1, 1000)
    exact = np.histogram(x, np.linspace(0, 1, 2001))[0]
    pure = private_histogram(x, (0, 1), epsilon=0.5, bins=2000, random_state=0).noisy - exact
    concentrated = private_histogram(x, (0, 1), rho=0.02, bins=2000, random_state=0).noisy - exact
    # Laplace of scale 2 has mean size about 2; a Gaussian of variance 25 a deviation of 5.
    assert np.abs(pure).mean() == pytest.approx(2.0, rel=0.1)
    assert concentrated.std() == pytest.approx(5.0, rel=0.1)


def test_repair_is_the_nearest_point_without_negative_counts() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        noisy = rng.integers(-8, 12, 6)
        total = int(noisy.sum())
        if total < 1:
            continue
        found = nearest_counts(noisy)
        best = minimize(
            lambda c, goal=noisy: ((c - goal) ** 2).sum(),
            np.full(6, noisy.sum() / 6),
            bounds=[(0, None)] * 6,
            constraints={"type": "eq", "fun": lambda c, total=total: c.sum() - total},
            method="SLSQP",
        )
        assert np.allclose(found, best.x, atol=1e-2)
        assert found.min() >= 0 and found.sum() == pytest.approx(noisy.sum())


def test_quantile_and_cdf_are_inverse_and_step_over_empty_bins() -> None:
    released = private_histogram(np.repeat([0.05, 0.95], 5000), (0, 1), epsilon=50.0, bins=10, random_state=0)
    q = np.linspace(0.01, 0.99, 50)
    assert np.allclose(released.cdf(released.quantile(q)), q)
    assert released.quantile([0.4, 0.6])[0] < 0.1 and released.quantile([0.6])[0] > 0.9
    assert released.total == pytest.approx(10_000, abs=20)


def test_many_quantiles_are_sharper_by_density_and_few_by_recursion() -> None:
    rng = np.random.default_rng(2)
    x = rng.beta(2, 5, 4000)
    ordered = np.sort(x)

    def worst(found: np.ndarray, q: np.ndarray) -> float:
        return float(np.abs(np.searchsorted(ordered, found) / x.size - q).max())

    few, many = np.array([0.5]), np.arange(1, 501) / 501
    route = {"few": [], "many": []}
    for seed in range(10):
        density = private_histogram(x, (0, 1), epsilon=0.1, bins=100, random_state=seed)
        for name, q in (("few", few), ("many", many)):
            recursive = private_quantiles(x, q, (0, 1), epsilon=0.1, random_state=seed)
            route[name].append((worst(recursive, q), worst(density.quantile(q), q)))
    few_errors, many_errors = (np.mean(route[name], axis=0) for name in ("few", "many"))
    assert few_errors[0] < few_errors[1]
    assert many_errors[1] < many_errors[0]


def test_everything_noise_still_gives_a_histogram() -> None:
    released = private_histogram([0.5], (0, 1), epsilon=0.001, bins=50, random_state=3)
    assert released.counts.min() >= 0 and released.total >= 1
    assert 0 <= released.quantile([0.5])[0] <= 1


def test_bins_follow_the_steps_of_the_domain() -> None:
    domain = Domain(0, 9, step=1)
    released = private_histogram(np.arange(10).repeat(100), domain, epsilon=10.0, bins=10, random_state=0)
    assert released.noisy == pytest.approx(np.full(10, 100), abs=3)
    with pytest.raises(ValueError, match="bins must be 1 to 10, got 11"):
        private_histogram([1.0], domain, epsilon=1.0, bins=11)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": []}, ValueError, "values is empty"),
        ({"values": [np.nan]}, ValueError, "is NaN"),
        ({"domain": (2, 1)}, ValueError, "lower must be below upper"),
        ({"epsilon": 0}, ValueError, "epsilon must be above 0"),
        ({"epsilon": None, "rho": 1e-12}, ValueError, "rho must be at least"),
        ({"bins": 0}, ValueError, "bins must be 1 to 65536, got 0"),
        ({"bins": 2.5}, TypeError, "bins must be a whole number"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict, error: type[Exception], message: str) -> None:
    given = {"values": [1.0, 2.0], "domain": (0, 3), "epsilon": 1.0, "bins": 4} | change
    with pytest.raises(error, match=message):
        private_histogram(**given)
    with pytest.raises(ValueError, match="q must be from 0 to 1"):
        private_histogram([1.0], (0, 2), epsilon=1.0, bins=2).quantile([1.5])
