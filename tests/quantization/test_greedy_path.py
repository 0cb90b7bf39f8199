"""Greedy path following against the definition, input by input; its threshold rounding; cross moments."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import Scheme, grids
from tercile.quantization.cross_moment import CrossMoment
from tercile.quantization.ranges import min_max
from tercile.quantization.solvers import gpfq, hard_threshold, output_error, round_to_nearest, soft_threshold
from tercile.quantization.statistics import Statistics


def seen_and_cross(now: np.ndarray, before: np.ndarray) -> tuple[Statistics, CrossMoment]:
    statistics, cross = Statistics(now.shape[1]), CrossMoment(now.shape[1])
    statistics.update(now)
    cross.update(now, before)
    return statistics, cross


def followed(weight, now, before, levels_of, quantize=None):
    """The paper's recursion on the inputs themselves, in float64: one u for each output."""
    rows, columns = weight.shape
    u, stored = np.zeros((rows, len(now))), np.zeros((rows, columns))
    for t in range(columns):
        u += np.outer(weight[:, t], before[:, t])
        place = u @ now[:, t] / (now[:, t] @ now[:, t])
        for row in range(rows):
            levels = levels_of(row, t)
            x = place[row]
            stored[row, t] = levels[np.abs(levels - x).argmin()] if quantize is None else quantize(x, levels)
        u -= np.outer(stored[:, t], now[:, t])
    return stored


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    "name", ["int3-channel-f32", "ternary-g5-f32", "nf4-channel-f32", "cb[-3,-1,0.5,2]-tensor-f32"]
)
def test_it_follows_the_papers_recursion_on_the_inputs_themselves(name: str, same: bool) -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(50, 13)) @ rng.normal(size=(13, 13))
    now = before if same else before + 0.3 * rng.normal(size=before.shape)
    weight, scheme = rng.normal(size=(4, 13)), Scheme.parse(name)
    seen, cross = seen_and_cross(now, before)
    got = gpfq(weight, seen, scheme, min_max, original=None if same else cross, activation_order=False, damping=0.0)
    made = got.ranges
    scale = np.broadcast_to(scheme.blocks.spread(made.scale, weight.shape), weight.shape)
    expected = followed(weight, now, before, lambda row, t: scale[row, t] * scheme.grid.levels.astype(np.float64))
    assert got.dequantize() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind, size", [("soft", 0.6), ("hard", 0.9)])
def test_thresholds_round_the_shrunk_or_cut_value(kind: str, size: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 9)) @ rng.normal(size=(9, 9))
    weight, scheme = rng.normal(size=(5, 9)), Scheme.parse("int3-channel-f32")
    seen, _ = seen_and_cross(x, x)
    rounding = soft_threshold(size) if kind == "soft" else hard_threshold(size)
    got = gpfq(weight, seen, scheme, min_max, rounding=rounding, activation_order=False, damping=0.0)
    scale = got.ranges.scale[:, 0]

    def cut(place, levels):
        unit = levels[1] - levels[0]
        if kind == "soft":
            place = np.sign(place) * max(abs(place) - size * unit, 0)
        elif abs(place) <= size * unit:
            return 0.0
        return levels[np.abs(levels - place).argmin()]

    expected = followed(weight, x, x, lambda row, t: scale[row] * scheme.grid.levels.astype(np.float64), cut)
    assert got.dequantize() == pytest.approx(expected, abs=1e-5)


def test_a_threshold_of_nothing_changes_nothing_and_larger_ones_give_more_zeros() -> None:
    rng = np.random.default_rng(2)
    weight, seen = rng.normal(size=(20, 60)), Statistics(60)
    seen.update(rng.normal(size=(90, 60)))
    scheme = Scheme.parse("int3-channel")
    plain = gpfq(weight, seen, scheme).dequantize()
    zeros = []
    for size in (0.0, 0.5, 1.0, 2.0):
        soft = gpfq(weight, seen, scheme, rounding=soft_threshold(size)).dequantize()
        hard = gpfq(weight, seen, scheme, rounding=hard_threshold(max(size, 0.5))).dequantize()
        if size <= 0.5:
            assert np.array_equal(hard, plain)
        if size == 0:
            assert np.array_equal(soft, plain)
        zeros.append((soft == 0).mean())
    assert zeros == sorted(zeros) and zeros[-1] > zeros[0] + 0.2


