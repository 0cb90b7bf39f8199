"""A certificate for a small model that any other tool made: score it on fresh examples, bound its loss, seal it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tercile.compression.certificate import CERTIFICATE, NotCertified, file_digest, make_certificate, step_record
from tercile.compression.details import DETAILS, describe_data, describe_losses
from tercile.compression.export.onnx_activations import load_calibrated_on
from tercile.compression.pipeline import Outcome, Progress, put_in_place
from tercile.compression.scoring import Scorer
from tercile.compression.settings import Settings
from tercile.compression.source import Source, learnt, weights_digest
from tercile.compression.tasks import Task
from tercile.compression.third_party import ThirdParty, tensors_digest
from tercile.compression.units import least_units, save_certification, selection_digest, without_paths
from tercile.compression.workspace import Workspace
from tercile.files import write_json
from tercile.filters.data import Example, Selection, select
from tercile.quantiles.certificate import quantile_upper_bound, upper_bound, walk

# Units scored before the losses are kept: what a stopped run has to do again at most.
CHUNK = 256
# A promise that is found, not given, is written with this many decimals.
DECIMALS = 4


def certify(
    original: Source,
    small: ThirdParty,
    task: Task,
    data: Any,
    folder: Path,
    *,
    max_loss: float | None = None,
    confidence: float = 0.95,
    quantile: float | None = None,
    seed: int = 0,
    units: int = 1500,
    label: str | None = None,
    column: str | None = None,
    label_column: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Bounds what a finished small model loses against its original on data like the user's.

    Parameters
    ----------
    original, small, task
        The two models and how the loss of a unit is measured. Both see the original's inputs.
    data
        Examples that played no part in making the small model; anything that `tercile.filters.data.read` takes.
    folder
        Of the certificate; must not exist, unless `force` is set. The small model stays where it is.
    max_loss
        The promise to test. None asks for the least that can be promised: the upper bound itself, which is valid as
        there is one model and nothing was chosen by it.
    confidence, quantile, seed, units
        As in `Settings`; `units` is the most that are scored.
    label
        Name of the original in the certificate.
    column, label_column
        Of the data, where it has columns.
    progress
        Called with a stage, how much of it is done and out of how much.

    Raises
    ------
    NotCertified
        If `max_loss` can't be promised; the message says what can.
    ValueError, OSError
        For input that can't be used; nothing is left half-written.

    Notes
    -----
    Costs one run of each model over the units. Stopped runs go on from the last 256 units.
    """
    tell: Progress = progress or (lambda stage, done, total: None)
    if folder.exists() and not force:
        raise ValueError(f"{folder} exists; choose another --out, or replace it with --force")
    settings = Settings(max_loss if max_loss is not None else 0.5, confidence, quantile, seed, None, units)
    chosen = _choose(data, settings, least_units(settings), column, label_column, tell, load_calibrated_on(small.files))
    weights = weights_digest(original)
    identity = {name: file_digest(path) for name, path in small.files.items()} or tensors_digest(small.module)
    workspace = Workspace(
        folder.with_name(folder.name + ".partial"),
        {"task": [task.name, task.loss], "weights": weights, "small": identity, "data": selection_digest(chosen)},
    )
    losses = _score(original, small, task, chosen.certification, workspace, tell)
    if max_loss is None:
        settings = replace(settings, max_loss=_found(losses, settings))
    step = next(iter(walk([losses], settings.max_loss, confidence, q=quantile)))
    if not step.certified:
        workspace.remove()
        raise NotCertified(_refusal(small, step.risk, step.bound, settings, len(losses)))

    tell("writing", 0, None)
    steps = [step_record(step, 0, small.nbytes)]
    details = {
        "format": "tercile-details",
        "version": 1,
        "model": {
            "name": original.spec,
            "task": task.name,
            "weights": int(sum(tensor.numel() for tensor in learnt(original.module).values())),
            "original_nbytes": original.nbytes,
            "small_nbytes": small.nbytes,
        },
        "layers": [],
        "ladder": [],
    }
    details |= describe_data(chosen) | describe_losses(losses, chosen.certification)
    final = Path(tempfile.mkdtemp(prefix=".final-", dir=workspace.folder))
    kept = save_certification(chosen, final)
    write_json(final / DETAILS, details)
    about = {"source": small.spec, "kind": small.kind, "nbytes": small.nbytes}
    about |= {"files": identity} if small.files else {"files": {}, "weights_sha256": identity}
    certificate = make_certificate(
        settings,
        task,
        steps,
        losses,
        {"source": label or original.spec, "weights_sha256": weights, "nbytes": original.nbytes},
        about,
        [example.digest for example in chosen.certification],
        beside={path.name: file_digest(path) for path in (kept, final / DETAILS)},
    )
    write_json(final / CERTIFICATE, certificate)
    put_in_place(final, folder)
    workspace.remove()
    return Outcome(folder, certificate, details)


def _choose(
    data: Any,
    settings: Settings,
    least: int,
    column: str | None,
    label_column: str | None,
    tell: Progress,
    used: frozenset[str],
) -> Selection:
    """Every usable unit is one to certify on: there is nothing to calibrate. Those that made the model are left out."""
    chosen = select(
        data,
        seed=settings.seed,
        calibration=0,
        selection=0,
        certification=None,
        needed=least,
        column=column,
        label_column=label_column,
        progress=tell,
    )
    chosen = without_paths(chosen, data)
    fresh = tuple(example for example in chosen.certification if example.digest not in used)
    if len(fresh) < least:
        raise ValueError(
            f"{len(fresh):,} units are left without those that the small model was made with, and it takes {least:,}; "
            "give more, or others"
        )
    return replace(chosen, certification=fresh[: settings.units])


def _score(
    original: Source,
    small: ThirdParty,
    task: Task,
    examples: Sequence[Example],
    workspace: Workspace,
    tell: Callable[[str, int, int | None], None],
) -> np.ndarray:
    parts = []
    for start in range(0, len(examples), CHUNK):

        def make(start: int = start) -> np.ndarray:
            scorer = Scorer(original, task, examples[start : start + CHUNK])
            return scorer.losses(small.module, lambda done, _: tell("scoring", start + done, len(examples)))

        parts.append(workspace.array(f"losses/{start:08d}", make))
    return np.concatenate(parts)


def _found(losses: np.ndarray, settings: Settings) -> float:
    """The bound on these losses, rounded up: it stays a bound."""
    if settings.quantile is not None:
        bound = quantile_upper_bound(losses, settings.quantile, settings.confidence)
    else:
        bound = upper_bound(losses, settings.confidence)
    rounded = math.ceil(bound * 10**DECIMALS + 1e-9) / 10**DECIMALS
    if rounded >= 1:
        raise NotCertified(
            f"nothing can be promised: on {len(losses):,} units the loss is {losses.mean():.4f} on average, and it may "
            "be as high as 1, the worst there is; does the small model belong to this original?"
        )
    return rounded


def _refusal(small: ThirdParty, risk: float, bound: float, settings: Settings, units: int) -> str:
    return (
        f"not certified: {os.path.basename(small.spec.rstrip('/'))} loses {risk:.4f} on {units:,} units, and with "
        f"{100 * settings.confidence:g}% confidence no less than {math.ceil(bound * 1e4) / 1e4:.4f} can be promised, "
        f"above the {settings.max_loss:g} that you allowed"
    )
