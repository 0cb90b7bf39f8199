"""A rung solved once more, each layer on what the stored ones before it give.

The bank solves every layer on what the original model feeds it, so that any allocation can pick from it. Once a rung is
chosen its layers know what they will really read: solved on that they make good what those before them lost.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tercile.arrays import load_arrays, save_arrays
from tercile.compression.bank import Bank, solve
from tercile.compression.batches import cut
from tercile.compression.source import Source
from tercile.compression.tasks import run
from tercile.compression.workspace import Workspace
from tercile.filters.data import Example
from tercile.quantization import QTensor, Scheme
from tercile.quantization.block_solving import Solved, solve_blocks
from tercile.quantization.families import Family, Layer
from tercile.quantization.statistics import Statistics


def in_order(family: Family) -> bool:
    """Whether a model's blocks can be solved one after the other: each feeds the next, and all layers are linear."""
    return family.sequential and all(layer.kind == "linear" for block in family.blocks for layer in block.layers)


def solve_rung(
    source: Source,
    family: Family,
    examples: Sequence[Example],
    bank: Bank,
    rung: int,
    choices: Mapping[str, str],
    workspace: Workspace,
    tell: Callable[[str, int, int | None], None],
) -> Solved:
    """What a rung's layers are stored as, and the biases that go with it; kept in the workspace.

    Layers outside of the blocks, such as tables, are those of the bank.
    """
    path = workspace.folder / f"in-sequence-{rung}.safetensors"
    if path.is_file():
        return _load(path)
    blocks = {layer.name for block in family.blocks for layer in block.layers}
    outside = {layer: bank.read(layer, scheme) for layer, scheme in choices.items() if layer not in blocks}
    small = copy.deepcopy(source.module)
    vectors = {}
    with torch.no_grad():
        for layer, stored in outside.items():
            module = small.get_submodule(layer)
            module.weight.copy_(torch.from_numpy(stored.weight.dequantize()))  # type: ignore[operator, union-attr]
            if stored.bias_change is not None:
                bias = small.get_parameter(f"{layer}.bias").add_(torch.from_numpy(stored.bias_change))
                vectors[f"{layer}.bias"] = bias.detach().cpu().float().numpy().copy()

    def store(layer: Layer, weight: np.ndarray, seen: Statistics) -> QTensor | None:
        return solve(weight, seen, Scheme.parse(choices[layer.name])) if layer.name in choices else None

    batches = cut(examples, source)
    made = solve_blocks(
        source.module,
        family,
        batches,
        forward=run,
        solve=store,
        keep=None if batches[0].keep is None else lambda batch: batch.keep,
        stored=small,
        progress=lambda done, total: tell("solving in sequence", done, total),
    )
    weights = {layer: stored.weight for layer, stored in outside.items()} | made.weights
    solved = Solved(weights, vectors | made.vectors)
    _save(path, solved)
    return solved


def _save(path: Path, solved: Solved) -> None:
    arrays = {f"vector:{name}": vector for name, vector in solved.vectors.items()}
    described = {}
    for name, weight in solved.weights.items():
        arrays |= weight.to_arrays(name)
        described[name] = [weight.scheme.spelling, list(weight.shape)]
    save_arrays(path, arrays, {"weights": json.dumps(described)})


def _load(path: Path) -> Solved:
    arrays, about = load_arrays(path)
    weights = {
        name: QTensor.from_arrays(name, Scheme.parse(scheme), tuple(shape), arrays)
        for name, (scheme, shape) in json.loads(about["weights"]).items()
    }
    vectors = {name.removeprefix("vector:"): array for name, array in arrays.items() if name.startswith("vector:")}
    return Solved(weights, vectors)
