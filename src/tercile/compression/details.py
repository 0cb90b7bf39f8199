"""details.json: everything that the report shows and the certificate does not need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tercile.compression.bank import Stored
from tercile.compression.search import Found, Rung
from tercile.compression.source import Source, learnt
from tercile.compression.tasks import Task
from tercile.filters.data import Example, Selection
from tercile.quantization.allocation import SensitivityTable
from tercile.quantization.families import Family

DETAILS = "details.json"
WORST = 10


def make_details(
    source: Source,
    task: Task,
    family: Family,
    chosen: Selection,
    table: SensitivityTable,
    ladder: Sequence[Rung],
    stored: Mapping[str, Stored],
    found: Found,
    steps: Sequence[Mapping[str, Any]],
    losses: np.ndarray,
    kept_bytes: int,
    rung: int,
) -> dict[str, Any]:
    """The record of a finished job, as plain JSON values.

    Parameters
    ----------
    table, ladder, stored
        What was predicted, what was on offer, and what each layer became.
    found
        What the selection data had to say.
    steps
        Of the walk.
    losses
        Certification losses of the chosen rung, in the order of the certification examples.
    kept_bytes
        Bytes of the tensors that are not quantized.
    """
    by_rung = {step["rung"]: step for step in steps}
    return {
        "format": "tercile-details",
        "version": 1,
        "model": {
            "name": source.spec,
            "family": family.name,
            "task": task.name,
            "weights": int(sum(tensor.numel() for tensor in learnt(source.module).values())),
            "original_nbytes": source.nbytes,
            "small_nbytes": kept_bytes + ladder[rung].nbytes,
            "float_nbytes": kept_bytes,
            "skipped": [[name, reason] for name, reason in family.skipped]
            + [[layer.name, "the format can't hold it"] for layer in family.layers if layer.name not in stored],
        },
        **describe_data(chosen),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "shape": list(stored[layer.name].weight.shape),
                "scheme": stored[layer.name].weight.scheme.spelling,
                "bits_per_weight": stored[layer.name].weight.bits_per_weight,
                "nbytes": stored[layer.name].weight.nbytes,
                "original_nbytes": int(np.prod(stored[layer.name].weight.shape))
                * source.dtypes[f"{layer.name}.weight"].itemsize,
                "predicted_loss": float(
                    table.loss[
                        table.layers.index(layer.name), table.schemes.index(stored[layer.name].weight.scheme.spelling)
                    ]
                ),
            }
            for layer in family.layers
            if layer.name in stored
        ],
        "ladder": [
            {
                "rung": number,
                "nbytes": kept_bytes + one.nbytes,
                "predicted_loss": one.predicted,
                "selection_loss": float(found.losses[number].mean()) if number in found.losses else None,
                "certified": by_rung[number]["certified"] if number in by_rung else None,
                "risk": by_rung[number]["risk"] if number in by_rung else None,
                "bound": by_rung[number]["bound"] if number in by_rung else None,
            }
            | ({} if one.repaired is None else {"repaired_from": one.repaired.rung})
            for number, one in enumerate(ladder)
        ],
        "repair": {
            "rungs": [number for number, one in enumerate(ladder) if one.repaired is not None],
            "left_out": found.not_repaired,
        },
        **describe_losses(losses, chosen.certification),
    }


def describe_data(chosen: Selection) -> dict[str, Any]:
    """What was read, turned away and used."""
    return {
        "selection": chosen.summary(),
        "used": {
            "calibration": len(chosen.calibration),
            "selection": len(chosen.selection),
            "certification": len(chosen.certification),
        },
    }


def describe_losses(losses: np.ndarray, examples: Sequence[Example]) -> dict[str, Any]:
    """The loss of every certification example, and the worst ones with their text."""
    worst = np.argsort(-losses.astype(np.float64), kind="stable")[:WORST]
    return {
        "losses": [float(loss) for loss in losses],
        "worst": [
            {"loss": float(losses[i]), "origin": examples[i].origin, "excerpt": examples[i].excerpt} for i in worst
        ],
    }
