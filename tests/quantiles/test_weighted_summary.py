"""The weighted quantile summary of the XGBoost paper, against exact ranks of weighted values."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantiles.sketch import WeightedSummary


def exact_ranks(values: np.ndarray, weights: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Share of weight at or below each point, by looking at every value."""
    return np.array([weights[values <= point].sum() for point in points]) / weights.sum()


def weighted_streams(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    n = 30_000
    values = rng.standard_normal(n)
    one_giant = np.ones(n)
    one_giant[n // 3] = 1e7
    return {
        "hessians of a logistic loss": (values, 1 / (2 + 2 * np.cosh(4 * values))),
        "weights over twelve decades": (values, np.exp(rng.uniform(-14, 14, n))),
        "one value outweighs all": (values, one_giant),
        "heavier and heavier": (np.sort(values), np.exp(np.linspace(0, 20, n))),
        "lighter and lighter, from above": (np.sort(values)[::-1], np.exp(-np.linspace(0, 20, n))),
        "ties": (rng.integers(0, 40, n) * 1.0, rng.exponential(size=n)),
    }


@pytest.mark.parametrize("eps", [0.05, 0.01, 0.002])
def test_the_promise_holds_for_every_rank_and_every_quantile_of_weighted_streams(eps: float) -> None:
    for name, (values, weights) in weighted_streams(1).items():
        sketch = WeightedSummary(eps)
        for piece, heavy in zip(np.array_split(values, 7), np.array_split(weights, 7)):
            sketch.update(piece, heavy)
        assert sketch.error_bound <= eps, name
        points = np.concatenate([np.quantile(values, np.linspace(0, 1, 101)), [values.min() - 1, values.max() + 1]])
        truth = exact_ranks(values, weights, points)
        low, high = sketch.rank_bounds(points)
        assert (low <= truth + 1e-9).all(), name
        assert (truth <= high + 1e-9).all(), name
        assert abs(sketch.rank(points) - truth).max() <= sketch.error_bound + 1e-9, name

        q = np.linspace(0, 1, 201)
        found = sketch.quantile(q)
        at_or_below = exact_ranks(values, weights, found)
        below = np.array([weights[values < value].sum() for value in found]) / weights.sum()
        assert np.isin(found, values).all(), name
        assert (at_or_below >= q - sketch.error_bound - 1e-9).all(), name
        assert (below <= q + sketch.error_bound + 1e-9).all(), name


def test_merging_a_thousand_shards_keeps_the_promise_and_the_bounds() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.standard_cauchy(100_000), rng.exponential(size=100_000)
    total = WeightedSummary(0.01)
    for piece, heavy in zip(np.array_split(values, 1000), np.array_split(weights, 1000)):
        shard = WeightedSummary(0.01)
        shard.update(piece, heavy)
        total.merge(shard)
    assert total.count == 100_000
    assert total.weight == pytest.approx(weights.sum())
    assert total.error_bound <= 0.01
    points = np.quantile(values, np.linspace(0.001, 0.999, 50))
    low, high = total.rank_bounds(points)
    truth = exact_ranks(values, weights, points)
    assert ((low <= truth + 1e-9) & (truth <= high + 1e-9)).all()


def test_merging_adds_no_error_to_that_of_the_worse_one() -> None:
    # The paper's theorem on merging: no pruning happens when both are small enough.
    rng = np.random.default_rng(3)
    one, other = WeightedSummary(0.01), WeightedSummary(0.01)
    one.update(rng.standard_normal(40_000))
    other.update(rng.standard_normal(500))
    worse = max(one.error_bound, other.error_bound)
    assert 0.0 < (one | other).error_bound <= worse


def test_a_stream_longer_than_expected_still_tells_its_own_error() -> None:
    values = np.random.default_rng(4).standard_normal(300_000)
    sketch = WeightedSummary(0.05, expected=100)
    sketch.update(values)
    assert sketch.error_bound > 0.05
    ordered = np.sort(values)
    points = ordered[::3000]
    truth = np.searchsorted(ordered, points, side="right") / ordered.size
    assert abs(sketch.rank(points) - truth).max() <= sketch.error_bound


def test_few_different_values_stay_exact_however_many_come() -> None:
    rng = np.random.default_rng(5)
    values, weights = rng.integers(0, 300, 200_000) * 0.5, rng.integers(1, 9, 200_000)
    sketch = WeightedSummary(0.01)
    sketch.update(values, weights)
    assert sketch.error_bound == 0.0
    points = np.arange(0, 150, 0.25)
    assert np.allclose(sketch.rank(points), exact_ranks(values, weights, points), atol=1e-15)


def test_size_grows_with_the_logarithm_of_the_stream() -> None:
    rng = np.random.default_rng(6)
    sizes = []
    for count in (20_000, 200_000, 2_000_000):
        sketch = WeightedSummary(0.01)
        sketch.update(rng.standard_normal(count))
        sizes.append(len(sketch.to_bytes()))
    assert sizes[2] < 3 * sizes[0]
    assert sizes[2] < 300_000


def test_bad_settings_are_named() -> None:
    for eps in (0.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"eps must be 1e-6 to 0\.25"):
            WeightedSummary(eps)
    with pytest.raises(ValueError, match="expected must be 1 to"):
        WeightedSummary(expected=0)
    with pytest.raises(TypeError, match="expected must be an integer"):
        WeightedSummary(expected=1e6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same eps and expected"):
        WeightedSummary(expected=10).merge(WeightedSummary(expected=20))
    sketch = WeightedSummary()
    with pytest.raises(ValueError, match="add up to"):
        sketch.update([1.0, 2.0], [2.0**53, 2.0**53])
    assert sketch.count == 0
