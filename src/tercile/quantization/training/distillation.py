"""Distillation: everything that is stored of a model is trained together, towards the original's answers and towards
what its blocks hand on.

Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", for answers; Romero et al. (2015),
"FitNets: Hints for Thin Deep Nets", for what lies between. Nothing but the texts is needed, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.arrays import load_arrays, save_arrays
from tercile.quantization.block_inputs import Batch
from tercile.quantization.families import Family
from tercile.quantization.training.descent import Descent, Optimizer, Rates
from tercile.quantization.training.reconstruction import Keep, relative_square
from tercile.quantization.training.student import Student

Outputs = Callable[[nn.Module, Batch], Any]
#: From (original's outputs, student's, batch) to the loss of each example, or one number, with gradients.
Losses = Callable[[Any, Any, Batch], torch.Tensor]
Tick = Callable[[int, int], None]
#: Another batch out of one, drawn anew whenever it is trained on.
Vary = Callable[[Batch, torch.Generator], Batch]

# What the original says is kept up to this size; beyond it, it is asked again.
KEPT_BYTES = 512 * 2**20
#: One batch in this many is never trained on; the student is handed back as it came if it got worse there.
HELD = 16
#: A run that can be taken up again is saved this often.
SAVED = 40


@dataclass(frozen=True)
class Distillation:
    """How a student is distilled.

    Parameters
    ----------
    passes
        Over all batches.
    rates, optimizer
        Of the descent.
    hints
        Weight of the blocks' own outputs beside the loss; 0 trains on the loss alone. They say far more about a batch
        than its answers do, and keep a small calibration set from being learnt by heart.
    vectors
        Whether gains and biases learn too.
    """

    passes: int = 4
    rates: Rates = field(default_factory=Rates)
    optimizer: Optimizer = torch.optim.Adam
    hints: float = 1.0
    vectors: bool = True

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise ValueError(f"passes must be at least 0, got {self.passes}")
        if not self.hints >= 0:
            raise ValueError(f"hints must be at least 0, got {self.hints}")


@dataclass(frozen=True)
class Distilled:
    """Mean loss over the batches that were held out, before and after; NaN if there were too few to hold any out."""

    before: float
    after: float


def distil(
    student: Student,
    model: nn.Module,
    family: Family,
    batches: Sequence[Batch],
    *,
    outputs: Outputs,
    losses: Losses,
    keep: Keep | None = None,
    settings: Distillation = Distillation(),
    stored: Iterable[str] | None = None,
    vary: Vary | None = None,
    seed: int = 0,
    path: Path | None = None,
    tick: Tick | None = None,
) -> Distilled:
    """Trains a student as a whole, in place.

    Parameters
    ----------
    student, model, family
        A copy of the model on stored weights, the original, and what `describe` says of it.
    batches
        Kept in memory.
    outputs, losses
        What is compared of the two, and how: `losses(outputs(model, batch), outputs(student.module, batch), batch)`.
    keep
        Which tokens of a batch count, bool (batch, tokens), for the hints.
    settings, seed
        How, and in which order batches are taken.
    stored
        Names of the stored weights that learn; all of them by default.
    vary
        Makes another batch out of one each time it is trained on, see `Substitution`: the more often a batch comes
        round, the more this keeps the student from learning it by heart. The original is asked about each anew, which
        adds a forward pass to every step.
    path
        The run is kept in this file as it goes, and taken up from it where it was stopped. It ends with the same bits
        as one that was never disturbed.
    tick
        Called with (steps done, steps in all).

    Raises
    ------
    ValueError
        If there are no batches, or a loss is not finite.
    """
    if not batches:
        raise ValueError("batches is empty: there is nothing to train on")
    training, held = held_out(len(batches))
    names = list(student.stored if stored is None else stored)
    small = list(student.small) if settings.vectors else []
    hinted = [block.name for block in family.blocks] if settings.hints and family.sequential else []
    teacher = _Watched(model, hinted, outputs, keep)
    pupil = _Watched(student.module, hinted, outputs, keep)
    kept = _Kept(teacher, batches)

    def loss(said: tuple[Any, list[torch.Tensor]], batch: Batch, hints: float) -> torch.Tensor:
        wanted, hidden = said
        got, own = pupil(batch)
        total = losses(wanted, got, batch).mean()
        if hints and hidden:
            shares = [relative_square(one.float(), other) for one, other in zip(hidden, own, strict=True)]
            total = total + hints * torch.stack(shares).mean()
        return total

    @torch.no_grad()
    def varied(index: int, step: int) -> tuple[tuple[Any, list[torch.Tensor]], Batch]:
        assert vary is not None
        batch = vary(batches[index], torch.Generator().manual_seed(1_000_003 * seed + step))
        return teacher(batch), batch

    @torch.no_grad()
    def score() -> float:
        return (
            float(np.mean([float(loss(kept(index), batches[index], 0.0)) for index in held])) if held else float("nan")
        )

    before, start = score(), student.to_arrays()
    steps = settings.passes * len(training)
    generator = torch.Generator().manual_seed(seed)
    order = [training[at] for _ in range(settings.passes) for at in torch.randperm(len(training), generator=generator)]
    descent = Descent(student, names, small, settings.rates, steps, settings.optimizer)
    if path is not None and path.is_file():
        descent.from_arrays(load_arrays(path)[0])
    with student.learning(names, small):
        for index in order[descent.done :]:
            said, batch = (kept(index), batches[index]) if vary is None else varied(index, descent.done)
            student.decode(names)
            value = loss(said, batch, settings.hints)
            if not bool(torch.isfinite(value)):
                raise ValueError(f"the loss became {float(value)} after {descent.done} steps; lower the rates")
            descent.step(value)
            if tick is not None:
                tick(descent.done, steps)
            if path is not None and descent.done % SAVED == 0:
                save_arrays(path, descent.to_arrays())
    after = score()
    if after > before:
        student.from_arrays(start)
        after = before
    return Distilled(before, after)


def held_out(count: int) -> tuple[list[int], list[int]]:
    """Which of so many batches are trained on, and which are kept to see whether it helped.

    >>> held_out(20)[1], held_out(15)[1]
    ([8], [])
    """
    held = [index for index in range(count) if count >= HELD and index % HELD == HELD // 2]
    return [index for index in range(count) if index not in held], held


class _Watched:
    """A model, its outputs, and what some of its blocks hand on."""

    def __init__(self, module: nn.Module, blocks: Sequence[str], outputs: Outputs, keep: Keep | None) -> None:
        self.module, self.blocks, self.outputs, self.keep = module, blocks, outputs, keep

    def __call__(self, batch: Batch) -> tuple[Any, list[torch.Tensor]]:
        mask = None if self.keep is None else self.keep(batch).bool()
        hidden: list[torch.Tensor] = []

        def note(module: nn.Module, inputs: Any, out: Any) -> None:
            first = out[0] if isinstance(out, tuple) else out
            hidden.append(first[mask] if mask is not None and mask.shape == first.shape[:-1] else first.flatten(0, -2))

        with ExitStack() as stack:
            for name in self.blocks:
                stack.callback(self.module.get_submodule(name).register_forward_hook(note).remove)
            return self.outputs(self.module, batch), hidden


class _Kept:
    """What the original says of each batch, in half precision between its blocks, as far as it may be kept."""

    def __init__(self, teacher: _Watched, batches: Sequence[Batch]) -> None:
        self._teacher, self._batches = teacher, batches
        self._said: dict[int, tuple[Any, list[torch.Tensor]]] = {}
        self._size = 0

    @torch.no_grad()
    def __call__(self, index: int) -> tuple[Any, list[torch.Tensor]]:
        if index in self._said:
            return self._said[index]
        wanted, hidden = self._teacher(self._batches[index])
        said = wanted, [one.to(torch.bfloat16) for one in hidden]
        tensors = [*said[1], *([wanted] if isinstance(wanted, torch.Tensor) else [])]
        size = sum(one.numel() * one.element_size() for one in tensors)
        if self._size + size <= KEPT_BYTES and isinstance(wanted, torch.Tensor):
            self._said[index] = said
            self._size += size
        return said
