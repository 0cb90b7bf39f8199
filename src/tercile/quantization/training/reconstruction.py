"""Block reconstruction: what is stored of a block is trained until the block gives the outputs that it gave, on inputs
from the blocks before it as they are stored by then.

Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang and Gu (2021), "BRECQ: Pushing the Limit of Post-Training Quantization by Block
Reconstruction", trains roundings; here scales, offsets, gains and biases learn along with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from tercile.quantization.block_inputs import Batch, BlockInputs, Forward, inputs_of
from tercile.quantization.families import Block, Family
from tercile.quantization.training.descent import Descent, Optimizer, Rates
from tercile.quantization.training.stored_weight import SoftRounding, StraightThrough
from tercile.quantization.training.student import Student

#: One batch in this many says how well a block does.
SCORED = 4
Keep = Callable[[Batch], torch.Tensor]
#: From (wanted, got), both (tokens that count, channels), to a number that falls as they grow alike.
BlockLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def relative_square(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Squared change as a share of the squared deviation from the mean of what is wanted."""
    return (got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum().clamp(min=1e-20)


@dataclass(frozen=True)
class Reconstruction:
    """How blocks are reconstructed.

    Parameters
    ----------
    passes
        Over all batches, for each block.
    rates, optimizer, loss
        Of the descent.
    mixed
        Probability that a token of a block's inputs comes from the original model instead of the stored one: 0 trains
        on what the block will see.
    moving
        Share of the weights whose codes may change, those nearest to another level.
    vectors
        Whether gains and biases of a block learn too.
    """

    passes: int = 1
    rates: Rates = field(default_factory=Rates)
    optimizer: Optimizer = torch.optim.Adam
    loss: BlockLoss = relative_square
    mixed: float = 0.0
    moving: float = 1.0
    vectors: bool = True

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise ValueError(f"passes must be at least 0, got {self.passes}")
        if not 0 <= self.mixed <= 1:
            raise ValueError(f"mixed must be between 0 and 1, got {self.mixed}")
        if not 0 < self.moving <= 1:
            raise ValueError(
                f"moving must be above 0 and at most 1, got {self.moving}; to hold all codes, use FixedCodes"
            )


@dataclass(frozen=True)
class Reconstructed:
    """Mean loss of a block over every fourth batch, before it was trained and after."""

    block: Block
    before: float
    after: float


def reconstruct(
    student: Student,
    model: nn.Module,
    family: Family,
    batches: Sequence[Batch],
    *,
    forward: Forward,
    keep: Keep | None = None,
    settings: Reconstruction = Reconstruction(),
    seed: int = 0,
    skip: Callable[[Block], bool] = lambda block: False,
) -> Iterator[Reconstructed]:
    """Trains the blocks of a student one after the other, in place.

    Parameters
    ----------
    student
        A copy of the model on stored weights.
    model, family
        The original, and what `describe` says of it; it must be sequential.
    batches, forward, keep
        As in `calibration.collect`.
    settings, seed
        How, and in which order batches are taken.
    skip
        Blocks to leave as they are, because they were trained before.

    Yields
    ------
    Reconstructed, after each block. Stop whenever it is enough.

    Raises
    ------
    ValueError
        If the family is not sequential, or there are no batches.

    Notes
    -----
    A pass costs what one step of training costs on every batch, for all blocks together; the outputs of the block
    before are kept for both models.
    """
    if not family.sequential:
        raise ValueError(f"blocks of a model of family {family.name!r} do not follow one another; distil it as a whole")
    if not batches:
        raise ValueError("batches is empty: there is nothing to train on")
    masks = [None if keep is None else keep(batch).bool() for batch in batches]
    first = family.blocks[0].name
    with torch.no_grad():
        original = [inputs_of(model, first, forward, batch) for batch in batches]
        stored = [inputs_of(student.module, first, forward, batch) for batch in batches]
    for index, block in enumerate(family.blocks):
        # A generator for each block, so that one that is skipped changes nothing for the others.
        generator = torch.Generator().manual_seed(1000 * seed + index)
        teacher, pupil = model.get_submodule(block.name), student.module.get_submodule(block.name)
        wanted = [_run(teacher, state) for state in original]
        if skip(block):
            outcome = None
        else:
            outcome = _train(student, block, original, stored, wanted, masks, settings, generator)
        stored = [replace(state, hidden=_run(pupil, state)) for state in stored]
        original = [replace(state, hidden=hidden) for state, hidden in zip(original, wanted, strict=True)]
        if outcome is not None:
            yield outcome


def _train(
    student: Student,
    block: Block,
    original: Sequence[BlockInputs],
    stored: Sequence[BlockInputs],
    wanted: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor | None],
    settings: Reconstruction,
    generator: torch.Generator,
) -> Reconstructed:
    module = student.module.get_submodule(block.name)
    names = [layer.name for layer in block.layers if layer.name in student.stored]
    small = [name for name in student.small if name.startswith(block.name + ".")] if settings.vectors else []

    def loss(index: int, inputs: BlockInputs) -> torch.Tensor:
        got = _call(module, inputs)
        return settings.loss(_kept(wanted[index], masks[index]), _kept(got, masks[index]))

    @torch.no_grad()
    def score() -> float:
        return float(np.mean([float(loss(index, stored[index])) for index in range(0, len(stored), SCORED)]))

    before = score()
    if settings.moving < 1:
        for name in names:
            each = student.stored[name]
            if isinstance(each, StraightThrough | SoftRounding):
                each.hold(settings.moving)
    descent = Descent(student, names, small, settings.rates, settings.passes * len(stored), settings.optimizer)
    with student.learning(names, small):
        for _ in range(settings.passes):
            for index in torch.randperm(len(stored), generator=generator).tolist():
                inputs = _mixed(original[index], stored[index], settings.mixed, generator)
                student.decode(names)
                descent.step(loss(index, inputs))
    return Reconstructed(block, before, score())


def _mixed(original: BlockInputs, stored: BlockInputs, share: float, generator: torch.Generator) -> BlockInputs:
    if share == 0:
        return stored
    hidden = stored.hidden
    chosen = torch.rand(hidden.shape[:-1], generator=generator) < share
    return replace(stored, hidden=torch.where(chosen[..., None], original.hidden, hidden))


def _call(module: nn.Module, inputs: BlockInputs) -> torch.Tensor:
    out = module(inputs.hidden.to(inputs.device), *inputs.args, **inputs.kwargs)
    first: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return first


@torch.no_grad()
def _run(module: nn.Module, inputs: BlockInputs) -> torch.Tensor:
    return _call(module, inputs).cpu()


def _kept(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Tokens that count, (tokens, channels), in float32."""
    if mask is not None and mask.shape == hidden.shape[:-1]:
        return hidden[mask.to(hidden.device)].float()
    return hidden.reshape(-1, hidden.shape[-1]).float()
