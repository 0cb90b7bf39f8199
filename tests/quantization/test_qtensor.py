"""QTensor: through a file and back, and files that lie."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tercile.quantization import QTensor, Scheme, ranges

SPELLINGS = [
    "int4-g32", "int3-g20-asym", "int5-g32-asym-k6", "int2-g16-k4x3", "nf4-g64-bf16", "fp8-e4m3-channel-f32",
    "fp4-e2m1-g16-e4m3", "fp4-e2m1-g32-e8m0", "ternary-tensor", "sign-channel", "int8-t4x8-asym-e4m3", "cb[-1,0,2]-g7",
]  # fmt: skip
SHAPES = [(7, 65), (1, 1), (33,), (4, 3, 3, 3)]


def made(spelling: str, shape: tuple[int, ...] = (7, 65)) -> tuple[np.ndarray, QTensor]:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    scheme = Scheme.parse(spelling)
    return x, QTensor.quantize(x, scheme, ranges.min_max(x, scheme))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_safetensors_file_gives_the_same_tensor_back(spelling: str, shape, tmp_path: Path) -> None:
    _, stored = made(spelling, shape)
    save_file(stored.to_arrays("layer.weight"), tmp_path / "x.safetensors")
    again = QTensor.from_arrays("layer.weight", stored.scheme, shape, load_file(tmp_path / "x.safetensors"))
    assert again.dequantize().tobytes() == stored.dequantize().tobytes()
    assert again.shape == shape and again.nbytes == stored.nbytes and np.array_equal(again.codes, stored.codes)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_array_is_missed_when_missing_and_refused_in_another_shape_or_type(spelling: str) -> None:
    _, stored = made(spelling)
    arrays = stored.to_arrays("w")
    for key, array in arrays.items():
        rest = {k: v for k, v in arrays.items() if k != key}
        with pytest.raises(ValueError, match=rf"{key} is missing.*stores codes"):
            QTensor.from_arrays("w", stored.scheme, stored.shape, rest)
        wrong = {
            "longer": np.concatenate([array, array]),
            "flat": array.reshape(-1, 1, 1),
            "type": array.astype(np.float64),
            "swapped": array.astype(array.dtype.newbyteorder()) if array.dtype.kind in "uf" else None,
        }
        for bad in wrong.values():
            if bad is not None and (bad.dtype != array.dtype or bad.shape != array.shape):
                with pytest.raises(ValueError, match=key):
                    QTensor.from_arrays("w", stored.scheme, stored.shape, {**arrays, key: bad})


@pytest.mark.parametrize(
    "spelling, key, value",
    [
        ("int4-g32", "scale", np.float16(np.nan)),
        ("int4-g32", "scale", np.float16(np.inf)),
        ("nf4-g64-bf16", "scale", ml_dtypes.bfloat16(np.nan)),
        ("fp8-e4m3-channel-f32", "scale", np.float32(-np.inf)),
        ("fp8-e4m3-channel-f32", "scale", np.float32(3e38)),
        ("fp4-e2m1-g16-e4m3", "scale", np.uint8(0x7F)),
        ("fp4-e2m1-g16-e4m3", "scale", np.uint8(0xFF)),
        ("fp4-e2m1-g16-e4m3", "super", np.float32(np.nan)),
        ("fp4-e2m1-g16-e4m3", "super", np.float32(1e38)),
        ("fp4-e2m1-g32-e8m0", "scale", np.uint8(255)),
        ("int5-g32-asym-k6", "super", np.float16(np.nan)),
        ("int5-g32-asym-k6", "offset_super", np.float16(np.inf)),
    ],
)
def test_a_scale_that_stands_for_no_finite_number_is_refused(spelling: str, key: str, value) -> None:
    _, stored = made(spelling)
    arrays = {k: v.copy() for k, v in stored.to_arrays("w").items()}
    arrays[f"w.{key}"].reshape(-1)[0] = value
    with pytest.raises(ValueError, match=r"w: scales of .* the file is damaged"):
        QTensor.from_arrays("w", stored.scheme, stored.shape, arrays)


@pytest.mark.parametrize(
    "spelling, word",
    [("ternary-tensor", 3**20), ("ternary-tensor", 2**32 - 1), ("cb[-1,0,2]-g7", 3**20), ("int3-g20-asym", 2**31)],
)
def test_words_that_are_never_written_are_refused(spelling: str, word: int) -> None:
    # The last word of a row of 65 codes: too many digits, or bits beyond the row's end.
    _, stored = made(spelling)
    arrays = {k: v.copy() for k, v in stored.to_arrays("w").items()}
    arrays["w.codes"][2, -1] = word
    with pytest.raises(ValueError, match=r"w\.codes holds words that .* never writes"):
        QTensor.from_arrays("w", stored.scheme, stored.shape, arrays)


@pytest.mark.parametrize("spelling, code", [("fp8-e4m3-g64", 0x7F), ("fp8-e4m3-g64", 0xFF), ("fp8-e5m2-g64-f32", 0x7C)])
def test_codes_of_nan_and_infinity_are_refused(spelling: str, code: int) -> None:
    _, stored = made(spelling)
    arrays = {k: v.copy() for k, v in stored.to_arrays("w").items()}
    arrays["w.codes"][0, 0] = code
    with pytest.raises(ValueError, match=r"w\.codes holds codes that stand for no number"):
        QTensor.from_arrays("w", stored.scheme, stored.shape, arrays)


@pytest.mark.parametrize("shape", [(0, 4), (-1, 4), (2.5, 2), ("7", 65)])
def test_shapes_of_no_tensor_are_refused(shape) -> None:
    _, stored = made("int4-g32")
    with pytest.raises(ValueError, match="shape of w must hold whole numbers above 0"):
        QTensor.from_arrays("w", stored.scheme, shape, stored.to_arrays("w"))


def test_a_file_of_another_scheme_is_refused() -> None:
    _, stored = made("int4-g32")
    with pytest.raises(ValueError, match=r"w\."):
        QTensor.from_arrays("w", Scheme.parse("int3-g32"), stored.shape, stored.to_arrays("w"))


def test_codes_chosen_elsewhere_are_kept_and_checked() -> None:
    x, stored = made("int4-g32")
    again = QTensor.from_codes(stored.codes, x.shape, stored.scheme, stored.ranges)
    assert np.array_equal(again.words, stored.words)
    with pytest.raises(ValueError, match=r"codes have shape \(65, 7\)"):
        QTensor.from_codes(stored.codes.T, x.shape, stored.scheme, stored.ranges)
    with pytest.raises(ValueError, match="codes hold 31"):
        QTensor.from_codes(stored.codes + np.uint8(16), x.shape, stored.scheme, stored.ranges)


@pytest.mark.parametrize("bits", range(2, 9))
def test_min_max_rounding_is_off_by_at_most_half_a_step(bits: int) -> None:
    for spelling in (f"int{bits}-g16-f32", f"int{bits}-g16-asym-f32"):
        x, stored = made(spelling)
        step = np.broadcast_to(stored.scheme.blocks.spread(stored.ranges.scale, x.shape), x.shape)
        clipped = x > step * (2 ** (bits - 1) - 1) if "asym" not in spelling else np.zeros(x.shape, bool)
        assert (np.abs(stored.dequantize() - x) <= np.where(clipped, 1, 0.5) * step * 1.001).all()


def test_tensors_compare_by_identity_and_can_be_kept_in_sets() -> None:
    _, one = made("int4-g32")
    _, other = made("int4-g32")
    assert one == one and one != other and len({one, other}) == 2


def test_dequantize_is_fresh_memory() -> None:
    _, stored = made("int8-channel")
    first = stored.dequantize()
    first[:] = math.nan
    assert np.isfinite(stored.dequantize()).all()
