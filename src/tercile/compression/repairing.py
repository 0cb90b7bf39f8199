"""Smaller rungs, repaired: what a sensitivity table says is lost when layers are rounded one by one can be won back by
training what is stored to give the original's answers.

A repair costs minutes, so few rungs get one: the first is guessed from what repairs usually win, the next from what the
last one did win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tercile.compression.bank import Bank
from tercile.compression.batches import cut
from tercile.compression.source import Source
from tercile.compression.tasks import Task, run
from tercile.compression.workspace import Workspace
from tercile.filters.data import Example
from tercile.quantization import QTensor
from tercile.quantization.families import Family
from tercile.quantization.training import Distillation, Rates, Reconstruction, Repair, repair

# Share of a rung's loss that is left after its repair: on MiniLM 0.9 under trellis grids, whose codes stay, 0.7 where
# codes can move. Only steers the first guess, which should pass: a second is made where more was won.
USUALLY_LEFT = 0.9
#: Rungs that are repaired at most.
REPAIRS = 2
#: Of the calibration side: more wins little, and costs time.
UNITS = 512
BATCH = 16
SETTINGS = Repair(
    blocks=Reconstruction(passes=0), whole=Distillation(passes=3, rates=Rates(0.003, 0.001, 0.002, 0.002))
)


class NoGradients(Exception):
    """The model or its loss can't be differentiated; it is compressed without a repair."""


@dataclass(frozen=True)
class RepairedRung:
    """A rung of the ladder after its repair.

    Attributes
    ----------
    rung
        Its number on the ladder; the repaired one takes as many bytes.
    weights
        What is stored, by layer name.
    vectors
        Gains and biases by parameter name, float32, rounded to what they are stored in.
    """

    rung: int
    weights: dict[str, QTensor]
    vectors: dict[str, np.ndarray]


def repair_rungs(
    predicted: Sequence[float],
    frontier: int,
    mend: Callable[[int, RepairedRung | None], RepairedRung],
    look: Callable[[RepairedRung], tuple[float, float]],
    wanted: float,
) -> list[RepairedRung]:
    """Repairs a few rungs below the frontier of those that keep the promise as they are.

    Parameters
    ----------
    predicted, frontier
        Loss of every rung by the sensitivity table, and the last rung that promises to pass without a repair.
    mend
        (rung, the repaired rung before) -> the rung repaired.
    look
        Repaired rung -> its mean loss, and the bound to expect.
    wanted
        The bound that has to be kept.

    Returns
    -------
    The repaired rungs that promise to pass, from the safest on; what failed on the way is left out.
    """
    found: dict[int, RepairedRung] = {}
    left, last = USUALLY_LEFT, None
    # Between the last that passed and the first that failed.
    low, high = max(frontier, 0), len(predicted)
    loss_wanted = wanted
    for _ in range(REPAIRS):
        rung = _largest(predicted, loss_wanted / left, low, high)
        if rung <= low:
            break
        last = mend(rung, last)
        loss, bound = look(last)
        left = max(loss, 1e-12) / max(predicted[rung], 1e-12)
        # The bound lies above the mean by what the number of units leaves open, which hardly depends on the rung.
        loss_wanted = max(wanted - (bound - loss), 0.1 * wanted)
        if bound <= wanted:
            found[rung] = last
            low = rung
        else:
            high = rung
    return [found[rung] for rung in sorted(found)]


def _largest(predicted: Sequence[float], loss: float, low: int, high: int) -> int:
    """The last rung between low and high whose predicted loss is at most this; low if there is none."""
    return max((rung for rung in range(low + 1, high) if predicted[rung] <= loss), default=low)


def mend_rung(
    source: Source,
    family: Family,
    task: Task,
    examples: Sequence[Example],
    bank: Bank,
    rung: int,
    choices: Mapping[str, str],
    before: RepairedRung | None,
    workspace: Workspace,
    tell: Callable[[str, int, int | None], None],
) -> RepairedRung:
    """Repairs one rung; layers that the rung repaired before keeps under the same scheme start from there.

    Raises
    ------
    NoGradients
        If torch can't differentiate the model or its loss.
    """
    weights, vectors = {}, {}
    for layer, scheme in choices.items():
        stored = bank.read(layer, scheme)
        weights[layer] = stored.weight
        if stored.bias_change is not None:
            bias = source.module.get_parameter(f"{layer}.bias").detach().cpu().float().numpy()
            vectors[f"{layer}.bias"] = bias + stored.bias_change
    if before is not None:
        same = {layer: q for layer, q in before.weights.items() if q.scheme == weights[layer].scheme}
        weights, vectors = weights | same, vectors | before.vectors
    batches = cut(examples[:UNITS], source, BATCH)
    try:
        made = repair(
            source.module,
            family,
            weights,
            batches,
            forward=run,
            outputs=task.outputs,
            losses=task.smooth,
            keep=None if batches[0].keep is None else lambda batch: batch.keep,
            vectors=vectors,
            settings=SETTINGS,
            folder=workspace.folder / f"repair-{rung}",
            progress=tell,
        )
    except RuntimeError as error:
        raise NoGradients(f"the model can't be trained ({str(error).splitlines()[0]})") from error
    return RepairedRung(rung, made.weights, {n: _as_stored(v, n, source) for n, v in made.vectors.items()})


def _as_stored(vector: np.ndarray, name: str, source: Source) -> np.ndarray:
    kept = source.dtypes.get(name, torch.float32)
    rounded: np.ndarray = torch.from_numpy(vector).to(kept).float().numpy()
    return rounded


def repair_bytes(source: Source) -> int:
    """Memory that a repair takes: a float32 copy of the model, and four more numbers for each weight."""
    return 5 * 4 * sum(parameter.numel() for parameter in source.module.parameters())
