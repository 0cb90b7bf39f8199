"""Layers in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from tercile.quantization import Scheme
from tercile.quantization.activations import TwoSided, one_scale
from tercile.quantization.families import Segments
from tercile.quantization.solvers import gptq, round_to_nearest
from tercile.quantization.transforms import cut_linear

EIGHT, FOUR = Scheme.parse("int8-tensor-f32"), Scheme.parse("int4-tensor-f32")


def layer(outputs: int = 12, inputs: int = 10, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def reads(inputs: int = 10) -> torch.Tensor:
    return torch.randn(300, inputs, generator=torch.Generator().manual_seed(1))


def error(cut: nn.Module, whole: nn.Module, x: torch.Tensor) -> float:
    truth = whole(x)
    return float((cut(x) - truth).square().mean() / truth.square().mean())


CUTS = [Segments((12,), (10,)), Segments((3, 9), (10,)), Segments((12,), (1, 6, 3)), Segments((4, 4, 4), (5, 5))]


@pytest.mark.parametrize("segments", CUTS, ids=str)
@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("bias", [True, False])
def test_pieces_together_compute_what_the_layer_does(segments: Segments, alpha: float | None, bias: bool) -> None:
    whole, x = layer(bias=bias), reads()
    cut = cut_linear(whole, segments, x.numpy(), EIGHT, EIGHT, alpha=alpha)
    assert len(cut.pieces) == len(segments.outputs) * len(segments.inputs)
    assert error(cut, whole, x) < 5e-4
    assert torch.equal(cut(x.reshape(3, 100, 10)), cut(x).reshape(3, 100, 12))


def test_a_segment_of_small_weights_gets_its_own_scale() -> None:
    whole, x = layer(), reads()
    whole.weight[:4] *= 0.02
    apart = cut_linear(whole, Segments((4, 8), (10,)), x.numpy(), FOUR, EIGHT)
    together = cut_linear(whole, Segments((12,), (10,)), x.numpy(), FOUR, EIGHT)
    small = slice(0, 4)
    changes = [float((cut(x) - whole(x))[:, small].square().mean()) for cut in (apart, together)]
    assert changes[0] < 0.05 * changes[1]


def test_a_segment_of_small_inputs_gets_its_own_scale() -> None:
    whole, x = layer(bias=False), reads()
    x[:, :5] *= 0.01
    whole.weight[:, :5] *= 100
    apart = cut_linear(whole, Segments((12,), (5, 5)), x.numpy(), EIGHT, EIGHT)
    together = cut_linear(whole, Segments((12,), (10,)), x.numpy(), EIGHT, EIGHT)
    assert error(apart, whole, x) < 0.05 * error(together, whole, x)


def test_smoothing_is_found_for_every_segment_by_itself() -> None:
    whole, x = layer(), reads()
    whole.weight[:6, 0] *= 30
    cut = cut_linear(whole, Segments((6, 6), (10,)), x.numpy(), EIGHT, EIGHT, alpha=0.5)
    first, second = (piece.divided for piece in cut.pieces)
    assert first is not None and second is not None
    assert float(first[0] / second[0]) < 0.5
    assert torch.allclose(first[1:], second[1:], rtol=2.0)


def test_inputs_get_two_scales_only_where_these_pay_and_only_if_asked() -> None:
    whole, x = layer(), torch.cat([silu(3 * reads(5)), reads(5)], dim=1)
    cut = cut_linear(whole, Segments((12,), (5, 5)), x.numpy(), EIGHT, EIGHT)
    assert [isinstance(piece.quantizer, TwoSided) for piece in cut.pieces] == [True, False]
    plain = cut_linear(whole, Segments((12,), (5, 5)), x.numpy(), EIGHT, EIGHT, fit=one_scale)
    assert not any(isinstance(piece.quantizer, TwoSided) for piece in plain.pieces)


def test_pieces_store_as_many_bytes_as_the_whole_but_for_scales() -> None:
    whole, x = layer(), reads()
    apart = cut_linear(whole, Segments((4, 8), (10,)), x.numpy(), EIGHT, EIGHT)
    together = cut_linear(whole, Segments((12,), (10,)), x.numpy(), EIGHT, EIGHT)
    assert together.nbytes <= apart.nbytes <= together.nbytes + 16


def test_segments_and_samples_of_another_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"segments \(3, 3\) by \(10,\) are not those of a weight \(12, 10\)"):
        cut_linear(layer(), Segments((3, 3), (10,)), reads().numpy(), EIGHT, EIGHT)
    with pytest.raises(ValueError, match=r"sample must be \(rows, 10\), got shape \(2, 3\)"):
        cut_linear(layer(), Segments((12,), (10,)), np.ones((2, 3), np.float32), EIGHT, EIGHT)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_a_solver_that_looks_at_the_inputs_leaves_less_error(alpha: float | None) -> None:
    whole, x = layer(24, 20), reads(20) @ torch.randn(20, 20, generator=torch.Generator().manual_seed(2))
    nearest, solved = (
        cut_linear(whole, Segments((8, 16), (20,)), x.numpy(), FOUR, EIGHT, alpha=alpha, solve=solve)
        for solve in (round_to_nearest, gptq)
    )
    assert error(solved, whole, x) < 0.8 * error(nearest, whole, x)
