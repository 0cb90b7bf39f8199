"""Scale formats: what is stored decodes to the nearest that the format can hold, and never to NaN."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tercile.quantization import scales

SPELLINGS = [*scales.NAMED, "k1", "k4", "k6", "k8", "k6x1", "k6x3", "k4x100", "s3", "s1x5", "s5x100"]
RNG = np.random.default_rng(7)
ORDINARY = np.exp(RNG.normal(-5, 1, size=(6, 13))).astype(np.float32)


def stored(spelling: str, scale: np.ndarray) -> np.ndarray:
    form = scales.parse(spelling)
    arrays = form.store(scale)
    assert sum(array.nbytes for array in arrays.values()) == form.nbytes(scale.shape)
    loaded = form.load(arrays, scale.shape)
    assert loaded.dtype == np.float32 and loaded.shape == scale.shape
    return loaded


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling_names_the_same_format(spelling: str) -> None:
    assert scales.parse(spelling).spelling == spelling
    assert scales.parse("k6x8") == scales.parse("k6")


@pytest.mark.parametrize(
    "spelling, error", [("f32", 0), ("f16", 2**-11), ("bf16", 2**-8), ("e8m0", 2**0.5 - 1), ("e4m3", 2**-4)]
)
def test_relative_rounding_error_of_each_format(spelling: str, error: float) -> None:
    assert (np.abs(stored(spelling, ORDINARY) / ORDINARY - 1) <= error * (1 + 1e-6)).all()


@pytest.mark.parametrize("spelling", ["k4", "k6", "k8", "k6x3", "k4x100"])
def test_under_a_super_scale_the_error_is_half_a_step_of_the_largest_in_the_span(spelling: str) -> None:
    form, loaded = scales.parse(spelling), stored(spelling, ORDINARY)
    wanted, found = ORDINARY.reshape(-1), loaded.reshape(-1)  # spans run on from row to row
    for start in range(0, wanted.size, form.span):
        piece = wanted[start : start + form.span]
        step = piece.max() / (2**form.bits - 1)
        assert (np.abs(found[start : start + form.span] - piece) <= step * (0.5 + 0.04)).all()


@pytest.mark.parametrize("spelling", ["s3", "s4x3", "s5x100"])
def test_shifted_scales_differ_by_powers_of_two_within_a_span_and_are_the_nearest_of_these(spelling: str) -> None:
    form, loaded = scales.parse(spelling), stored(spelling, ORDINARY).reshape(-1)
    for start in range(0, ORDINARY.size, form.span):
        piece, found = ORDINARY.reshape(-1)[start : start + form.span], loaded[start : start + form.span]
        shifts = np.log2(found.max() / found)
        assert np.array_equal(shifts, np.round(shifts)) and shifts.max() <= 2**form.bits - 2
        deepest = found.max() * 2.0 ** -(2**form.bits - 2)
        near = (piece > 0.7 * deepest) & (piece > 0)
        assert (np.abs(np.log2(found / piece))[near] <= 0.5 + 1e-3).all()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_storing_what_was_loaded_changes_little_or_nothing(spelling: str) -> None:
    once = stored(spelling, ORDINARY)
    twice = stored(spelling, once)
    tolerance = 2**-10 if spelling.startswith("k") else 0
    assert np.allclose(twice, once, rtol=tolerance, atol=0)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-12, 3e-8, 6e-8, 9e-8, 1.0, 6e4])
def test_any_size_is_finite_and_zero_stays_next_to_zero(spelling: str, value: float) -> None:
    scale = np.full((3, 9), value, dtype=np.float32)
    scale[1] = 0
    loaded = stored(spelling, scale)
    assert np.isfinite(loaded).all() and (loaded >= 0).all() and (loaded[1] <= 2**-126).all()


@pytest.mark.parametrize("wanted", [2.0, 4.0, 5.6, 9.0, 50.0])
def test_super_scales_below_float16s_normal_numbers_do_not_cut_the_largest(wanted: float) -> None:
    scale = np.full((1, 8), wanted * 6e-8, dtype=np.float32)
    loaded = stored("k2", scale)
    assert (np.abs(loaded - scale) <= 3.1e-8 * 3).all() and (loaded >= 0.8 * scale).all()


def test_a_row_of_tiny_scales_beside_a_large_one_becomes_zero_and_not_nan() -> None:
    scale = np.float32([[1.0, 1e-9, 0.5, 0.0, 1e-30, 1, 1, 1, 1e-9]])
    assert stored("k6", scale)[0, [1, 3, 4]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("spelling", ["f16", "k6", "s3"])
def test_what_does_not_fit_float16_is_refused_by_name(spelling: str) -> None:
    with pytest.raises(ValueError, match=rf"1e\+07 does not fit {spelling}.*bf16"):
        scales.parse(spelling).store(np.full((2, 2), 1e7, dtype=np.float32))


@pytest.mark.parametrize("spelling", ["e8m0", "e4m3", "k6", "s3"])
def test_unsigned_formats_refuse_negative_scales(spelling: str) -> None:
    with pytest.raises(ValueError, match=f"{spelling} scales cannot be negative, got -1"):
        scales.parse(spelling).store(np.float32([[1, -1]]))


def test_signed_formats_keep_the_sign() -> None:
    for spelling in ("f32", "f16", "bf16"):
        assert stored(spelling, -ORDINARY).max() < 0


def test_e4m3_bytes_are_those_of_ml_dtypes_under_a_power_of_two() -> None:
    arrays = scales.parse("e4m3").store(ORDINARY)
    unit = arrays["super"][0]
    assert float(np.log2(unit)).is_integer() and 224 < ORDINARY.max() / unit <= 448
    theirs = (ORDINARY / unit).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * unit
    assert np.array_equal(stored("e4m3", ORDINARY), theirs)


@pytest.mark.parametrize(
    "spelling, message", [("f64", "there are f32, f16, bf16, e8m0, e4m3, k6"), ("k9", "1 to 8"), ("k6x0", "at least 1"),
     ("s9", "1 to 5"), ("s3x0", "at least 1")]
)
def test_unknown_formats_are_named(spelling: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scales.parse(spelling)
