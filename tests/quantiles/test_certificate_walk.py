"""The walk down a ladder, and the promise as what it is: a statement about repeated use."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tercile.quantiles import fixed_sequence, walk
from tercile.quantiles.certificate.betting import _order, log_capital
from tercile.quantiles.certificate.mean import p_value


def test_no_rung_is_scored_after_the_first_that_fails() -> None:
    scored = []

    def score(rung: int) -> np.ndarray:
        scored.append(rung)
        return np.full(400, [0.001, 0.01, 0.05, 0.0][rung])

    steps = list(walk(score, 0.02, 0.95, rungs=4))
    assert scored == [0, 1, 2]
    assert [step.certified for step in steps] == [True, True, False]
    assert [step.risk for step in steps] == pytest.approx([0.001, 0.01, 0.05])


def test_an_iterable_ladder_is_pulled_one_rung_at_a_time() -> None:
    pulled = []

    def ladder():
        for rung, loss in enumerate([0.0, 0.01, 0.5, 0.5]):
            pulled.append(rung)
            yield np.full(300, loss)

    steps = walk(ladder(), 0.05, 0.9)
    assert next(steps).certified
    assert pulled == [0]
    assert [step.rung for step in steps] == [1, 2]
    assert pulled == [0, 1, 2]


def test_the_bound_at_every_step_says_the_same_as_its_verdict() -> None:
    rng = np.random.default_rng(0)
    for method in ("best", "hoeffding-bentkus", "empirical-bernstein", "hoeffding"):
        for mean in np.linspace(0.01, 0.03, 7):
            losses = np.clip(rng.gamma(4.0, mean / 4, 500), 0, 1)
            (step,) = walk([losses], 0.02, 0.95, method)
            assert step.certified == (step.bound <= 0.02) == (step.p_value <= 1 - 0.95)
            assert step.p_value == p_value(losses, 0.02, method, confidence=0.95)


def test_a_quantile_can_be_certified_instead_of_the_mean() -> None:
    losses = np.where(np.arange(1000) % 100 == 0, 0.9, 0.01)  # 1% of the units are terrible
    assert [s.certified for s in walk([losses], 0.02, 0.95, q=0.95)] == [True]
    assert [s.certified for s in walk([losses], 0.02, 0.95, q=0.995)] == [False]


def test_fixed_sequence_returns_the_last_rung_before_the_first_failure_or_none() -> None:
    ladder = np.outer(np.ones(500), [0.001, 0.01, 0.03, 0.001])
    assert fixed_sequence(ladder, 0.02, 0.95) == 1
    assert fixed_sequence(ladder[:, 2:], 0.02, 0.95) is None
    assert fixed_sequence(ladder[:20], 0.02, 0.95) is None
    assert fixed_sequence(ladder < 0, 0.02, 0.95) == 3


def test_a_bad_loss_in_a_rung_names_the_rung_or_the_place() -> None:
    with pytest.raises(ValueError, match=r"losses of rung 1 must lie in .0, 1., got 2.0 at index 0"):
        list(walk([np.zeros(300), np.full(300, 2.0)], 0.02, 0.95))
    with pytest.raises(ValueError, match=r"losses must lie in \[0, 1\], got 1.5 at index 3, 1"):
        fixed_sequence(np.where(np.arange(20).reshape(10, 2) == 7, 1.5, 0.0), 0.02, 0.95)
    with pytest.raises(ValueError, match=r"losses must have shape \(n, rungs\), got \(3,\)"):
        fixed_sequence([0.1, 0.2, 0.3], 0.02, 0.95)


def draw(shape: str, mean: float, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Losses with this true mean exactly."""
    if shape == "coin":
        return (rng.random(size) < mean).astype(float)
    if shape == "skewed":
        return rng.beta(0.3, 0.3 * (1 - mean) / mean, size)
    if shape == "rare big":
        rare = mean / 10
        return np.where(rng.random(size) < rare, 1.0, (mean - rare) / (1 - rare))
    if shape == "uniform":
        return rng.random(size) * 2 * mean
    return rng.choice([0.0, mean, 2 * mean], size=size, p=[0.25, 0.5, 0.25])  # ties


@pytest.mark.parametrize("shape", ["coin", "skewed", "rare big", "uniform", "ties"])
@pytest.mark.parametrize(("alpha", "n"), [(0.02, 150), (0.2, 60), (0.1, 400)])
def test_over_repeated_use_a_broken_promise_is_as_rare_as_stated(shape: str, alpha: float, n: int) -> None:
    # Worth its seconds: this is the product's promise. Four rungs on the same units, of which the last is the
    # first to break the promise, by the least amount there is (its mean equals alpha): certifying it is a
    # failure. Confidence 0.8 gives failures to count.
    repetitions, level = 3000, 0.2
    rng = np.random.default_rng(n)
    worst = draw(shape, alpha, (repetitions, n), rng)
    alive = np.ones(repetitions, dtype=bool)
    for share in (0.1, 0.3, 0.6, 1.0):  # a rung's losses are this share of the worst rung's
        capital = log_capital(worst * share, np.full(repetitions, alpha), level)
        alive &= capital >= -math.log(level)
    assert alive.sum() <= stats.binom.ppf(0.9999, repetitions, level)


def test_the_vectorised_simulation_takes_the_same_decisions_as_the_walk() -> None:
    rng = np.random.default_rng(6)
    losses = draw("skewed", 0.04, (60, 100), rng)
    fast = log_capital(losses[:, _order(100)], np.full(60, 0.05), 0.2) >= -math.log(0.2)
    slow = np.array([fixed_sequence(row[:, None], 0.05, 0.8) == 0 for row in losses])
    assert not (slow & ~fast).any()  # the walk also asks the grid above alpha, so it can only be stricter
    assert (slow != fast).mean() <= 0.05
    assert 0.1 < fast.mean() < 0.9


@pytest.mark.parametrize("method", ["hoeffding-bentkus", "empirical-bernstein", "binomial", "best"])
def test_the_p_value_is_small_no_more_often_than_it_says(method: str) -> None:
    rng = np.random.default_rng(2)
    losses = draw("coin", 0.1, (400, 80), rng).astype(bool)
    p = np.array([p_value(row, 0.1, method) for row in losses])
    for u in (0.02, 0.1, 0.3):
        assert (p <= u).sum() <= stats.binom.ppf(0.9999, 400, u)


def test_a_caller_who_sorts_the_losses_gains_nothing() -> None:
    rng = np.random.default_rng(3)
    losses = np.sort(draw("skewed", 0.05, (150, 150), rng), axis=1)
    for order in (losses, losses[:, ::-1]):
        p = np.array([p_value(row, 0.05, "betting", confidence=0.8) for row in order])
        assert (p <= 0.2).sum() <= stats.binom.ppf(0.9999, 150, 0.2)
