"""Packed matrices give the products and rows of the numbers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme
from tercile.quantization.low_rank import compensate
from tercile.quantization.runtime import PackedMatrix
from tercile.quantization.solvers import round_to_nearest

SPELLINGS = (
    *(f"int{bits}-g32" for bits in range(1, 9)),
    *(f"int{bits}-g32-asym" for bits in range(1, 9)),
    "int4-g7-asym-k6",
    "int5-g64-asym-k6",
    "int8-channel",
    "int4-tensor",
    "int3-t3x5",
    "nf4-g64",
    "fp4-e2m1-g16-e4m3",
    "fp8-e4m3-channel",
    "normal32-channel",
    "normal12-g24-bf16",
    "ternary-channel",
    "sign-g64",
    "pot4-g32-e8m0",
    "cb[-2,0.1,0.7,30]-g31",
    "trellis2-channel-rot",
    "trellis2.5-channel-rot",
    "trellis3.5-channel-rot",
    "trellis2.25m9-channel",
    "trellis2-channel-rot-mix",
    "int4-g32-asym-mix",
    "int4-g32-rot",
)


def stored(spelling: str, rows: int, columns: int, seed: int = 0) -> QTensor:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(4, size=(rows, columns)).astype(np.float32)
    return round_to_nearest(weight, None, Scheme.parse(spelling))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (65, 96), (300, 130)])
@pytest.mark.parametrize("m", [1, 5])
def test_product_is_that_of_the_decoded_matrix(spelling: str, shape: tuple[int, int], m: int) -> None:
    q = stored(spelling, *shape)
    x = np.random.default_rng(1).normal(size=(m, shape[1])).astype(np.float32)
    want = x.astype(np.float64) @ q.dequantize().astype(np.float64).T
    got = PackedMatrix.from_qtensor(q).matmul(x)
    bound = np.abs(x).astype(np.float64) @ np.abs(q.dequantize().astype(np.float64)).T
    assert got.dtype == np.float32 and got.shape == want.shape
    assert (np.abs(got - want) <= 4e-6 * bound.max() + 1e-30).all()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rows_are_those_of_the_decoded_matrix(spelling: str) -> None:
    q = stored(spelling, 300, 50)
    ids = np.array([299, 0, 0, 151, 150, 149, 7])
    got, want = PackedMatrix.from_qtensor(q).rows(ids), q.dequantize()[ids]
    assert np.allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())
    assert PackedMatrix.from_qtensor(q).rows(ids[:0]).shape == (0, 50)


EXACT = ("int1-g32", "int4-g128", "int3-g64-asym", "int8-channel", "int2-g7", "int5-g24", "fp4-e2m1-g16", "ternary-g64")


@pytest.mark.parametrize("spelling", EXACT)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (65, 200), (37, 700)])
@pytest.mark.parametrize("m", [1, 2, 3, 17])
@pytest.mark.parametrize("step", [None, 0.03])
def test_rounded_activations_multiply_as_their_rounded_values(
    spelling: str, shape: tuple[int, int], m: int, step: float | None
) -> None:
    q = stored(spelling, *shape)
    x = np.random.default_rng(1).normal(size=(m, shape[1])).astype(np.float32)
    x[0] *= 1e-3
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127) if step is None else np.float32(step)
    rounded = np.clip(np.rint(x * (np.float32(1) / scale)), -127, 127).astype(np.float64) * scale
    got = PackedMatrix.from_qtensor(q, "int8", activation_scale=step).matmul(x)
    bound = np.abs(rounded) @ np.abs(q.dequantize().astype(np.float64)).T
    assert (np.abs(got - rounded @ q.dequantize().astype(np.float64).T) <= 4e-6 * bound.max() + 1e-30).all()


@pytest.mark.parametrize("spelling", ["nf4-g64", "normal32-channel", "trellis3-channel-rot", "fp8-e4m3-channel"])
@pytest.mark.parametrize("m", [1, 9])
def test_grids_between_whole_numbers_lose_little_more_than_the_activations(spelling: str, m: int) -> None:
    q = stored(spelling, 70, 256)
    x = np.random.default_rng(1).normal(size=(m, 256)).astype(np.float32)
    want = x @ q.dequantize().T
    error = PackedMatrix.from_qtensor(q, "int8").matmul(x) - want
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(want)


@pytest.mark.parametrize("spelling", ["int2-channel", "int3-channel-rot", "trellis2-channel-rot-mix"])
def test_a_branch_is_added_to_the_product_and_to_rows(spelling: str) -> None:
    weight = np.random.default_rng(0).normal(size=(40, 70)).astype(np.float32)
    q = round_to_nearest(weight, None, Scheme.parse(spelling))
    branch = compensate(weight, q, 5)
    packed = PackedMatrix.from_qtensor(q, branch=branch)
    whole = q.dequantize() + branch.dequantize()
    for m in (1, 6):
        x = np.random.default_rng(m).normal(size=(m, 70)).astype(np.float32)
        assert np.allclose(packed.matmul(x), x @ whole.T, atol=2e-4)
    assert np.allclose(packed.rows(np.array([39, 3])), whole[[39, 3]], atol=1e-5)


def test_zero_huge_and_tiny_scales_stay_what_they_are() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 192)).astype(np.float32)
    weight[0], weight[1], weight[2, :64] = 0, weight[1] * np.float32(1e30), 0
    weight[3] *= np.float32(1e-30)
    q = round_to_nearest(weight, None, Scheme.parse("int4-g64-f32"))
    x = np.random.default_rng(1).normal(size=(1, 192)).astype(np.float32)
    want = x.astype(np.float64) @ q.dequantize().astype(np.float64).T
    for rows in (1, 8):
        got = PackedMatrix.from_qtensor(q).matmul(np.repeat(x, rows, axis=0))
        assert np.allclose(got[0], want[0], rtol=1e-4, atol=0)
    assert not PackedMatrix.from_qtensor(q, "int8").matmul(np.zeros_like(x)).any()
    assert np.isnan(PackedMatrix.from_qtensor(q, "int8").matmul(x * np.float32(np.nan))).all()


def test_words_are_used_where_they_are() -> None:
    q = stored("int4-g32", 64, 64)
    packed = PackedMatrix.from_qtensor(q)
    assert packed.nbytes <= q.nbytes + 64 and packed.stored.words is q.words


def test_bad_input_is_named() -> None:
    q = stored("int4-g32", 8, 64)
    packed = PackedMatrix.from_qtensor(q)
    with pytest.raises(ValueError, match=r"x must be \(m, 64\)"):
        packed.matmul(np.zeros((2, 63), dtype=np.float32))
    with pytest.raises(ValueError, match="ids hold 8"):
        packed.rows(np.array([0, 8]))
    with pytest.raises(TypeError, match="whole numbers"):
        packed.rows(np.array([0.5]))
    with pytest.raises(ValueError, match="'float' or 'int8'"):
        PackedMatrix.from_qtensor(q, "int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="activation_scale"):
        PackedMatrix.from_qtensor(q, "int8", activation_scale=0.0)
