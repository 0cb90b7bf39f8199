"""Repair: from stored weights that a solver made layer by layer to ones that work well together.

First block by block, each on what the blocks before it really give; then all together towards the original's answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from tercile.arrays import load_arrays, save_arrays
from tercile.quantization.block_inputs import Batch, Forward
from tercile.quantization.families import Family
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme
from tercile.quantization.training.descent import Rates
from tercile.quantization.training.distillation import Distillation, Losses, Outputs, Vary, distil, held_out
from tercile.quantization.training.reconstruction import Keep, Reconstruction, reconstruct
from tercile.quantization.training.stored_weight import FixedCodes, Rounding, StraightThrough
from tercile.quantization.training.student import Student

Progress = Callable[[str, int, int | None], None]


#: Chosen on MiniLM at 2 bits, for a few minutes of one core.
BLOCKS = Reconstruction(passes=2, rates=Rates(0.005, 0.001, 0.004, 0.002))
WHOLE = Distillation(passes=4, rates=Rates(0.003, 0.0005, 0.002, 0.001))


@dataclass(frozen=True)
class Repair:
    """What is done, and for how long.

    Parameters
    ----------
    blocks, whole
        Settings of the two stages; with 0 passes a stage is left out.
    rounding, table_rounding
        What may become of the codes of layers, and of embedding tables.
    """

    blocks: Reconstruction = field(default_factory=lambda: BLOCKS)
    whole: Distillation = field(default_factory=lambda: WHOLE)
    rounding: Rounding = StraightThrough
    table_rounding: Rounding = FixedCodes


@dataclass(frozen=True)
class Repaired:
    """A repaired model.

    Attributes
    ----------
    weights
        By layer name, under the schemes that they came in.
    vectors
        Gains, biases and other vectors of the model by parameter name, float32: all of them, changed or not.
    before, after
        Mean loss on the batches that were not trained on, of what `repair` was given and of this; NaN where there were
        too few to spare any.
    """

    weights: dict[str, QTensor]
    vectors: dict[str, np.ndarray]
    before: float
    after: float


def repair(
    model: nn.Module,
    family: Family,
    weights: Mapping[str, QTensor],
    batches: Sequence[Batch],
    *,
    forward: Forward,
    outputs: Outputs,
    losses: Losses,
    keep: Keep | None = None,
    vectors: Mapping[str, np.ndarray] | None = None,
    settings: Repair = Repair(),
    vary: Vary | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Trains codes, scales, zero points, gains and biases of a stored model to give the original's answers.

    Schemes stay as they are, so that the repaired model takes as many bytes as the one that came in.

    Parameters
    ----------
    model, family
        The original, which is left alone, and what `describe` says of it.
    weights
        What is stored, by layer name; any schemes, mixed as an allocation mixes them. Layers that are not named keep
        the original's weight.
    batches
        Calibration data. Batches of some 16 examples of like length train well; one in 16 is held out.
    forward, keep
        As in `calibration.collect`.
    outputs, losses
        As in `distil`: the loss that the model will be judged by, or one that has gradients where that has none.
    vectors
        Values that gains and biases start from, where they differ from the original's: corrected biases.
    vary
        As in `distil`.
    settings, seed
        How, and in which order batches are taken.
    folder
        Finished pieces are kept here, and a run that was stopped takes them up and ends with the same bits. The caller
        sees to it that a folder belongs to one model, one choice of weights and one calibration set.
    progress
        Called with (stage, steps done, steps in all).

    Returns
    -------
    Repaired, never worse on the held-out batches than what came in.

    Raises
    ------
    ValueError
        If names or shapes do not fit the model, there are no batches, or the loss is not finite.

    Notes
    -----
    A pass costs 3.6 forward passes over the batches, in either stage. Memory: a copy of the model in float32, four
    numbers a weight while it trains, and the hidden states of the batches.

    Examples
    --------
    >>> import torch
    >>> from tercile.quantization.families import describe
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> batches = [torch.randn(16, 8) for _ in range(32)]
    >>> weights = {n: round_to_nearest(model.get_submodule(n).weight.detach().numpy(), None, Scheme.parse("int3-g8"))
    ...            for n in ("0", "2")}
    >>> run = lambda model, batch: model(batch)
    >>> square = lambda wanted, got, batch: (got - wanted).square().mean(1)
    >>> settings = Repair(whole=Distillation(passes=20, rates=Rates(0.02, 0.005, 0, 0.005)))
    >>> better = repair(model, describe(model), weights, batches, forward=run, outputs=run, losses=square,
    ...                 settings=settings)
    >>> better.after < 0.6 * better.before, better.weights["0"].nbytes == weights["0"].nbytes
    (True, True)
    """
    if not batches:
        raise ValueError("batches is empty: there is nothing to train on")
    tell: Progress = progress or (lambda stage, done, total: None)
    student = Student(
        model, family, weights, vectors, rounding=settings.rounding, table_rounding=settings.table_rounding
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _RESULT).is_file():
            return _load(folder / _RESULT)

    def whole(passes: Distillation, path: Path | None = None):  # type: ignore[no-untyped-def]
        return distil(
            student, model, family, batches, outputs=outputs, losses=losses, keep=keep, settings=passes, vary=vary,
            seed=seed, path=path, tick=lambda done, total: tell("repairing the whole", done, total),
        )  # fmt: skip

    first = whole(Distillation(passes=0))
    start = student.to_arrays()
    if settings.blocks.passes and family.sequential:
        _blocks(student, model, family, batches, forward, keep, settings.blocks, seed, folder, tell)
    last = whole(settings.whole, None if folder is None else folder / "whole.safetensors")
    if last.after > first.before:
        student.from_arrays(start)
    result = Repaired(
        student.tensors(), student.vectors(), first.before, last.after if last.after <= first.before else first.before
    )
    if folder is not None:
        _save(folder / _RESULT, result)
        for piece in (*folder.glob("block-*.safetensors"), folder / "whole.safetensors"):
            piece.unlink(missing_ok=True)
    return result


