"""`tercile debug`: opens a model with its data and finds out what quantizing it would cost, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.compression.batches import Batch, cut
from tercile.compression.scoring import Scorer
from tercile.compression.source import open_source
from tercile.compression.tasks import make_task, run
from tercile.files import write_atomically
from tercile.filters.data import read
from tercile.quantization.debugging import Diagnosis, diagnose, diagnosis_svg
from tercile.quantization.families import describe
from tercile.zoo import find, list_models

Progress = Callable[[str, int, int | None], None]


def debug(
    model: Any,
    data: Any = None,
    *,
    weights: str = "int8-channel",
    inputs: str = "int8-tensor-asym-f32",
    task: str | None = None,
    examples: int = 64,
    column: str | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """What quantizing each layer's weights, or its inputs, costs a model, and what is to blame.

    Parameters
    ----------
    model, data, task, column
        As for `tercile.compress`; the zoo's models bring data of their own.
    weights, inputs
        Schemes that are tried.
    examples
        How many of the data's examples are used: the first half to find ranges on, all to measure the loss on.
    progress
        Called with (stage, done, total).

    Raises
    ------
    ValueError, TypeError, OSError
        For input that cannot be used.

    Examples
    --------
    >>> found = debug("digits-cnn", weights="int4-channel", examples=32)  # doctest: +SKIP
    >>> found.worse_part  # doctest: +SKIP
    'weights'
    """
    if examples < 4:
        raise ValueError(f"examples must be at least 4, got {examples}")
    entry = find(model) if model in {known.name for known in list_models()} else None
    source = open_source(model if entry is None else entry.source)
    sample, own_task = (None, None) if entry is None else (entry.sample, entry.task)
    given = sample if data is None else data
    if given is None:
        raise ValueError(f"data is missing: {source.spec!r} brings no sample of its own; give --data")
    chosen = tuple(islice(read(given, column=column), examples))
    if len(chosen) < 4:
        raise ValueError(f"the data holds {len(chosen)} examples; give at least 4")
    made = make_task(source, task or own_task)
    made = replace(made, losses=made.smooth)
    batches = cut(chosen[: max(2, len(chosen) // 2)], source)
    scorer, candidate = Scorer(source, made, chosen), copy.deepcopy(source.module)
    masked = any(batch.keep is not None for batch in batches)
    return diagnose(
        candidate,
        describe(candidate),
        batches,
        lambda: float(np.asarray(scorer.losses(candidate), dtype=np.float64).mean()),
        forward=run,
        keep=_kept if masked else None,
        weights=weights,
        inputs=inputs,
        progress=None if progress is None else lambda done, total: progress("one layer at a time", done, total),
    )


def _kept(batch: Batch) -> torch.Tensor:
    """Tokens that count."""
    assert batch.keep is not None
    return batch.keep


def write_plot(found: Diagnosis, path: Path) -> Path:
    """Writes the picture of a diagnosis as SVG, whole or not at all."""
    write_atomically(path, diagnosis_svg(found).encode())
    return path
