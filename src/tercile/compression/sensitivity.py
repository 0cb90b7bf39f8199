"""How much each layer's rounding costs the task: one measurement a layer, the rest in proportion to its output error."""

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
UNITS = 64
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
    Costs one run of the model on 64 examples for each layer.
    """
    schemes = bank.schemes
    stored = {(layer, scheme): bank.read(layer, scheme) for layer in layers for scheme in schemes}
    nbytes = np.array([[stored[layer, scheme].weight.nbytes for scheme in schemes] for layer in layers])
    error = np.array([[stored[layer, scheme].error for scheme in schemes] for layer in layers])
    bits = np.array([[stored[layer, scheme].weight.bits_per_weight for scheme in schemes] for layer in layers])
    stored.clear()
    scorer = Scorer(source, replace(task, losses=task.smooth), examples[:UNITS])
    loss = np.zeros_like(error)
    for row, layer in enumerate(layers):
        probe = int(np.argsort(bits[row], kind="stable")[len(schemes) // 3])

        def measure(layer: str = layer, probe: int = probe) -> float:
            candidate.set({layer: schemes[probe]})
            return float(scorer.losses(candidate.module).mean())

        measured = workspace.json(f"sensitivity/{row:04d}", measure)
        loss[row] = measured * error[row] / error[row, probe] if error[row, probe] > 0 else 0.0
        if measured == 0.0:
            # Nothing was felt: prefer less error all the same, and never spend less than the least bits.
            loss[row] = np.where(bits[row] < min(LEAST_BITS_UNFELT, bits[row].max()), np.inf, 1e-12 * error[row])
        tell("measuring sensitivity", row + 1, len(layers))
    candidate.set({})
    return SensitivityTable(tuple(layers), schemes, nbytes, loss)
