"""What the method finds on the real denoiser, by graph and by measurement."""

from __future__ import annotations

import pytest
import torch

from tercile.papers.segquant import AT, WAYS, Bench
from tercile.quantization.activations import TwoSided
from tercile.quantization.transforms import SegmentLinear


@pytest.fixture(scope="module")
def bench() -> Bench:
    with torch.no_grad():
        return Bench(4, 64, 0)


def test_every_layer_after_an_activation_gets_two_scales_and_few_others_do(bench: Bench) -> None:
    made = bench.rounded(WAYS["segquant"], 8)
    two = {
        name
        for name, layer in made.named_modules()
        if isinstance(layer, SegmentLinear) and any(isinstance(piece.quantizer, TwoSided) for piece in layer.pieces)
    }
    # Those that read SiLU or GELU, by how the model is written; the method knows nothing but numbers.
    after = {f"blocks.{block}.{name}" for block in range(6) for name in ("mlp.2", "modulation.1")}
    after |= {"modulation.1", "time.mlp.2"}
    assert after <= two and len(two - after) <= 4


def test_segments_are_the_chunks_of_modulation_and_attention_and_the_waves_of_time(bench: Bench) -> None:
    sizes = {name: (len(each.outputs), len(each.inputs)) for name, each in bench.segments.items()}
    assert sizes == {
        **{f"blocks.{block}.modulation.1": (6, 1) for block in range(6)},
        **{f"blocks.{block}.attention.qkv": (3, 1) for block in range(6)},
        "modulation.1": (2, 1),
        "time.mlp.0": (1, 2),
    }


@torch.no_grad()
def test_the_float_model_has_no_error_and_four_bits_more_than_eight(bench: Bench) -> None:
    assert bench.errors(bench.model) == [0.0] * len(AT)
    eight, four = (bench.errors(bench.rounded(WAYS["rows"], bits)) for bits in (8, 4))
    assert 0 < sum(eight) < 0.5 * sum(four)
