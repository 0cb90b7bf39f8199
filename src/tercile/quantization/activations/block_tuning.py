"""Trains the weights of a model whose activations are rounded, block by block, towards what the blocks gave before.

The rounding stays in place: gradients pass straight through it. Weights may be rounded as well while they are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from tercile.quantization.activations.attach import Quantizer, attached
from tercile.quantization.block_inputs import BlockInputs, Forward, inputs_of
from tercile.quantization.families import Block, Family


def tune_blocks(
    model: nn.Module,
    original: nn.Module,
    family: Family,
    quantizers: Mapping[str, Quantizer],
    batches: Sequence[Any],
    *,
    forward: Forward,
    weights: Mapping[str, Quantizer] | None = None,
    steps: int = 100,
    rate: float = 1e-3,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Trains weights and biases of the layers of each block, in place, on inputs from the rounded blocks before it.

    Parameters
    ----------
    model, original, family
        The model to be trained, the one whose outputs are wanted, and what `describe` says of both; it must be
        sequential.
    quantizers
        Of activations, by name of site.
    batches, forward
        As for `observe`; a step takes one batch.
    weights
        Quantizers of weights, by name of layer: these are trained through their rounding, and left rounded.
    steps, rate, seed
        Steps of Adam for each block, its first rate as a share of each tensor's root mean square, falling to zero, and
        the order of batches.

    Returns
    -------
    For each block its mean squared error, as a share of the wanted output's mean square, before and after.

    Raises
    ------
    ValueError
        If the family is not sequential or batches is empty.

    Source
    ------
    The stages of Zhong, Hu, Lin, Chen, Ji (2023), "I&S-ViT", arXiv:2311.10126, are calls of this: one with float
    weights and a scale a channel, one with rounded weights and a scale a tensor.
    """
    if not family.sequential:
        raise ValueError(f"blocks of a model of family {family.name!r} do not follow one another; tune it as a whole")
    if not batches:
        raise ValueError("batches is empty: there is nothing to train on")
    rounded = dict(weights or {})
    first = family.blocks[0].name
    outcome = []
    with attached(model, family, quantizers):
        with torch.no_grad():
            before = [inputs_of(original, first, forward, batch) for batch in batches]
            stored = [inputs_of(model, first, forward, batch) for batch in batches]
        for index, block in enumerate(family.blocks):
            teacher, pupil = original.get_submodule(block.name), model.get_submodule(block.name)
            wanted = [_run(teacher, state) for state in before]
            random = torch.Generator().manual_seed(1000 * seed + index)
            outcome.append(_tune(pupil, block, rounded, stored, wanted, steps, rate, random))
            stored = [replace(state, hidden=_run(pupil, state)) for state in stored]
            before = [replace(state, hidden=hidden) for state, hidden in zip(before, wanted, strict=True)]
    return outcome


def _tune(
    module: nn.Module,
    block: Block,
    rounded: Mapping[str, Quantizer],
    stored: Sequence[BlockInputs],
    wanted: Sequence[torch.Tensor],
    steps: int,
    rate: float,
    random: torch.Generator,
) -> tuple[float, float]:
    names = [layer.name.removeprefix(block.name + ".") for layer in block.layers]
    own = dict(module.named_parameters())
    latent = {
        f"{name}.{part}": own[f"{name}.{part}"].detach().clone().requires_grad_(True)
        for name in names
        for part in ("weight", "bias")
        if f"{name}.{part}" in own
    }
    through = {f"{name}.weight": rounded[f"{block.name}.{name}"] for name in names if f"{block.name}.{name}" in rounded}

    def parameters() -> dict[str, torch.Tensor]:
        return {name: through[name](value) if name in through else value for name, value in latent.items()}

    def loss(index: int) -> torch.Tensor:
        change = _call(lambda *args, **kwargs: functional_call(module, parameters(), args, kwargs), stored[index])
        return (change - wanted[index]).square().mean() / wanted[index].square().mean().clamp(min=1e-20)

    def score() -> float:
        with torch.no_grad():
            return sum(float(loss(index)) for index in range(len(stored))) / len(stored)

    first = score()
    best, least = {name: value.detach().clone() for name, value in latent.items()}, first
    groups = [
        {"params": [value], "lr": rate * max(float(value.detach().square().mean().sqrt()), 1e-3)}
        for value in latent.values()
    ]
    optimizer = torch.optim.Adam(groups)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            loss(int(torch.randint(len(stored), (1,), generator=random))).backward()
            optimizer.step()
            falling.step()
    last = score()
    if last < least:
        best, least = {name: value.detach() for name, value in latent.items()}, last
    with torch.no_grad():
        for name, value in best.items():
            own[name].copy_(through[name](value) if name in through else value)
    return first, least


def _call(run: Callable[..., Any], state: BlockInputs) -> torch.Tensor:
    out = run(state.hidden.to(state.device), *state.args, **state.kwargs)
    hidden: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return hidden


@torch.no_grad()
def _run(module: nn.Module, state: BlockInputs) -> torch.Tensor:
    return _call(module, state).cpu()