def test_the_error_falls_as_one_over_the_number_of_inputs() -> None:
    rng = np.random.default_rng(3)
    scheme, errors = Scheme.parse("ternary-channel"), []
    for columns in (128, 1024):
        weight, seen = rng.uniform(-1, 1, size=(16, columns)), Statistics(columns)
        seen.update(rng.normal(size=(16, columns)))
        nothing = output_error(weight, round_to_nearest(np.zeros_like(weight), None, scheme), seen)
        errors.append(output_error(weight, gpfq(weight, seen, scheme, damping=0.0), seen) / nothing)
    assert errors[1] < errors[0] / 5  # eight times as many


def test_following_the_original_path_beats_the_path_that_is_there() -> None:
    rng = np.random.default_rng(4)
    before = rng.normal(size=(400, 40)) @ rng.normal(size=(40, 40))
    now = before @ (np.eye(40) + 0.05 * rng.normal(size=(40, 40)))  # what earlier layers did can be made good
    weight, scheme = rng.normal(size=(30, 40)), Scheme.parse("int4-channel")
    seen, cross = seen_and_cross(now.astype(np.float32), before.astype(np.float32))
    off = [
        np.square(before @ weight.T - now @ stored.dequantize().T).mean()
        for stored in (gpfq(weight, seen, scheme, original=cross), gpfq(weight, seen, scheme))
    ]
    assert off[0] < 0.7 * off[1]


def test_a_convolution_is_its_matrix_of_patches() -> None:
    rng = np.random.default_rng(5)
    weight, seen = rng.normal(size=(6, 2, 3, 3)), Statistics(18)
    seen.update(rng.normal(size=(100, 18)))
    scheme = Scheme.parse("int4-channel")
    assert np.array_equal(gpfq(weight, seen, scheme).codes, gpfq(weight.reshape(6, 18), seen, scheme).codes)


def test_cross_moments_add_up_and_equal_the_second_moment_of_equal_inputs() -> None:
    rng = np.random.default_rng(6)
    now, before = (rng.normal(size=(70, 8)).astype(np.float32) for _ in range(2))
    whole, left, right = CrossMoment(8), CrossMoment(8), CrossMoment(8)
    whole.update(now, before), left.update(now[:30], before[:30]), right.update(now[30:], before[30:])
    assert whole.value == pytest.approx(now.T @ before / 70, abs=1e-5)
    assert (left | right).value == pytest.approx(whole.value, abs=1e-5) and (left | right).count == 70
    assert (left | right).original_mean == pytest.approx(before.mean(axis=0), abs=1e-6)
    seen, same = seen_and_cross(now, now)
    assert same.value == pytest.approx(seen.second_moment, abs=1e-5)


def test_bad_input_is_refused_by_name() -> None:
    seen, weight = Statistics(4), np.ones((2, 4))
    with pytest.raises(ValueError, match="original is of 3 inputs, but weight has 4 columns"):
        gpfq(weight, seen, Scheme.parse("int4-channel"), original=CrossMoment(3))
    with pytest.raises(ValueError, match="damping must be at least 0"):
        gpfq(weight, seen, Scheme.parse("int4-channel"), damping=-1)
    with pytest.raises(ValueError, match="'sign' has no zero"):
        gpfq(weight, seen, Scheme.parse("sign-channel"), rounding=soft_threshold(0.1))
    with pytest.raises(ValueError, match="at least 0 and finite"):
        hard_threshold(float("nan"))
    with pytest.raises(ValueError, match="now has 2 rows, original 3"):
        CrossMoment(4).update(np.ones((2, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="original holds NaN"):
        CrossMoment(4).update(np.ones((2, 4)), np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="channels must be at least 1"):
        CrossMoment(0)
    with pytest.raises(ValueError, match="of 4 channels, the other of 5"):
        CrossMoment(4) | CrossMoment(5)


def test_the_papers_hard_alphabet_is_a_code_book_with_a_threshold() -> None:
    cut, step = 0.5, 0.25
    alphabet = grids.codebook([0, *(sign * (cut + k * step) for sign in (-1, 1) for k in range(4))])
    middles = hard_threshold(cut)(alphabet)
    for x in np.linspace(-2, 2, 1001):
        if abs(abs(x) - cut) < 1e-9:
            continue
        if abs(x) <= cut:
            expected = 0.0
        else:
            expected = np.sign(x) * (cut + step * min(np.floor((abs(x) - cut) / step + 0.5), 3))
        assert alphabet.levels[(middles < x).sum()] == pytest.approx(expected)
