"""How much each layer's rounding costs the task: one measurement a layer, the rest in proportion to output error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tercile.compression.bank import Bank, Candidate
from tercile.compression.scoring import Scorer
from tercile.compression.source import Source
from tercile.compression.tasks import Task
from tercile.compression.workspace import Workspace
from tercile.filters.data.example import Example
from tercile.quantization.allocation import SensitivityTable

# Units that a layer's loss is measured on. Losses of layers are compared with each other, so few are enough.
UNITS = 48
# A layer that the loss does not feel is still used by somebody: it keeps at least these bits.
LEAST_BITS_UNFELT = 4.0


def measure_sensitivity(
    source: Source,
    task: Task,
    examples: Sequence[Example],
    bank: Bank,
    candidate: Candidate,
    layers: Sequence[str],
    workspace: Workspace,
    tell: Callable[[str, int, int | None], None],
) -> SensitivityTable:
    """The table layers x schemes that sizes are divided by.

    A layer is stored under one of the smaller schemes, the task's smooth loss of the whole model is measured, and the
    losses under the other schemes follow in proportion to the layer's output error: a loss that is quadratic near the
    original does so to first order.

    Notes
    -----
    Costs one run of the model on 48 examples for each layer.
    """
    scorer = Scorer(source, replace(task, losses=task.smooth), examples[:UNITS])
    schemes = tuple(dict.fromkeys(scheme for layer in layers for scheme in bank.offered[layer]))
    column = {scheme: number for number, scheme in enumerate(schemes)}
    nbytes = np.zeros((len(layers), len(schemes)), dtype=np.int64)
    loss = np.full((len(layers), len(schemes)), np.inf)
    for row, layer in enumerate(layers):
        offered = bank.offered[layer]
        sizes, bits, errors = _offers(bank, layer)
        probe = int(np.argsort(bits, kind="stable")[len(offered) // 3])

        def measure(layer: str = layer, scheme: str = offered[probe]) -> float:
            candidate.set({layer: scheme})
            return float(scorer.losses(candidate.module).mean())

        measured = workspace.json(f"sensitivity/{row:04d}", measure)
        predicted = measured * errors / errors[probe] if errors[probe] > 0 else np.zeros_like(errors)
        if measured == 0.0:
            # Nothing was felt: prefer less error all the same, and never spend less than the least bits.
            predicted = np.where(bits < min(LEAST_BITS_UNFELT, bits.max()), np.inf, 1e-12 * errors)
        at = [column[scheme] for scheme in offered]
        nbytes[row, at], loss[row, at] = sizes, predicted
        tell("measuring sensitivity", row + 1, len(layers))
    candidate.set({})
    return SensitivityTable(tuple(layers), schemes, nbytes, loss)


def _offers(bank: Bank, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes, bits a weight and output error of a layer under each scheme on offer."""
    sizes, bits, errors = [], [], []
    for scheme in bank.offered[layer]:
        stored = bank.read(layer, scheme)
        sizes.append(stored.weight.nbytes)
        bits.append(stored.weight.bits_per_weight)
        errors.append(stored.error)
    return np.array(sizes), np.array(bits), np.array(errors)
