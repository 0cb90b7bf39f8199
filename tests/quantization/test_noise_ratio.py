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


def test_the_blocks_raised_take_away_most_noise_of_all_sets_that_fit():
    random = np.random.default_rng(3)
    for _ in range(20):
        ratios = {str(i): [float(random.uniform(5, 40))] for i in range(6)}
        extra = {name: int(random.integers(1, 50)) for name in ratios}
        noise = {name: 10 ** (-values[0] / 10) for name, values in ratios.items()}
        sets = [s for size in range(7) for s in itertools.combinations(ratios, size) if sum(extra[n] for n in s) <= 70]
        best = max(sum(noise[name] for name in chosen) for chosen in sets)
        found = hybrid(ratios, extra, 70)
        assert sum(extra[name] for name in found) <= 70
        assert sum(noise[name] for name in found) == pytest.approx(best)


def test_no_budget_raises_nothing():
    assert hybrid({"a": [1.0]}, {"a": 100}, 0) == ()


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
