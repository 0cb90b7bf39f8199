"""Grids against what others publish: ml_dtypes for floats, the NF4 paper's table, integers counted by hand."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from tercile.quantization import grids

# Appendix E of Dettmers et al. (2023), "QLoRA".
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip

PEERS = {
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
    "fp6-e3m2": ml_dtypes.float6_e3m2fn,
    "fp6-e2m3": ml_dtypes.float6_e2m3fn,
    "fp4-e2m1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", PEERS)
def test_float_codes_are_the_bit_patterns_of_ml_dtypes(name: str) -> None:
    grid = grids.parse(name)
    patterns = np.arange(len(grid.table), dtype=np.uint8)
    theirs = patterns.view(PEERS[name]).astype(np.float32)
    theirs = np.where(np.isinf(theirs), np.nan, theirs)
    ours = np.float32(grid.table)
    assert np.array_equal(ours, theirs, equal_nan=True)
    numbers = ~np.isnan(ours)
    assert np.array_equal(np.signbit(ours[numbers]), np.signbit(theirs[numbers]))


@pytest.mark.parametrize("name", PEERS)
def test_float_rounding_agrees_with_ml_dtypes_but_at_ties(name: str) -> None:
    grid = grids.parse(name)
    top = grid.levels[-1]
    x = (np.random.default_rng(3).normal(size=20000) * top / 4).clip(-top, top).astype(np.float32)
    x = np.concatenate([x, x * np.float32(1e-3)])
    assert np.array_equal(grid.decode(grid.encode(x)), x.astype(PEERS[name]).astype(np.float32) + 0)


def test_a_float_never_encodes_to_nan_or_infinity() -> None:
    for name in ("fp8-e4m3", "fp8-e5m2"):
        grid = grids.parse(name)
        x = np.linspace(-1e6, 1e6, 10001)
        assert np.isfinite(grid.decode(grid.encode(x))).all()


def test_nf4_is_the_published_table() -> None:
    assert np.abs(np.float64(grids.normal_float().table) - NF4).max() < 1e-6


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_are_twos_complement_and_unsigned_start_at_zero(bits: int) -> None:
    assert grids.integer(bits).levels.tolist() == list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    assert grids.unsigned(bits).levels.tolist() == list(range(2**bits))
    assert grids.integer(bits).bits == grids.unsigned(bits).bits == bits


def test_one_bit_is_a_sign() -> None:
    assert grids.integer(1).levels.tolist() == [-1.0, 1.0] == grids.sign().levels.tolist()
    assert grids.unsigned(1).levels.tolist() == [0.0, 1.0]


def test_powers_of_two_are_shifts() -> None:
    for bits in range(2, 6):
        positive = [v for v in grids.power_of_two(bits).levels.tolist() if v > 0]
        assert positive == [2.0**-k for k in range(2 ** (bits - 1) - 2, -1, -1)]


def test_ternary_takes_a_fifth_of_eight_bits() -> None:
    assert grids.ternary().codes_per_word == 20 and grids.ternary().bits == 1.6


def test_grids_with_nan_codes_are_equal_to_themselves() -> None:
    assert grids.floating(4, 3) == grids.floating(4, 3)
    assert grids.Grid("mine", (0.0, 1.0, float("nan"))) == grids.Grid("mine", (0.0, 1.0, float("nan")))
    assert grids.Grid("mine", (0.0, 1.0)) != grids.Grid("mine", (0.0, 2.0))


def test_uniform_steps_too_small_for_a_reciprocal_still_round() -> None:
    grid = grids.codebook([0.0, 1e-40, 2e-40, 3e-40])
    assert grid.decode(grid.encode(grid.levels)).tolist() == grid.levels.tolist()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: grids.integer(0), r"bits must be a whole number from 1 to 8, got 0"),
        (lambda: grids.integer(9), r"got 9"),
        (lambda: grids.integer(4.0), r"got 4\.0"),
        (lambda: grids.integer(True), r"got True"),
        (lambda: grids.unsigned("4"), r"got '4'"),
        (lambda: grids.power_of_two(6), r"2 to 5, got 6"),
        (lambda: grids.floating(6, 1), r"exponent bits.*1 to 5, got 6"),
        (lambda: grids.floating(5, 6), r"together have 2 to 7"),
        (lambda: grids.codebook([1.0]), r"2 to 256"),
        (lambda: grids.codebook(range(257)), r"257 codes"),
        (lambda: grids.codebook([1, 1, 2]), r"distinct.*1 repeated"),
        (lambda: grids.codebook([1, math.nan]), r"finite"),
        (lambda: grids.codebook([1, 1e39]), r"finite"),
        (lambda: grids.Grid("x", (1.0, math.inf)), r"infinite"),
        (lambda: grids.Grid("x", (1.0, math.nan)), r"two distinct"),
        (lambda: grids.parse("int9"), r"1 to 8"),
        (lambda: grids.parse("float"), r"there are int1, .*nf4.*cb\[v,v,\.\.\.\]"),
        (lambda: grids.parse("fp8-e4m2"), r"make 7 bits; write fp7"),
        (lambda: grids.parse("cb[1,x]"), r"cb\[-1,0,1\]"),
        (lambda: grids.parse("cb[]"), r"as numbers"),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_spelling_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="must be a string"):
        grids.parse(4)


# Max (1960), "Quantizing for minimum distortion", table I: positive output levels and mean squared error.
MAX_1960 = {
    3: ([1.224], 0.1902),
    4: ([0.4528, 1.510], 0.1175),
    6: ([0.3177, 1.000, 1.894], 0.05798),
    8: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
    16: ([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
}


@pytest.mark.parametrize("levels", MAX_1960)
def test_normal_grids_are_those_of_the_published_table(levels: int) -> None:
    expected, error = MAX_1960[levels]
    grid = grids.normal(levels)
    assert np.allclose(grid.levels[grid.levels > 0], expected, atol=6e-4)
    x = np.random.default_rng(0).normal(size=200_000)
    assert np.isclose(np.mean((grid.decode(grid.encode(x)) - x) ** 2), error, rtol=0.02)


@pytest.mark.parametrize("levels", [0, 1, 65, 2.5])
def test_a_normal_grid_has_2_to_64_levels(levels: float) -> None:
    with pytest.raises(ValueError, match="2 to 64"):
        grids.normal(levels)
