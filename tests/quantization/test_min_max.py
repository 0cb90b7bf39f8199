"""Local search for the least largest violation, against enumeration, a mixed-integer solver and where it started."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from tercile.quantization import Scheme
from tercile.quantization.solvers import gptq, least_violation, min_max_rounding
from tercile.quantization.statistics import Statistics


def problem(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([rows, columns, seed])
    matrix = rng.normal(size=(rows, columns))
    return matrix, matrix @ rng.uniform(-1, 1, size=columns)


def test_it_finds_the_best_of_all_assignments() -> None:
    levels, hits = np.linspace(-1, 1, 4), 0
    for seed in range(10):
        matrix, target = problem(20, 6, seed)
        every = np.array(list(itertools.product(levels, repeat=6)))
        best = np.abs(every @ matrix.T - target).max(axis=1).min()
        found = least_violation(matrix, target, levels, seed=seed)
        assert found.violation >= best - 1e-12
        assert found.violation == pytest.approx(np.abs(matrix @ found.values - target).max())
        hits += found.violation <= best + 1e-9
    assert hits >= 8


def test_it_matches_a_mixed_integer_solver_on_levels_of_each_variables_own() -> None:
    matrix, target = problem(60, 10, 0)
    steps = np.linspace(0.1, 0.4, 10)
    levels = steps[:, None] * np.arange(-4, 5)
    scaled, one = matrix * steps, np.ones((60, 1))
    solved = milp(
        np.r_[np.zeros(10), 1.0],
        constraints=LinearConstraint(np.block([[scaled, -one], [-scaled, -one]]), -np.inf, np.r_[target, -target]),
        integrality=np.r_[np.ones(10), 0],
        bounds=Bounds(np.r_[-4.0 * np.ones(10), 0], np.r_[4.0 * np.ones(10), np.inf]),
    )
    assert least_violation(matrix, target, levels, rounds=60).violation <= 1.02 * solved.fun


def test_more_rounds_never_harm_and_a_start_is_never_left_for_worse() -> None:
    matrix, target = problem(80, 40, 1)
    levels = np.linspace(-1, 1, 3)
    violations = [least_violation(matrix, target, levels, rounds=rounds).violation for rounds in (0, 5, 25)]
    assert violations == sorted(violations, reverse=True)
    start = least_violation(matrix, target, levels, rounds=25).values
    assert least_violation(matrix, target, levels, start=start, rounds=0).violation <= violations[-1] + 1e-12


def test_the_same_seed_gives_the_same_assignment() -> None:
    matrix, target = problem(50, 20, 2)
    twice = [least_violation(matrix, target, np.array([-1.0, 0.0, 1.0]), seed=3).index for _ in range(2)]
    assert np.array_equal(*twice)


def test_solvable_systems_are_solved_and_single_levels_stay() -> None:
    rng = np.random.default_rng(3)
    matrix, truth = rng.normal(size=(30, 12)), rng.integers(0, 2, size=12).astype(float)
    found = least_violation(matrix, matrix @ truth, np.array([0.0, 1.0]))
    assert np.array_equal(found.values, truth) and found.violation == pytest.approx(0, abs=1e-12)
    assert least_violation(matrix, np.zeros(30), np.array([0.5])).values == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["int3-channel", "nf4-g8", "int4-g8-asym", "cb[-1,0,0.4,2]-channel"])
def test_the_worst_output_of_a_row_is_smaller_than_gptqs(name: str) -> None:
    rng = np.random.default_rng(4)
    weight, x = rng.normal(size=(3, 16, 2, 2)).astype(np.float32), rng.normal(size=(80, 64)).astype(np.float32)
    x[:, 3] = 0  # an input that is never seen
    seen, scheme = Statistics(64), Scheme.parse(name)
    seen.update(x)
    first, least = gptq(weight, seen, scheme), min_max_rounding(weight, x, scheme)
    worst = [np.abs(x @ (weight - stored.dequantize()).reshape(3, 64).T).max(axis=0) for stored in (first, least)]
    assert (worst[1] <= worst[0] + 1e-5).all() and worst[1].mean() < 0.9 * worst[0].mean()
    assert least.shape == weight.shape and np.array_equal(least.ranges.scale, first.ranges.scale)


def test_weights_of_zeros_have_nothing_to_choose() -> None:
    stored = min_max_rounding(np.zeros((2, 5)), np.ones((3, 5)), Scheme.parse("int4-channel"))
    assert not stored.dequantize().any()


def test_bad_input_is_refused_by_name() -> None:
    matrix, target = problem(6, 3, 0)
    levels = np.array([0.0, 1.0])
    for call, message in (
        (lambda: least_violation(matrix, target[:2], levels), "matrix must be"),
        (lambda: least_violation(matrix, target, np.ones((2, 2))), "levels must be"),
        (lambda: least_violation(matrix, target, levels[::-1]), "ascend"),
        (lambda: least_violation(matrix * np.nan, target, levels), "finite"),
        (lambda: least_violation(matrix, target, levels, start=np.ones(2)), "start must be"),
        (lambda: least_violation(matrix, target, levels, rounds=-1), "rounds must be"),
        (lambda: min_max_rounding(np.ones((2, 3)), np.ones((4, 2)), Scheme.parse("int4-channel")), "inputs must be"),
        (lambda: min_max_rounding(np.ones((2, 0)), np.ones((4, 2)), Scheme.parse("int4-channel")), "weight is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
