"""Range estimators against brute force over fine lists of ranges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme, ranges
from tercile.quantization.ranges import min_max, mse, quantile

SPELLINGS = [
    f"{grid}-{cut}{tail}"
    for (grid, tail), cut in itertools.product(
        [("int4", "-f32"), ("int2", ""), ("int1", "-bf16"), ("int4", "-asym"), ("int2", "-asym-f32"),
         ("int3", "-asym-k6"), ("int4", "-asym-e8m0"), ("nf4", "-f32"), ("fp8-e4m3", ""), ("fp4-e2m1", "-e8m0"),
         ("fp4-e2m1", "-e4m3"), ("ternary", ""), ("sign", "-f32"), ("pot4", "-k6"), ("cb[0,1,3]", ""),
         ("cb[-2,-1]", ""), ("cb[-1,0]", "-f32")],
        ["g16", "t3x7"],
    )
]  # fmt: skip


def error(x: np.ndarray, scheme: Scheme, made: ranges.RangeEstimator, importance=None) -> float:
    change = QTensor.quantize(x, scheme, made).dequantize().astype(np.float64) - x
    return float((change**2 * (1 if importance is None else importance)).sum())


def values(seed: int = 0, shape=(9, 48)) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, size=shape).astype(np.float32)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_search_is_never_worse_than_min_max(spelling: str) -> None:
    scheme, x = Scheme.parse(spelling), values()
    importance = np.random.default_rng(1).exponential(size=48)
    # Under shared exponents and super-scales the scale that was searched for is not the one that is stored.
    slack = 1.0 if scheme.scale_format.elementwise else 1.02
    assert error(x, scheme, mse(x, scheme)) <= slack * error(x, scheme, min_max(x, scheme)) * (1 + 1e-5)
    weighted = error(x, scheme, mse(x, scheme, importance), importance)
    assert weighted <= slack * error(x, scheme, min_max(x, scheme), importance) * (1 + 1e-5)


@pytest.mark.parametrize("grid", ["int4", "int2", "nf4", "ternary", "sign", "fp4-e2m1", "cb[-1,0,2]"])
def test_symmetric_search_comes_within_a_percent_of_brute_force(grid: str) -> None:
    scheme, x = Scheme.parse(f"{grid}-channel-f32"), values(2, (12, 64))
    importance = np.random.default_rng(3).exponential(size=64)
    stored = QTensor.quantize(x, scheme, mse(x, scheme, importance))
    found = ((stored.dequantize() - x) ** 2 * importance).sum(axis=1)
    best = np.full(len(x), np.inf)
    for share in np.linspace(0.02, 1.1, 400):
        for sign in (1, -1):
            top = np.abs(scheme.grid.levels).max()
            made = scheme.ranges(sign * share * np.abs(x).max(axis=1, keepdims=True) / top)
            off = ((QTensor.quantize(x, scheme, made).dequantize() - x) ** 2 * importance).sum(axis=1)
            best = np.minimum(best, off)
    assert found.sum() <= 1.01 * best.sum() and (found <= 1.1 * best).all()


@pytest.mark.parametrize("spelling", ["int4-channel-asym-f32", "int3-channel-asym-f32", "int2-channel-asym-f32"])
def test_asymmetric_search_comes_within_five_percent_of_brute_force(spelling: str) -> None:
    scheme, x = Scheme.parse(spelling), values(4, (10, 64)) + np.float32(0.5)
    found = ((QTensor.quantize(x, scheme, mse(x, scheme)).dequantize() - x) ** 2).sum(axis=1)
    best, top = np.full(len(x), np.inf), len(scheme.grid.table) - 1
    for low, high in itertools.product(np.linspace(0.1, 1, 46), repeat=2):
        a, b = low * x.min(axis=1, keepdims=True), high * x.max(axis=1, keepdims=True)
        made = scheme.ranges((b - a) / top, a)
        best = np.minimum(best, ((QTensor.quantize(x, scheme, made).dequantize() - x) ** 2).sum(axis=1))
    assert found.sum() <= 1.05 * best.sum()


def test_min_max_clips_nothing() -> None:
    x = values()
    for spelling in ("int4-g16-f32", "int4-g16-asym-f32", "nf4-t3x7-f32", "fp8-e5m2-tensor-f32"):
        scheme = Scheme.parse(spelling)
        made = min_max(x, scheme)
        reach = (made.scale * level + made.offset for level in scheme.grid.levels[[0, -1]])
        ends = [scheme.blocks.spread(each, x.shape) for each in reach]
        step = np.broadcast_to(scheme.blocks.spread(made.scale, x.shape), x.shape)
        slack = 0.501 * step if scheme.asymmetric else 1e-5  # the zero point is rounded
        assert (x >= ends[0] - slack).all() and (x <= ends[1] + slack).all()


def test_quantile_of_one_is_min_max_and_lower_levels_clip() -> None:
    x, scheme = values(), Scheme.parse("int4-channel-asym-f32")
    whole = min_max(x, scheme)
    assert np.array_equal(quantile(x, scheme, level=1).scale, whole.scale)
    scale = quantile(x, scheme, level=0.9).scale
    assert np.allclose(scale[:, 0] * 15, np.diff(np.quantile(x, [0.1, 0.9], axis=1), axis=0)[0], rtol=1e-5)


def test_only_ratios_of_importance_count() -> None:
    x, scheme = values(), Scheme.parse("int3-g16-asym")
    importance = np.random.default_rng(0).exponential(size=48)
    once = mse(x, scheme, importance)
    for factor in (2.0**-200, 2.0**200):
        assert np.array_equal(mse(x, scheme, importance * factor).scale, once.scale)


def test_blocks_without_importance_are_ranged_as_if_all_mattered() -> None:
    x, scheme = values(), Scheme.parse("int3-g16")
    importance = np.ones(48)
    importance[16:32] = 0
    assert np.array_equal(mse(x, scheme, importance).scale[:, 1], mse(x, scheme).scale[:, 1])
    assert np.array_equal(mse(x, scheme, np.zeros(48)).scale, mse(x, scheme).scale)


@pytest.mark.parametrize("factor", [2.0**-90, 2.0**-30, 2.0**90])
@pytest.mark.parametrize("spelling", ["int4-g16-f32", "int4-g16-asym-f32", "nf4-g16-bf16", "fp4-e2m1-g16-e8m0"])
def test_a_power_of_two_scales_along(spelling: str, factor: float) -> None:
    x, scheme = values(), Scheme.parse(spelling)
    factor = np.float32(factor)
    for estimate in (min_max, mse):
        assert np.array_equal(estimate(x * factor, scheme).scale, estimate(x, scheme).scale * factor)


@pytest.mark.parametrize("estimate", [min_max, quantile, mse])
@pytest.mark.parametrize("constant", [0.0, 1.0, -2.5, 1e-30, 3e30])
def test_constant_blocks_are_kept(estimate, constant: float) -> None:
    x = np.full((3, 20), constant, dtype=np.float32)
    for spelling in ("int4-g8-f32", "int4-g8-asym-f32", "int2-tensor-asym-bf16", "nf4-channel-f32", "ternary-t2x9-f32"):
        scheme = Scheme.parse(spelling)
        stored = QTensor.quantize(x, scheme, estimate(x, scheme)).dequantize()
        assert np.allclose(stored, x, rtol=0.02)


@pytest.mark.parametrize("estimate", [min_max, quantile, mse])
@pytest.mark.parametrize(
    "x, message",
    [(np.zeros((0, 4)), r"empty \(shape \(0, 4\)\)"), ([[1, np.nan]], "NaN or inf"), ([[np.inf, 1]], "NaN or inf")],
)
def test_bad_values_are_refused(estimate, x, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(np.float32(x), Scheme.parse("int4-g16"))


@pytest.mark.parametrize(
    "importance, message",
    [(np.ones(3), r"shape \(3,\).* 48"), (-np.ones(48), "not negative"), (np.full(48, np.nan), "finite")],
)
def test_bad_importance_is_refused(importance, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mse(values(), Scheme.parse("int4-g16"), importance)


@pytest.mark.parametrize("level", [0.5, 1.01, 95, float("nan")])
def test_a_level_that_is_none_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level must be"):
        quantile(values(), Scheme.parse("int4-g16"), level=level)


def test_float16_overflow_is_refused_by_name() -> None:
    for estimate in (min_max, mse):
        with pytest.raises(ValueError, match=r"does not fit f16 .*use a scheme with bf16 or f32"):
            estimate(values() * np.float32(1e9), Scheme.parse("int4-g16"))