def _blocks(
    student: Student,
    model: nn.Module,
    family: Family,
    batches: Sequence[Batch],
    forward: Forward,
    keep: Keep | None,
    settings: Reconstruction,
    seed: int,
    folder: Path | None,
    tell: Progress,
) -> None:
    """Reconstructs every block, those left out that a folder holds already."""
    training, _ = held_out(len(batches))
    paths = {} if folder is None else {b.name: folder / f"block-{i}.safetensors" for i, b in enumerate(family.blocks)}
    done = 0
    for block in family.blocks:
        if block.name in paths and paths[block.name].is_file():
            student.from_arrays(load_arrays(paths[block.name])[0])
            done += 1
    finished = {block.name for block in family.blocks[:done]}
    tell("repairing blocks", done, len(family.blocks))
    for made in reconstruct(
        student, model, family, [batches[index] for index in training], forward=forward, keep=keep, settings=settings,
        seed=seed, skip=lambda block: block.name in finished,
    ):  # fmt: skip
        done += 1
        if made.block.name in paths:
            names = [layer.name for layer in made.block.layers if layer.name in student.stored]
            small = [name for name in student.small if name.startswith(made.block.name + ".")]
            save_arrays(paths[made.block.name], student.to_arrays(names, small))
        tell("repairing blocks", done, len(family.blocks))


_RESULT = "repaired.safetensors"


def _save(path: Path, result: Repaired) -> None:
    arrays = {f"vector:{name}": value for name, value in result.vectors.items()}
    about = {}
    for name, tensor in result.weights.items():
        arrays |= tensor.to_arrays(f"weight:{name}")
        about[name] = [tensor.scheme.spelling, list(tensor.shape)]
    save_arrays(path, arrays, {"weights": json.dumps(about), "losses": json.dumps([result.before, result.after])})


def _load(path: Path) -> Repaired:
    arrays, about = load_arrays(path)
    weights = {
        name: QTensor.from_arrays(f"weight:{name}", Scheme.parse(scheme), tuple(shape), arrays)
        for name, (scheme, shape) in json.loads(about["weights"]).items()
    }
    vectors = {key.removeprefix("vector:"): value for key, value in arrays.items() if key.startswith("vector:")}
    return Repaired(weights, vectors, *json.loads(about["losses"]))
