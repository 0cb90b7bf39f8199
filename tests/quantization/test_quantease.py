"""Coordinate descent from the weight itself, relaxed sweeps, and outliers, against enumeration and the definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tercile.quantization import Scheme
from tercile.quantization.outliers import OutlierTensor
from tercile.quantization.ranges import min_max
from tercile.quantization.solvers import (
    coordinate_descent,
    gpfq,
    gptq,
    output_error,
    quantease,
    quantease_outliers,
    round_to_nearest,
)
from tercile.quantization.statistics import Statistics


def problem(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, Statistics]:
    rng = np.random.default_rng([rows, columns, seed])
    seen = Statistics(columns)
    seen.update(rng.normal(size=(3 * columns, columns)) @ rng.normal(size=(columns, columns)))
    return rng.normal(size=(rows, columns)).astype(np.float32), seen


def error(weight: np.ndarray, stored: np.ndarray, seen: Statistics) -> float:
    change = (weight - stored).astype(np.float64)
    return float(np.sum(change @ seen.second_moment * change))


def descended(weight, seen, levels, sweeps, relaxed):
    """The same sweeps in float64, straight from the gradient, columns in order of falling second moment."""
    hessian = seen.second_moment.astype(np.float64) + 0.01 * np.diagonal(seen.second_moment).mean() * np.eye(
        len(levels[0])
    )
    order = np.argsort(-np.diagonal(seen.second_moment), kind="stable")
    stored = weight.astype(np.float64).copy()
    for sweep in range(sweeps):
        rounds = not relaxed or sweep % 3 != 1 or sweep + 1 == sweeps
        for p in order:
            place = stored[:, p] + (weight - stored) @ hessian[:, p] / hessian[p, p]
            for row in range(len(weight)):
                choice = levels[row][p]
                stored[row, p] = choice[np.abs(choice - place[row]).argmin()] if rounds else place[row]
    return stored


@pytest.mark.parametrize("sweeps", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("name", ["int3-channel-f32", "nf4-g4-f32"])
def test_sweeps_are_those_of_the_definition(name: str, sweeps: int) -> None:
    weight, seen = problem(3, 11)
    scheme = Scheme.parse(name)
    got = quantease(weight, seen, scheme, min_max, sweeps=sweeps)
    scale = np.broadcast_to(scheme.blocks.spread(got.ranges.scale, weight.shape), weight.shape)
    levels = scale[..., None] * scheme.grid.levels.astype(np.float64)
    assert got.dequantize() == pytest.approx(descended(weight, seen, levels, sweeps, True), abs=1e-5)


def test_the_first_sweep_is_greedy_path_following() -> None:
    weight, seen = problem(20, 33)
    for name in ("int4-g8", "ternary-channel", "nf4-g16"):
        scheme = Scheme.parse(name)
        assert np.array_equal(quantease(weight, seen, scheme, sweeps=1).codes, gpfq(weight, seen, scheme).codes)


def test_it_is_close_to_the_best_of_all_ternary_rows() -> None:
    scheme, ratios = Scheme.parse("ternary-channel-f32"), []
    for seed in range(20):
        weight, seen = problem(1, 7, seed)
        got = quantease(weight, seen, scheme, sweeps=24)
        scale = got.ranges.scale[0, 0]
        every = scale * np.array(list(itertools.product((-1, 0, 1), repeat=7)), dtype=np.float64)
        best = min(error(weight, row[None], seen) for row in every)
        mine, plain = (
            error(weight, got.dequantize(), seen),
            error(weight, scale * np.clip(np.round(weight / scale), -1, 1), seen),
        )
        assert mine >= best * (1 - 1e-6)
        ratios.append((mine / best, plain / best))
    mine, plain = np.exp(np.log(ratios).mean(axis=0))
    assert mine < 1.3 and mine < 0.7 * plain


@pytest.mark.parametrize("name", ["int2-g16", "int3-channel-f32", "nf4-g64"])
def test_relaxed_sweeps_after_gptq_never_add_error_to_a_row_and_find_better_codes(name: str) -> None:
    scheme, gains = Scheme.parse(name), []
    for seed in range(4):
        weight, seen = problem(40, 64, seed)
        first = gptq(weight, seen, scheme)
        plain = coordinate_descent(weight, first, seen, sweeps=24)
        relaxed = coordinate_descent(weight, first, seen, sweeps=24, relaxed=True)
        for row in range(0, 40, 7):
            one = slice(row, row + 1)
            before = error(weight[one], first.dequantize()[one], seen)
            assert error(weight[one], relaxed.dequantize()[one], seen) <= before * (1 + 1e-5)
        gains.append(output_error(weight, relaxed, seen) / output_error(weight, plain, seen))
    assert np.mean(gains) < 0.99


def test_more_sweeps_lower_the_objective_of_the_definition() -> None:
    weight, seen = problem(30, 48)
    scheme = Scheme.parse("int2-channel")
    errors = [output_error(weight, quantease(weight, seen, scheme, sweeps=n), seen) for n in (1, 3, 12, 48)]
    assert errors == sorted(errors, reverse=True)


def heavy(rows: int, columns: int) -> tuple[np.ndarray, Statistics]:
    weight, seen = problem(rows, columns)
    rng = np.random.default_rng(9)
    weight[rng.random(weight.shape) < 0.01] *= 12
    return weight, seen


@pytest.mark.parametrize("kind", ["weights", "inputs"])
def test_outliers_lower_the_error_more_than_keeping_the_largest_weights(kind: str) -> None:
    weight, seen = heavy(40, 80)
    scheme = Scheme.parse("int3-channel")
    both = quantease_outliers(weight, seen, scheme, share=0.05, kind=kind)
    sparse = both.sparse
    if kind == "weights":
        count = round(0.05 * weight.size)
        largest = np.abs(weight) >= np.sort(np.abs(weight).reshape(-1))[-count]
    else:
        count = 4 * 40
        largest = np.zeros(weight.shape, bool)
        largest[:, np.argsort(-np.square(weight).sum(axis=0))[:4]] = True
        assert len(np.unique(both.columns)) == 4
    assert (sparse != 0).sum() <= count
    rest = np.where(largest, 0, weight)
    plain = np.where(largest, weight, quantease(rest, seen, scheme, sweeps=24).dequantize())
    alone = output_error(weight, quantease(weight, seen, scheme, sweeps=24), seen)
    assert error(weight, both.dequantize(), seen) < 0.95 * error(weight, plain, seen)
    assert error(weight, both.dequantize(), seen) < 0.7 * alone


def test_the_values_of_outliers_are_the_best_in_their_places() -> None:
    weight, seen = heavy(10, 30)
    both = quantease_outliers(weight, seen, Scheme.parse("int4-channel"), share=0.05)
    best = error(weight, both.dequantize(), seen)
    for row, column in np.argwhere(both.sparse != 0)[::3]:
        for step in (-0.02, 0.02):
            moved = both.dequantize()
            moved[row, column] += step
            assert error(weight, moved, seen) >= best * (1 - 1e-3)


def test_no_outliers_is_plain_and_everything_stored_is_counted() -> None:
    weight, seen = heavy(12, 20)
    scheme = Scheme.parse("int4-channel")
    none = quantease_outliers(weight, seen, scheme, share=0, rounds=1)
    assert np.array_equal(none.dense.codes, quantease(weight, seen, scheme, sweeps=3).codes) or none.values.size == 0
    some = quantease_outliers(weight.reshape(12, 5, 2, 2), seen, scheme, share=0.05)
    assert some.shape == (12, 5, 2, 2) and some.dequantize().shape == some.shape
    assert some.nbytes == some.dense.nbytes + 4 * 12 + 4 * 12  # 12 outliers of 2 + 2 bytes, 12 row ends of 4
    assert some.bits_per_weight == 8 * some.nbytes / 240


def test_dead_inputs_and_zero_statistics_stay_finite() -> None:
    weight, seen = np.ones((3, 6), np.float32), Statistics(6)
    for statistics in (seen, problem(3, 6)[1]):
        stored = quantease_outliers(weight, statistics, Scheme.parse("int2-g3"), share=0.1)
        assert np.isfinite(stored.dequantize()).all()


def test_bad_input_is_refused_by_name() -> None:
    weight, seen = problem(3, 6)
    scheme = Scheme.parse("int4-channel")
    for wrong, message in (
        ({"share": 0.6}, "share of outliers must be 0 to 0.5, got 0.6"),
        ({"kind": "rows"}, "kind must be 'weights' or 'inputs', got 'rows'"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"damping": 0}, "damping must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            quantease_outliers(weight, seen, scheme, **wrong)
    with pytest.raises(ValueError, match="sweeps must be at least 1"):
        quantease(weight, seen, scheme, sweeps=0)
    with pytest.raises(ValueError, match="beyond float16"):
        OutlierTensor.from_matrix(round_to_nearest(weight, seen, scheme), np.full((3, 6), 1e6))
    with pytest.raises(ValueError, match="they must match"):
        OutlierTensor.from_matrix(round_to_nearest(weight, seen, scheme), np.ones((3, 5)))
