"""Packed matrices give the products and rows of the numbers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme
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
