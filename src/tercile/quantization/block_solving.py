"""Solves the blocks of a model in the order in which they run, each layer on what those before it give once stored.

A layer whose inputs have changed should not give its old outputs on them by its old weights: the weight that comes
closest is W* = W (X'X~ + d) (X~'X~ + d)^-1 with X the inputs that it had, X~ the inputs that it gets. W* is what the
solver is asked to store. The damping d holds W* at W where the inputs say nothing.

`sequential.quantize_in_order` does so for layers of any model by running all of it for each layer; here the outputs of
a block are kept, so that a model of many blocks costs a few forward passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import nn

from tercile.quantization.block_inputs import Batch, BlockInputs, Forward, inputs_of
from tercile.quantization.cross_moment import CrossMoment
from tercile.quantization.families import Block, Family, Layer
from tercile.quantization.layer_inputs import kept_rows
from tercile.quantization.qtensor import QTensor
from tercile.quantization.statistics import Statistics

Keep = Callable[[Batch], torch.Tensor]
#: From a layer, the weight to store and the statistics of its inputs to what is stored.
Solve = Callable[[Layer, np.ndarray, Statistics], QTensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Solved:
    """What was stored.

    Attributes
    ----------
    weights
        By layer name.
    vectors
        Biases by parameter name, float32, with which every layer's mean output is the original's.
    """

    weights: dict[str, QTensor]
    vectors: dict[str, np.ndarray]


def solve_blocks(
    model: nn.Module,
    family: Family,
    batches: Sequence[Batch],
    *,
    forward: Forward,
    solve: Solve,
    keep: Keep | None = None,
    damping: float = 0.01,
    progress: Progress | None = None,
) -> Solved:
    """Stores the layers of a model's blocks, one after the other.

    Parameters
    ----------
    model, family
        The model, which is left alone, and what `describe` says of it; it must be sequential, its blocks' layers
        linear.
    batches, forward, keep
        As in `calibration.collect`.
    solve
        Stores one weight, such as `lambda layer, weight, seen: gptq(weight, seen, scheme)`.
    damping
        Share of the mean square of the inputs that holds W* at W.
    progress
        Called with (layers done, layers in all).

    Raises
    ------
    ValueError
        If the family is not sequential, a layer of a block is no linear layer, there are no batches, or damping is not
        above 0.

    Notes
    -----
    Costs two forward passes of each of the two models, and half as many again for every group of layers in a block that
    read the same tensor.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.families import describe
    >>> from tercile.quantization.solvers import gptq
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    >>> family = replace(describe(model), sequential=True)
    >>> made = solve_blocks(model, family, [torch.randn(64, 8)], forward=lambda model, batch: model(batch),
    ...                     solve=lambda layer, weight, seen: gptq(weight, seen, Scheme.parse("int4-g8")))
    >>> sorted(made.weights), sorted(made.vectors)
    (['0', '1'], ['0.bias', '1.bias'])
    """
    if not family.sequential:
        raise ValueError(f"blocks of a model of family {family.name!r} do not follow one another; use collect()")
    if not batches:
        raise ValueError("batches is empty: there is nothing to calibrate with")
    if not damping > 0:
        raise ValueError(f"damping must be above 0, got {damping}; the usual value is 0.01")
    for block in family.blocks:
        for layer in block.layers:
            if layer.kind != "linear":
                raise ValueError(f"{layer.name} is of kind {layer.kind!r}; only linear layers are solved in sequence")
    stored = copy.deepcopy(model).eval()
    masks = [None if keep is None else keep(batch).bool() for batch in batches]
    made = Solved({}, {})
    total = sum(len(block.layers) for block in family.blocks)
    with torch.no_grad():
        before = [inputs_of(model, family.blocks[0].name, forward, batch) for batch in batches]
        now = before
        for block in family.blocks:
            for group in _groups(model, block, before[0]):
                inputs = _observe(model, stored, block, group[0].name, before, now, masks)
                for layer in group:
                    _solve_layer(model, stored, layer, inputs, solve, damping, made)
                    if progress is not None:
                        progress(len(made.weights), total)
            before = [replace(state, hidden=_call(model, block, state)) for state in before]
            now = [replace(state, hidden=_call(stored, block, state)) for state in now]
    return made


@dataclass(frozen=True)
class _Inputs:
    """Inputs of a layer: statistics of those it gets, mean of those it had, and how the two go together."""

    seen: Statistics
    mean: np.ndarray
    cross: CrossMoment


class _Reached(Exception):
    """The layer was called; what comes after it is not needed."""


def _solve_layer(
    model: nn.Module, stored: nn.Module, layer: Layer, inputs: _Inputs, solve: Solve, damping: float, made: Solved
) -> None:
    original: Any = model.get_submodule(layer.name)
    here: Any = stored.get_submodule(layer.name)
    weight = original.weight.detach().cpu().float().numpy()
    moment = inputs.seen.second_moment.astype(np.float64)
    held = damping * max(float(np.diagonal(moment).mean()), 1e-30) * np.eye(len(moment))
    # The transpose of (X'X~ + d) (X~'X~ + d)^-1, one factor of which is symmetric.
    turned = linalg.solve(moment + held, inputs.cross.value + held, assume_a="pos")
    tensor = solve(layer, np.ascontiguousarray(weight @ turned.T, dtype=np.float32), inputs.seen)
    made.weights[layer.name] = tensor
    decoded = tensor.dequantize()
    here.weight.copy_(torch.from_numpy(decoded))
    if original.bias is not None:
        bias = original.bias.detach().cpu().float().numpy() + weight @ inputs.mean - decoded @ inputs.seen.mean
        made.vectors[f"{layer.name}.bias"] = bias.astype(np.float32)
        here.bias.copy_(torch.from_numpy(bias))


def _groups(model: nn.Module, block: Block, state: BlockInputs) -> list[list[Layer]]:
    """Layers of a block in the order in which they run, those together that read the very same tensor."""
    order: list[tuple[Layer, torch.Tensor]] = []
    handles = [
        model.get_submodule(layer.name).register_forward_pre_hook(
            lambda module, args, kwargs, layer=layer: order.append((layer, args[0] if args else kwargs["input"])),
            with_kwargs=True,
        )
        for layer in block.layers
    ]
    try:
        _call(model, block, state)
    finally:
        for handle in handles:
            handle.remove()
    groups: list[list[Layer]] = []
    read: torch.Tensor | None = None
    for layer, tensor in order:
        if groups and tensor is read:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        read = tensor
    return groups


def _observe(
    model: nn.Module,
    stored: nn.Module,
    block: Block,
    name: str,
    before: Sequence[BlockInputs],
    now: Sequence[BlockInputs],
    masks: Sequence[torch.Tensor | None],
) -> _Inputs:
    """What a layer reads in both models."""
    width = int(model.get_parameter(f"{name}.weight").shape[1])
    inputs = _Inputs(Statistics(width), np.zeros(width), CrossMoment(width))
    for old, new, mask in zip(before, now, masks, strict=True):
        had = kept_rows(_input_of(model, block, name, old), mask)
        gets = kept_rows(_input_of(stored, block, name, new), mask)
        inputs.seen.update(gets)
        inputs.cross.update(gets, had)
        np.add(inputs.mean, had.sum(axis=0, dtype=np.float64), out=inputs.mean)
    return replace(inputs, mean=inputs.mean / max(inputs.cross.count, 1))


def _input_of(model: nn.Module, block: Block, name: str, state: BlockInputs) -> torch.Tensor:
    found: list[torch.Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["input"])
        raise _Reached

    handle = model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True)
    try:
        _call(model, block, state)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


def _call(model: nn.Module, block: Block, state: BlockInputs) -> torch.Tensor:
    out = model.get_submodule(block.name)(state.hidden.to(state.device), *state.args, **state.kwargs)
    first: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return first.cpu()
