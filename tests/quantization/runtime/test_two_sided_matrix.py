"""Products with a scale for each side of zero are sums of two products of whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tercile.quantization import Scheme
from tercile.quantization.activations import two_sided
from tercile.quantization.low_rank import compensate
from tercile.quantization.ranges import min_max
from tercile.quantization.runtime import PackedMatrix, TwoSidedMatrix
from tercile.quantization.solvers import round_to_nearest


def packed(spelling: str = "int8-channel", rows: int = 40, columns: int = 96) -> PackedMatrix:
    weight = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    return PackedMatrix.from_qtensor(round_to_nearest(weight, None, Scheme.parse(spelling)), "int8")


def activations(rows: int, columns: int = 96, shift: float = 0) -> np.ndarray:
    x = shift + np.random.default_rng(1).normal(size=(rows, columns))
    return torch.nn.functional.silu(torch.from_numpy(3 * x)).float().numpy()


@pytest.mark.parametrize("spelling", ["int8-channel", "int4-channel", "int4-g32"])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_product_is_that_of_rounded_activations_and_the_stored_matrix(spelling: str, rows: int) -> None:
    matrix, x = packed(spelling), activations(rows)
    sides = two_sided(x, Scheme.parse("int8-tensor-f32"), ranges=min_max)
    # The kernel goes to 127 on either side, the scheme's grid to -128.
    below, above = float(-x.min()) / 127, float(sides.positive)
    two = TwoSidedMatrix.from_packed(matrix, below=below, above=above)
    rounded = np.where(x < 0, np.round(x / below) * below, np.round(x / above) * above)
    want = rounded.astype(np.float64) @ matrix.stored.dequantize().astype(np.float64).T
    assert np.abs(two.matmul(x) - want).max() < 1e-4 * np.abs(want).max() + 1e-4


def test_it_is_nearer_to_the_exact_product_than_one_scale() -> None:
    matrix, x = packed(), activations(60, shift=-1)
    exact = x @ matrix.stored.dequantize().T
    above = float(x.max()) / 127
    two = TwoSidedMatrix.from_packed(matrix, below=float(-x.min()) / 127, above=above)
    one = PackedMatrix.from_qtensor(matrix.stored, "int8", activation_scale=above)
    errors = [float(np.square(each.matmul(x) - exact).mean()) for each in (two, one)]
    assert errors[0] < 0.7 * errors[1]


def test_the_stored_bytes_are_held_once() -> None:
    matrix = packed()
    two = TwoSidedMatrix.from_packed(matrix, below=0.1, above=0.2)
    assert two.nbytes == matrix.nbytes and two.shape == matrix.shape
    assert two.below.layout is two.above.layout is matrix.layout


def test_matrices_without_sides_are_refused() -> None:
    q = packed().stored
    with pytest.raises(ValueError, match="matrix must have activations='int8'"):
        TwoSidedMatrix.from_packed(PackedMatrix.from_qtensor(q), below=1, above=1)
    with pytest.raises(ValueError, match="neither rotated nor have a branch"):
        TwoSidedMatrix.from_packed(packed("int4-g32-rot"), below=1, above=1)
    weight = q.dequantize()
    branch = compensate(weight + np.float32(0.01), q, 2)
    with pytest.raises(ValueError, match="neither rotated nor have a branch"):
        TwoSidedMatrix.from_packed(PackedMatrix.from_qtensor(q, "int8", branch=branch), below=1, above=1)


@pytest.mark.parametrize(("below", "above", "name"), [(0, 1, "below"), (1, -1, "above"), (float("nan"), 1, "below")])
def test_steps_that_are_none_are_refused(below: float, above: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number above 0"):
        TwoSidedMatrix.from_packed(packed(), below=below, above=above)
