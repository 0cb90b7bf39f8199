"""Every layer stored under every scheme on offer, block by block, while the statistics of its inputs are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tercile.compression.bank import Bank
from tercile.compression.batches import Batch, cut
from tercile.compression.settings import Settings
from tercile.compression.source import Source
from tercile.compression.tasks import Task, run
from tercile.compression.workspace import Workspace
from tercile.filters.data import Selection
from tercile.quantization.calibration import collect, count_rows
from tercile.quantization.families import Family
from tercile.quantization.statistics import Statistics
from tercile.quantization.table_statistics import table_statistics

# Units by whose gradients it is measured what an embedding table's rounding costs.
FELT_BY = 192


def fill_bank(
    source: Source,
    family: Family,
    task: Task,
    chosen: Selection,
    settings: Settings,
    workspace: Workspace,
    tell: Callable[[str, int, int | None], None],
) -> Bank:
    """Calibrates block by block and stores every layer of a block under every scheme while its statistics are there."""
    layers = {layer.name: layer for layer in family.layers if settings.offered(layer)}
    if not layers:
        what = settings.to_format or "no scheme"
        raise ValueError(f"{what} can hold no layer of {source.spec!r} under the schemes on offer; offer others")
    bank = Bank(workspace.folder / "bank", {name: settings.offered(layer) for name, layer in layers.items()})
    batches = cut(chosen.calibration, source)
    shared = {alias: group[0] for group in family.tied for alias in group[1:]}
    left = [name for name in layers if not bank.holds(name)]
    done = len(layers) - len(left)
    tell("calibrating and solving", done, len(layers))

    def solve(name: str, statistics: Any, seen: np.ndarray | None) -> None:
        nonlocal done
        if not bank.holds(name):
            bank.solve(name, source.module.get_submodule(name), statistics, seen)
            done += 1
            tell("calibrating and solving", done, len(layers))

    keep = None if batches[0].keep is None else lambda batch: batch.keep
    with torch.inference_mode():
        if any(layers[name].kind != "embedding" or name in shared.values() for name in left):
            folder = workspace.folder / "statistics"
            for _, statistics in collect(source.module, family, batches, forward=run, keep=keep, folder=folder):
                for name, seen in statistics.items():
                    # A head that shares the word table's weight is how that table's rounding is felt most.
                    solve(shared.get(name, name), seen, None)
    tables = [name for name in left if not bank.holds(name)]
    felt = _felt(source, task, tables, batches) if tables else {}
    with torch.inference_mode():
        rows = count_rows(source.module, family, batches, forward=run, keep=keep) if tables else {}
        for name in tables:
            solve(name, felt.get(name), rows.get(name))
    return bank


def _felt(source: Source, task: Task, tables: Sequence[str], batches: Sequence[Batch]) -> dict[str, Statistics]:
    """How the task's outputs feel changes of what embedding tables give; empty where torch can't tell."""
    if task.name == "custom":  # its outputs may be anything
        return {}
    wanted = max(1, round(len(batches) * FELT_BY / sum(len(batch.at) for batch in batches)))
    few = batches[:: max(1, len(batches) // wanted)]
    keep = None if batches[0].keep is None else lambda batch: batch.keep
    try:
        return table_statistics(source.module, tables, few, outputs=task.outputs, keep=keep, probes=2)
    except (RuntimeError, ValueError):
        return {}


def stored_bytes(source: Source, layer: str) -> int:
    return source.module.get_parameter(f"{layer}.weight").numel() * source.dtypes[f"{layer}.weight"].itemsize
