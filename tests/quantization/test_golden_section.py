"""The golden-section range and the bent grid, against a search over thousands of ranges."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme
from tercile.quantization.grids import integer
from tercile.quantization.ranges import golden_section, min_max, reshaped
from tercile.quantization.ranges.reshaping import bent

random = np.random.default_rng(7)
OUTLIER = random.normal(size=4000)
OUTLIER[0] = 60
WEIGHTS = {
    "gauss": random.normal(size=4000),
    "laplace": random.laplace(size=4000),
    "student": random.standard_t(3, size=4000),
    "uniform": random.uniform(-1, 1, size=4000),
    "one outlier": OUTLIER,
    "two clusters": np.concatenate([random.normal(size=2000), 9 + random.normal(size=2000)]),
}


def error_at(x: np.ndarray, levels: np.ndarray, scale: float) -> float:
    """Squared error of rounding to scale * levels, written out without the library."""
    values = np.sort(scale * levels)
    nearest = values[np.abs(x[:, None] - values).argmin(axis=1)]
    return float(np.square(x - nearest).sum())


def error(x: np.ndarray, scheme: Scheme, ranges=golden_section) -> float:
    matrix = x.reshape(1, -1) if x.ndim == 1 else x
    stored = QTensor.quantize(matrix, scheme, ranges(matrix, scheme)).dequantize()
    return float(np.square(matrix - stored, dtype=np.float64).sum())


@pytest.mark.parametrize("grid", ["int2", "int3", "int4", "int6", "ternary", "fp4-e2m1", "nf4"])
@pytest.mark.parametrize("shape", WEIGHTS)
def test_the_range_is_as_good_as_the_best_of_two_thousand(grid, shape):
    x = WEIGHTS[shape].astype(np.float32)
    scheme = Scheme.parse(f"{grid}-tensor-f32")
    levels = scheme.grid.levels.astype(np.float64)
    widest = np.abs(x).max() / min(abs(levels[0]), abs(levels[-1]))
    best = min(error_at(x, levels, widest * share) for share in np.linspace(-1, 1, 600) if share)
    assert error(x, scheme) <= 1.005 * best


def test_weights_that_fill_their_range_keep_it():
    x = np.random.default_rng(0).uniform(-1, 1, size=(1, 50_000)).astype(np.float32)
    scheme = Scheme.parse("int6-tensor-f32")
    assert abs(golden_section(x, scheme).scale[0, 0]) == pytest.approx(1 / 32, rel=0.03)


@pytest.mark.parametrize(
    "spelling",
    ["int4-channel", "int3-g32", "int4-g32-asym", "int4-t2x8", "int4-g16-e8m0"],
)
def test_every_kind_of_blocks_does_no_worse_than_min_max(spelling):
    x = np.random.default_rng(1).standard_t(4, size=(12, 100)).astype(np.float32)
    scheme = Scheme.parse(spelling)
    assert error(x, scheme) <= error(x, scheme, min_max)


def test_columns_that_matter_more_are_stored_better():
    x = np.random.default_rng(2).standard_t(3, size=(8, 64)).astype(np.float32)
    scheme, importance = Scheme.parse("int3-channel"), np.ones(64)
    importance[:8] = 100
    plain = QTensor.quantize(x, scheme, golden_section(x, scheme)).dequantize()
    weighted = QTensor.quantize(x, scheme, golden_section(x, scheme, importance)).dequantize()
    assert np.square(x - weighted)[:, :8].sum() < np.square(x - plain)[:, :8].sum()


def test_blocks_of_zeros_and_of_one_weight_are_stored_exactly():
    scheme = Scheme.parse("int4-g4-f32")
    x = np.float32([[0, 0, 0, 0, 5, 0, 0, 0]])
    assert QTensor.quantize(x, scheme, golden_section(x, scheme)).dequantize() == pytest.approx(x, rel=1e-5)


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("shape", WEIGHTS)
def test_bending_the_grid_is_never_worse_and_keeps_the_bits(bits, shape):
    x = WEIGHTS[shape].astype(np.float32).reshape(8, -1)
    scheme = Scheme.parse(f"int{bits}-channel")
    better = reshaped(x, scheme)
    assert error(x, better) <= error(x, scheme)
    assert better.nbytes(x.shape) == scheme.nbytes(x.shape)


def test_bending_finds_the_power_that_the_weights_were_made_with():
    even = np.random.default_rng(3).uniform(-1, 1, size=(4, 5000))
    x = (np.sign(even) * np.abs(even) ** 2).astype(np.float32)
    # Even steps of the square root would be a power of 1/2; the least squared error wants the tails finer
    # than that: a level density of p(x)^(1/3), here |x|^(-1/6), whose integral is |x|^(5/6).
    found = reshaped(x, Scheme.parse("int6-channel"), powers=(1, 0.95, 0.9, 5 / 6, 0.75, 0.65, 0.5))
    assert found.grid == bent(integer(6), 5 / 6)


def test_a_bent_grid_rounds_as_the_transform_it_stands_for():
    grid, power = bent(integer(4), 0.7), 0.7
    code = np.arange(-8, 8)
    assert grid.levels == pytest.approx(np.sign(code) * (np.abs(code) / 8) ** (1 / power), rel=1e-6)


def test_values_that_are_not_finite_are_refused():
    x = np.float32([[1, np.nan]])
    for search in (golden_section, reshaped):
        with pytest.raises(ValueError, match="NaN"):
            search(x, Scheme.parse("int4-channel"))


def test_a_grid_with_a_zero_point_cannot_be_bent():
    with pytest.raises(ValueError, match="zero point"):
        reshaped(np.ones((2, 2), np.float32), Scheme.parse("int4-channel-asym"))
    with pytest.raises(ValueError, match="power must be"):
        bent(integer(4), 0)
