"""Exact samplers against the distributions that they are samplers of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tercile.quantiles.private.randomness import (
    LARGEST_VARIANCE,
    Randomness,
    _coin_exp,
    coins_exp,
    discrete_gaussian,
    discrete_laplace,
    laplace_scale,
)

DRAWS = 40_000


def fits(drawn: np.ndarray, weight: np.ndarray, support: np.ndarray) -> float:
    """P-value of a chi-square test, cells with few expected hits thrown together."""
    chance = weight / weight.sum()
    order = np.argsort(-chance)
    expected = chance[order] * drawn.size
    seen = np.array([(drawn == value).sum() for value in support[order]], float)
    keep = int((expected >= 10).sum())
    expected = np.append(expected[:keep], drawn.size - expected[:keep].sum())
    seen = np.append(seen[:keep], drawn.size - seen[:keep].sum())
    kept = expected > 1e-9
    return float(stats.chisquare(seen[kept], expected[kept] * seen[kept].sum() / expected[kept].sum()).pvalue)


@pytest.mark.parametrize("ratio", [(0, 7), (1, 7), (7, 7), (9, 4), (50, 9)])
def test_coins_of_exp_come_up_as_often_as_exp_says(ratio: tuple[int, int]) -> None:
    top, bottom = (np.full(DRAWS, value, dtype=np.int64) for value in ratio)
    heads = int(coins_exp(top, bottom, Randomness(1)).sum())
    assert stats.binomtest(heads, DRAWS, float(np.exp(-ratio[0] / ratio[1]))).pvalue > 1e-4


def test_the_coin_for_big_numbers_is_the_same_coin() -> None:
    randomness = Randomness(2)
    big = 10**30
    heads = sum(_coin_exp(3 * big, 2 * big, randomness) for _ in range(4000))
    assert stats.binomtest(heads, 4000, float(np.exp(-1.5))).pvalue > 1e-4


@pytest.mark.parametrize("scale", [(1, 1), (1, 3), (7, 2), (40, 1)])
def test_discrete_laplace_has_its_distribution(scale: tuple[int, int]) -> None:
    support = np.arange(-1000, 1001)
    drawn = discrete_laplace(DRAWS, scale, Randomness(3))
    assert fits(drawn, np.exp(-np.abs(support) * scale[1] / scale[0]), support) > 1e-4


@pytest.mark.parametrize("variance", [1, 4, 90, 400])
def test_discrete_gaussian_has_its_distribution(variance: int) -> None:
    support = np.arange(-300, 301)
    drawn = discrete_gaussian(DRAWS, variance, Randomness(4))
    assert fits(drawn, np.exp(-(support**2) / (2 * variance)), support) > 1e-4


def test_the_largest_gaussian_does_not_overflow() -> None:
    drawn = discrete_gaussian(20_000, LARGEST_VARIANCE, Randomness(5)) / np.sqrt(LARGEST_VARIANCE)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    with pytest.raises(ValueError, match="variance must be"):
        discrete_gaussian(1, LARGEST_VARIANCE + 1, Randomness(5))


def test_noise_is_rounded_towards_more_of_it() -> None:
    for epsilon in (1e-6, 0.1, 0.3, 1.0, 7.3):
        t, s = laplace_scale(epsilon, 1)
        assert 1 / epsilon <= t / s <= 1 / epsilon * (1 + 1e-5)


def test_integers_below_a_bound_are_uniform_for_any_bound() -> None:
    randomness = Randomness(6)
    drawn = randomness.many_below(np.full(DRAWS, 7, dtype=np.int64))
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-4
    huge = 3 * 2**200
    shares = [randomness.below(huge) * 6 // huge for _ in range(6000)]
    assert stats.chisquare(np.bincount(shares, minlength=6)).pvalue > 1e-4
    assert randomness.below(1) == 0


def test_choice_follows_weights_of_any_size() -> None:
    randomness = Randomness(7)
    unit = 2**150
    drawn = [randomness.choose([unit, 0, 3 * unit]) for _ in range(4000)]
    assert all(0 <= ticket < unit * (1, 0, 3)[index] for index, ticket in drawn)
    assert stats.binomtest(sum(index == 2 for index, _ in drawn), 4000, 0.75).pvalue > 1e-4


def test_without_a_seed_two_sources_differ_and_with_one_they_agree() -> None:
    assert Randomness().below(2**100) != Randomness().below(2**100)
    assert Randomness(8).below(2**100) == Randomness(8).below(2**100)


@pytest.mark.parametrize("bad", ["a seed", 1.5, True])
def test_a_seed_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match="random_state must be"):
        Randomness(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be negative"):
        Randomness(-1)
