"""The ratio against its definition, and the choice of blocks against every choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tercile.quantization.allocation import hybrid, noise_ratio, time_sensitive


def test_a_bit_more_is_six_decibels_more():
    x = np.random.default_rng(0).uniform(-1, 1, 100_000)
    ratios = [noise_ratio(x, np.round(x * 2**bits) / 2**bits) for bits in (4, 5, 6)]
    assert np.allclose(np.diff(ratios), 20 * np.log10(2), atol=0.05)


def test_scaling_signal_and_noise_alike_changes_nothing():
    random = np.random.default_rng(1)
    x, e = random.normal(size=50), 0.01 * random.normal(size=50)
    assert noise_ratio(x, x + e) == pytest.approx(noise_ratio(1e-3 * x, 1e-3 * (x + e)))
    assert noise_ratio(x, x) == 300.0


def test_of_equal_costs_the_blocks_raised_leave_the_least_noise_of_all_choices():
    random = np.random.default_rng(2)
    ratios = {str(i): list(random.uniform(5, 40, 3)) for i in range(6)}
    chosen = hybrid(ratios, dict.fromkeys(ratios, 10), 25)
    noise = {name: 10 ** (-np.mean(values) / 10) for name, values in ratios.items()}
    best = min(itertools.combinations(ratios, 2), key=lambda pair: sum(noise[n] for n in ratios if n not in pair))
    assert set(chosen) == set(best)


def test_the_budget_is_kept_and_a_block_that_does_not_fit_is_passed_over():
    assert hybrid({"a": [1.0], "b": [2.0], "c": [3.0]}, {"a": 100, "b": 5, "c": 5}, 10) == ("b", "c")
    assert hybrid({"a": [1.0]}, {"a": 100}, 0) == ()


def test_by_the_byte_a_small_block_goes_before_a_large_one_with_a_little_more_noise():
    ratios, extra = {"small": [12.0], "large": [11.0]}, {"small": 10, "large": 1000}
    assert hybrid(ratios, extra, 1000, per_byte=True) == ("small",)
    assert hybrid(ratios, extra, 1000) == ("large",)


def test_the_worst_group_decides_who_needs_care():
    assert time_sensitive({"even": [20.0, 20.0], "late": [60.0, 5.0]}, 0.5) == ("late",)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: noise_ratio(np.ones(2), np.ones(3)), "shape"),
        (lambda: noise_ratio(np.array([np.nan]), np.ones(1)), "finite"),
        (lambda: hybrid({"a": []}, {"a": 1}, 1), "'a'"),
        (lambda: hybrid({"a": [1.0]}, {"a": 1}, -1), "budget"),
        (lambda: time_sensitive({"a": [1.0]}, 0), "share"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
