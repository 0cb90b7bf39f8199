"""Layers solved in sequence, beside plain least squares and a solve layer by layer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from tercile.quantization import QTensor, Scheme, ranges
from tercile.quantization.block_solving import solve_blocks
from tercile.quantization.calibration import collect
from tercile.quantization.families import Family, Layer, describe
from tercile.quantization.solvers import gptq
from tercile.quantization.statistics import Statistics

FINE = Scheme.parse("int8-channel-f32")
COARSE = Scheme.parse("int2-g16-asym")


def bert() -> tuple[nn.Module, Family, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    model = BertModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    batches = []
    for _ in range(12):
        mask = torch.ones(8, 12, dtype=torch.long)
        mask[:3, 7:] = 0
        batches.append({"input_ids": torch.randint(60, (8, 12)), "attention_mask": mask})
    return model, describe(model), batches


def run(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch)[0]


def keep(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["attention_mask"] > 0


def put(model: nn.Module, weights: dict[str, QTensor], vectors: dict[str, np.ndarray]) -> nn.Module:
    small = copy.deepcopy(model)
    for name, tensor in weights.items():
        small.get_submodule(name).weight.data = torch.from_numpy(tensor.dequantize())
    for name, value in vectors.items():
        small.get_parameter(name).data = torch.from_numpy(value)
    return small


@torch.no_grad()
def change(model: nn.Module, small: nn.Module, batches: list[dict[str, torch.Tensor]]) -> float:
    return float(np.mean([(run(model, b) - run(small, b))[keep(b)].square().mean() for b in batches]))


def test_the_weight_that_is_solved_for_is_the_least_squares_one() -> None:
    """The second layer of a chain gets inputs that the first one's rounding changed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 4, bias=False))
    x = torch.randn(500, 6)
    family = Family("chain", True, tuple(describe(model).blocks))
    asked: dict[str, np.ndarray] = {}

    def solve(layer: Layer, weight: np.ndarray, seen: Statistics) -> QTensor:
        asked[layer.name] = weight
        scheme = Scheme.parse("int3-channel-f32") if layer.name == "0" else FINE
        return QTensor.quantize(weight, scheme, ranges.min_max(weight, scheme))

    made = solve_blocks(model, family, [x], forward=lambda m, b: m(b), solve=solve, damping=1e-7)
    with torch.no_grad():
        gets = x.numpy() @ made.weights["0"].dequantize().T
        wanted = model(x).numpy()
    exact = np.linalg.lstsq(gets, wanted, rcond=None)[0].T
    assert np.allclose(asked["1"], exact, atol=1e-4)
    assert np.allclose(asked["0"], model[0].weight.detach().numpy(), atol=1e-4)


def test_each_layer_is_shown_what_it_gets_from_the_stored_layers_before_it() -> None:
    model, family, batches = bert()
    shown: dict[str, Statistics] = {}

    def solve(layer: Layer, weight: np.ndarray, seen: Statistics) -> QTensor:
        shown[layer.name] = seen
        return gptq(weight, seen, COARSE)

    made = solve_blocks(model, family, batches, forward=run, solve=solve, keep=keep)
    small = put(model, made.weights, made.vectors)
    for block, statistics in collect(small, describe(small), batches, forward=run, keep=keep):
        if block.name == "outside":
            continue
        for name, seen in statistics.items():
            assert np.allclose(seen.second_moment, shown[name].second_moment, rtol=1e-3, atol=1e-4), name


def test_it_loses_less_than_layers_solved_on_the_original_inputs() -> None:
    model, family, batches = bert()
    alone = {}
    for block, statistics in collect(model, family, batches, forward=run, keep=keep):
        if block.name != "outside":
            for name, seen in statistics.items():
                alone[name] = gptq(model.get_parameter(f"{name}.weight").detach().numpy(), seen, COARSE)
    made = solve_blocks(
        model, family, batches, forward=run, keep=keep, solve=lambda layer, weight, seen: gptq(weight, seen, COARSE)
    )
    together = change(model, put(model, made.weights, made.vectors), batches)
    assert made.weights.keys() == alone.keys()
    assert together < 0.8 * change(model, put(model, alone, {}), batches)


def test_the_mean_output_of_every_layer_is_kept() -> None:
    model, family, batches = bert()
    made = solve_blocks(
        model, family, batches, forward=run, solve=lambda layer, weight, seen: gptq(weight, seen, COARSE)
    )
    small = put(model, made.weights, made.vectors)
    name, means = family.blocks[1].layers[-1].name, []
    for each in (model, small):
        rows: list[torch.Tensor] = []
        handle = each.get_submodule(name).register_forward_hook(lambda m, i, out, rows=rows: rows.append(out))
        with torch.no_grad():
            for batch in batches:
                run(each, batch)
        handle.remove()
        means.append(torch.cat(rows).flatten(0, 1).mean(0))
    assert torch.allclose(means[0], means[1], atol=1e-4)


def test_bad_input_is_refused_by_name() -> None:
    model, family, batches = bert()
    with pytest.raises(ValueError, match="batches is empty"):
        solve_blocks(model, family, [], forward=run, solve=lambda *_: None)
    with pytest.raises(ValueError, match="damping must be above 0"):
        solve_blocks(model, family, batches, forward=run, solve=lambda *_: None, damping=0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="do not follow one another"):
        solve_blocks(network, describe(network), [torch.ones(1)], forward=run, solve=lambda *_: None)
