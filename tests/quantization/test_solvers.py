"""GPTQ against the paper's algorithm written plainly in float64, and against the true optimum of tiny problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme, solvers
from tercile.quantization.ranges import min_max, mse
from tercile.quantization.solvers import bias_correction, coordinate_descent, gptq, output_error, round_to_nearest
from tercile.quantization.solvers.gptq import damped_factor
from tercile.quantization.statistics import Statistics


def inputs(columns: int, seed: int = 0, samples: int = 0) -> np.ndarray:
    rng = np.random.default_rng([columns, seed])
    mixing = rng.normal(size=(columns, columns)) * rng.exponential(size=columns)
    return rng.normal(size=(samples or 4 * columns, columns)) @ mixing + rng.normal(size=columns)


def seen_of(x: np.ndarray) -> Statistics:
    seen = Statistics(x.shape[1])
    seen.update(x)
    return seen


def papers_gptq(weight, hessian, scheme: Scheme, made, activation_order: bool, damping: float = 0.01) -> np.ndarray:
    """Algorithm 1 of Frantar et al. (2023) with B = 1: the inverse, its Cholesky factor, one column after the other."""
    w, h = weight.astype(np.float64).copy(), hessian.astype(np.float64).copy()
    scale = np.broadcast_to(scheme.blocks.spread(made.scale, w.shape), w.shape).astype(np.float64)
    offset = np.broadcast_to(scheme.blocks.spread(made.offset, w.shape), w.shape).astype(np.float64)
    levels = scheme.grid.levels.astype(np.float64)
    order = np.argsort(-np.diag(h), kind="stable") if activation_order else np.arange(len(h))
    h += damping * np.diag(h).mean() * np.eye(len(h))
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    result = np.zeros_like(w)
    for place, column in enumerate(order):
        x = w[:, column]
        every = scale[:, column, None] * levels + offset[:, column, None]
        result[:, column] = every[np.arange(len(w)), np.abs(every - x[:, None]).argmin(axis=1)]
        error = (x - result[:, column]) / upper[place, place]
        w[:, order[place:]] -= np.outer(error, upper[place, place:])
    return result


@pytest.mark.parametrize("activation_order", [True, False])
@pytest.mark.parametrize("shape", [(70, 100), (3, 257), (65, 1), (1, 130)])
@pytest.mark.parametrize(
    "spelling", ["int4-g32-asym", "int3-channel", "int2-g16-asym-k6", "nf4-g16", "ternary-t4x20", "int8-tensor-f32",
                 "fp8-e4m3-g32-bf16", "sign-channel", "fp4-e2m1-g16-e8m0", "int1-g7-asym"]
)  # fmt: skip
def test_codes_are_those_of_the_papers_algorithm(spelling: str, shape, activation_order: bool) -> None:
    scheme, seen = Scheme.parse(spelling), seen_of(inputs(shape[1]))
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    stored = gptq(weight, seen, scheme, activation_order=activation_order)
    plain = papers_gptq(weight, seen.second_moment, scheme, stored.ranges, activation_order)
    different = np.abs(stored.dequantize() - plain) > 1e-4 * np.abs(plain).max()
    # A tie tipped by float32 moves the rest of its row: few rows may differ, and none may be worse for it.
    assert different.any(axis=1).mean() <= 0.1 + (shape[0] == 1)
    change = weight - plain
    error = np.einsum("ij,jk,ik->", change, seen.second_moment.astype(np.float64), change)
    assert output_error(weight, stored, seen) == pytest.approx(error, rel=0.03 if different.any() else 1e-3)


@pytest.mark.parametrize("spelling", ["int2-channel-f32", "ternary-channel-f32", "int2-g3-asym-f32"])
def test_tiny_problems_come_near_the_true_optimum(spelling: str) -> None:
    scheme, greedy, nearest, best = Scheme.parse(spelling), 0.0, 0.0, 0.0
    for seed in range(30):
        x = inputs(6, seed)
        seen, weight = seen_of(x), np.random.default_rng(seed).normal(size=(1, 6)).astype(np.float32)
        stored = gptq(weight, seen, scheme)
        made = stored.ranges
        scale, offset = (np.broadcast_to(scheme.blocks.spread(p, (1, 6)), (1, 6))[0] for p in (made.scale, made.offset))
        codes = np.array(list(itertools.product(scheme.grid.levels, repeat=6)))
        change = (weight[0] - (codes * scale + offset)).astype(np.float64)
        errors = np.einsum("ij,jk,ik->i", change, seen.second_moment.astype(np.float64), change)
        own = output_error(weight, stored, seen)
        assert own >= errors.min() * (1 - 1e-4)
        greedy, best = greedy + own, best + errors.min()
        nearest += output_error(weight, round_to_nearest(weight, seen, scheme), seen)
    assert best <= greedy <= 2 * best
    assert greedy - best <= 0.5 * (nearest - best)


def test_error_is_far_below_round_to_nearests_on_correlated_inputs() -> None:
    for bits, factor in [(4, 0.5), (3, 0.5), (2, 0.6)]:
        seen, weight = seen_of(inputs(64)), np.random.default_rng(0).normal(size=(32, 64))
        scheme = Scheme.parse(f"int{bits}-g32-asym")
        plain = output_error(weight, round_to_nearest(weight, seen, scheme), seen)
        assert output_error(weight, gptq(weight, seen, scheme), seen) < factor * plain


def test_uncorrelated_inputs_leave_nothing_to_make_good() -> None:
    seen = seen_of(np.concatenate([np.eye(24), -np.eye(24)]) * np.arange(1, 25))
    weight = np.random.default_rng(0).normal(size=(10, 24)).astype(np.float32)
    for spelling in ("int4-g8-asym", "nf4-channel", "ternary-t3x5"):
        scheme = Scheme.parse(spelling)
        own, plain = (solve(weight, seen, scheme, min_max) for solve in (gptq, round_to_nearest))
        assert np.array_equal(own.words, plain.words)


def test_fewer_samples_than_inputs_need_no_care() -> None:
    x = inputs(200, samples=20)
    weight = np.random.default_rng(0).normal(size=(16, 200)).astype(np.float32)
    scheme = Scheme.parse("int3-g64-asym")
    for damping in (1e-9, 1e-4, 0.01, 1.0):
        stored = gptq(weight, seen_of(x), scheme, damping=damping)
        plain = output_error(weight, round_to_nearest(weight, seen_of(x), scheme), seen_of(x))
        assert output_error(weight, stored, seen_of(x)) <= plain


@pytest.mark.parametrize("damping", [1e-6, 0.01, 1.0])
def test_the_factor_squared_is_the_damped_second_moment(damping: float) -> None:
    hessian = seen_of(inputs(40)).second_moment
    upper = np.triu(damped_factor(hessian, damping)).astype(np.float64)
    unit = np.diag(hessian).astype(np.float64).mean()
    assert np.allclose(upper.T @ upper, hessian / unit + damping * np.eye(40), atol=3e-5)


def test_a_matrix_that_is_no_second_moment_is_damped_until_it_is_and_refused_when_that_does_not_help() -> None:
    slightly = np.eye(3, dtype=np.float32)
    slightly[0, 1] = slightly[1, 0] = 1.5
    upper = np.triu(damped_factor(slightly, 0.01)).astype(np.float64)
    assert np.allclose(upper.T @ upper, slightly + np.eye(3), atol=1e-5)
    badly = np.where(np.eye(3) > 0, 1, 100).astype(np.float32)
    with pytest.raises(ValueError, match="ten times its diagonal"):
        damped_factor(badly, 0.01)
    with pytest.raises(ValueError, match="NaN or infinity"):
        damped_factor(np.full((2, 2), np.nan, np.float32), 0.01)


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_damping_must_be_positive(damping: float) -> None:
    with pytest.raises(ValueError, match=r"damping must be above 0.*0\.01"):
        gptq(np.ones((2, 4)), seen_of(inputs(4)), Scheme.parse("int4-g4"), damping=damping)


def test_statistics_without_a_second_moment_are_refused_by_gptq_only() -> None:
    seen = Statistics(4, second_moment=False)
    seen.update(inputs(4))
    assert round_to_nearest(np.ones((2, 4)), seen, Scheme.parse("int4-g4")).shape == (2, 4)
    with pytest.raises(ValueError, match="second_moment=True"):
        gptq(np.ones((2, 4)), seen, Scheme.parse("int4-g4"))


def test_round_to_nearest_takes_each_weight_to_its_nearest_stored_value() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    scheme = Scheme.parse("nf4-g8-f32")
    stored = round_to_nearest(weight, None, scheme, min_max)
    made = min_max(weight, scheme)
    every = scheme.blocks.spread(made.scale, weight.shape)[..., None] * scheme.grid.levels
    assert np.allclose(np.abs(stored.dequantize() - weight), np.abs(every - weight[..., None]).min(axis=-1), atol=1e-6)
    assert np.array_equal(stored.ranges.scale, made.scale)


def test_output_error_is_the_mean_squared_change_of_the_output() -> None:
    x, weight = inputs(20), np.random.default_rng(0).normal(size=(7, 4, 5))
    stored = round_to_nearest(weight, None, Scheme.parse("int3-channel"))
    change = x @ (weight - stored.dequantize()).reshape(7, 20).T
    assert output_error(weight, stored, seen_of(x)) == pytest.approx((change**2).sum() / len(x), rel=1e-4)
    scaled = round_to_nearest(weight * 2.0**90, None, Scheme.parse("int3-channel-f32"))
    assert np.isfinite(output_error(weight * 2.0**90, scaled, seen_of(x)))


def test_bias_correction_takes_the_mean_change_away() -> None:
    x, weight = inputs(20), np.random.default_rng(0).normal(size=(7, 20))
    stored = round_to_nearest(weight, None, Scheme.parse("int2-channel"))
    after = x @ stored.dequantize().T + bias_correction(weight, stored, seen_of(x))
    assert np.allclose(after.mean(axis=0), (x @ weight.T).mean(axis=0), atol=1e-3)


def test_measures_refuse_what_does_not_fit() -> None:
    stored = round_to_nearest(np.ones((2, 4)), None, Scheme.parse("int4-g4"))
    for measure in (output_error, bias_correction):
        with pytest.raises(ValueError, match="statistics are of 5 inputs"):
            measure(np.ones((2, 4)), stored, Statistics(5))
        with pytest.raises(ValueError, match=r"quantized has shape \(2, 4\), weight \(4, 4\)"):
            measure(np.ones((4, 4)), stored, Statistics(4))


def test_importance_lies_between_the_second_moment_and_what_later_columns_cannot_make_good() -> None:
    x = inputs(20)
    x[:, 4] = 0
    seen, weight = seen_of(x), np.random.default_rng(0).normal(size=(7, 20)).astype(np.float32)
    hessian, got = seen.second_moment.astype(np.float64), []

    def spy(values, scheme, importance=None):
        got.append(importance)
        return mse(values, scheme, importance)

    round_to_nearest(weight, seen, Scheme.parse("int3-g8"), spy)
    assert np.allclose(got[0], np.diag(hessian), rtol=1e-4)
    gptq(weight, seen, Scheme.parse("int3-g8"), spy)
    alive = np.diag(hessian) > 0
    damped = hessian[np.ix_(alive, alive)]
    damped = damped + 0.01 * np.diag(damped).mean() * np.eye(19)
    order = np.argsort(-np.diag(damped), kind="stable")
    left = np.empty(19)
    for place, column in enumerate(order):  # the Schur complement over the columns after it
        later = order[place + 1 :]
        solved = np.linalg.solve(damped[np.ix_(later, later)], damped[later, column])
        left[column] = damped[column, column] - damped[column, later] @ solved
    left = np.sqrt(left * np.diag(hessian)[alive])
    assert got[1][4] == 0
    assert np.allclose(got[1][alive] / got[1].sum(), left / left.sum(), rtol=1e-3)


def test_better_importance_lowers_the_error() -> None:
    scheme, own, diagonal = Scheme.parse("int2-g32-asym"), 0.0, 0.0
    for seed in range(6):
        seen, weight = seen_of(inputs(96, seed)), np.random.default_rng(seed).normal(size=(48, 96))
        diag = np.diag(seen.second_moment)
        own += output_error(weight, gptq(weight, seen, scheme), seen)
        plain = gptq(weight, seen, scheme, lambda v, s, _, d=diag: mse(v, s, d))
        diagonal += output_error(weight, plain, seen)
    assert own < diagonal


def test_the_rooms_names_are_there() -> None:
    assert all(hasattr(solvers, name) for name in solvers.__all__)


def plain_descent(weight, stored: QTensor, hessian, damping: float = 0.01) -> np.ndarray:
    """One sweep in float64, each weight to the best of all its levels by the error itself."""
    scheme, made = stored.scheme, stored.ranges
    w, q = weight.astype(np.float64), stored.dequantize().astype(np.float64)
    h = hessian.astype(np.float64) + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    scale = np.broadcast_to(scheme.blocks.spread(made.scale, w.shape), w.shape)
    offset = np.broadcast_to(scheme.blocks.spread(made.offset, w.shape), w.shape)
    for column in np.argsort(-np.diag(hessian), kind="stable"):
        for row in range(len(w)):
            tried = np.repeat(q[row : row + 1], len(scheme.grid.levels), axis=0)
            tried[:, column] = scale[row, column] * scheme.grid.levels.astype(np.float64) + offset[row, column]
            change = w[row] - tried
            q[row] = tried[np.einsum("ij,jk,ik->i", change, h, change).argmin()]
    return q


@pytest.mark.parametrize("spelling", ["int2-g16-asym", "nf4-channel", "ternary-t4x20", "fp4-e2m1-g16-e8m0", "sign-g7"])
def test_a_sweep_of_descent_is_that_of_brute_force(spelling: str) -> None:
    seen, weight = seen_of(inputs(37)), np.random.default_rng(1).normal(size=(9, 37)).astype(np.float32)
    for first in (gptq, round_to_nearest):
        stored = first(weight, seen, Scheme.parse(spelling))
        ours = coordinate_descent(weight, stored, seen, sweeps=1).dequantize()
        plain = plain_descent(weight, stored, seen.second_moment)
        assert (np.abs(ours - plain) > 1e-4).any(axis=1).mean() <= 0.12


@pytest.mark.parametrize("first", [gptq, round_to_nearest])
@pytest.mark.parametrize("spelling", ["int4-g32-asym", "int2-channel", "nf4-g64-bf16", "fp8-e4m3-tensor-f32"])
def test_descent_never_raises_the_error_and_ends_where_nothing_is_gained(spelling: str, first) -> None:
    for columns, samples in [(96, 0), (70, 10), (1, 0)]:
        seen, weight = seen_of(inputs(columns, samples=samples)), np.random.default_rng(2).normal(size=(67, columns))
        stored = first(weight, seen, Scheme.parse(spelling))
        h = seen.second_moment + 0.01 * np.diag(seen.second_moment).mean() * np.eye(columns)

        def error(q: QTensor, weight=weight, h=h) -> float:
            change = weight - q.dequantize()
            return float(np.einsum("ij,jk,ik->", change, h, change))

        errors = [error(coordinate_descent(weight, stored, seen, sweeps=n)) for n in (0, 1, 2, 5, 60)]
        assert errors[0] == error(stored)
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(errors))
        settled = coordinate_descent(weight, stored, seen, sweeps=60)
        assert error(coordinate_descent(weight, settled, seen, sweeps=1)) == pytest.approx(errors[-1], rel=1e-6)


def test_descent_from_round_to_nearest_on_unseen_inputs_changes_nothing() -> None:
    weight, seen = np.random.default_rng(0).normal(size=(5, 12)), Statistics(12)
    stored = round_to_nearest(weight, None, Scheme.parse("int3-g4"))
    assert np.array_equal(coordinate_descent(weight, stored, seen).words, stored.words)


def test_descent_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, weight = seen_of(inputs(50)), np.random.default_rng(0).normal(size=(200, 50))
    words = []
    for threads in ("1", "3"):
        monkeypatch.setenv("TERCILE_THREADS", threads)
        words.append(coordinate_descent(weight, gptq(weight, seen, Scheme.parse("nf4-g8")), seen).words.tobytes())
    assert words[0] == words[1]


def test_descent_refuses_what_does_not_fit() -> None:
    seen, weight = seen_of(inputs(4)), np.ones((2, 4))
    stored = round_to_nearest(weight, None, Scheme.parse("int4-g4"))
    for call, message in [
        (lambda: coordinate_descent(np.ones((4, 4)), stored, seen), r"quantized has shape \(2, 4\)"),
        (lambda: coordinate_descent(weight, stored, Statistics(5)), "statistics are of 5 inputs"),
        (lambda: coordinate_descent(weight, stored, seen, sweeps=-1), "sweeps must be at least 0, got -1"),
        (lambda: coordinate_descent(weight, stored, seen, damping=0), "damping must be above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
