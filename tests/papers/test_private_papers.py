"""The parts of the experiments on private statistics that could lie about them."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.papers.flights import flights, rank_error
from tercile.papers.multitask_dp import a_few_each, drawn
from tercile.papers.subset_optimal_dp import WORST, data_sets, ends, laplace_mean


def test_rank_error_is_zero_inside_ties_and_the_distance_outside() -> None:
    ordered = np.sort(np.repeat([1.0, 5.0, 9.0], [20, 60, 20]))
    levels = np.array([0.1, 0.5, 0.79, 0.9, 0.9])
    assert rank_error(ordered, np.array([1.0, 5.0, 5.0, 5.0, 9.0]), levels) == pytest.approx([0, 0, 0, 0.1, 0])


def test_flights_are_what_the_source_says_of_them() -> None:
    table = flights()
    assert table["arrival_delay"].size == 327_346 and table["arrival_delay"].max() == 1272
    assert table["day"].min() == 0 and table["day"].max() == 364
    assert table["routes"].size == 223 == table["miles"].size and table["route"].max() == 222
    # Five hundred miles an hour, and some time to climb: a check that miles and routes go together.
    speed = table["miles"][table["route"]] / table["air_time"]
    assert 6.0 < np.median(speed) < 8.0 and np.quantile(speed, 0.001) > 2.0


def test_a_user_keeps_at_most_so_many_rows_and_small_users_all() -> None:
    user = np.repeat(np.arange(50), np.arange(1, 51))
    kept = a_few_each(np.arange(user.size), user, 10, seed=0)
    assert np.bincount(user[kept]).tolist() == np.minimum(np.arange(1, 51), 10).tolist()
    assert np.unique(kept).size == kept.size


def test_drawn_examples_stay_within_the_bounds_that_are_told() -> None:
    data = drawn(500, 0)
    assert np.linalg.norm(data.features, axis=1).max() > 1.6 >= np.median(np.linalg.norm(data.features, axis=1))
    assert (np.abs(data.target) <= data.target_bound).mean() > 0.99
    assert np.bincount(data.user).tolist() == [8] * 500


def test_the_benchmark_leaves_out_one_end_or_the_other() -> None:
    x = np.random.default_rng(0).permutation(100.0 + np.arange(100))
    low, high = ends(x)
    assert low.max() == 199 - WORST and high.min() == 100 + WORST


def test_laplace_noise_is_for_the_whole_domain() -> None:
    x = data_sets(10_000, 0)["normal"]
    off = [abs(laplace_mean(x, seed) - x.mean()) for seed in range(400)]
    assert np.mean(off) == pytest.approx(2e6 / 10_000, rel=0.15)
