"""The main job: select, encode, certify, pack.

Reads from top to bottom as the job runs. Each stage keeps what it finished in a Workspace, so that a run which was
stopped takes up where it was.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.compression.bank import Candidate, Stored
from tercile.compression.certificate import CERTIFICATE, NotCertified, file_digest, make_certificate, step_record
from tercile.compression.details import DETAILS, make_details
from tercile.compression.encoding import fill_bank, stored_bytes
from tercile.compression.memory import check_memory, why_not_repaired
from tercile.compression.package import WEIGHTS, save_package
from tercile.compression.repairing import RepairedRung, mend_rung
from tercile.compression.scoring import Scorer
from tercile.compression.search import Ladder, search
from tercile.compression.sensitivity import measure_sensitivity
from tercile.compression.settings import Settings
from tercile.compression.source import Source, weights_digest
from tercile.compression.tasks import Task
from tercile.compression.units import least_units, save_certification, selection_digest, without_paths
from tercile.compression.workspace import Workspace
from tercile.files import write_json
from tercile.filters.data import Selection, select
from tercile.quantiles.certificate import walk
from tercile.quantization.allocation import pareto_ladder
from tercile.quantization.families import describe

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Outcome:
    """What a finished job left: a folder, and what is in its two JSON files."""

    folder: Path
    certificate: dict[str, Any]
    details: dict[str, Any]


def compress(
    source: Source,
    task: Task,
    data: Any,
    settings: Settings,
    folder: Path,
    *,
    label: str | None = None,
    column: str | None = None,
    label_column: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Makes the smallest model on the ladder that can be certified, and writes it to a folder.

    Parameters
    ----------
    source, task
        The model, and how its loss is measured.
    data
        Anything that `tercile.filters.data.read` takes.
    settings
        The promise.
    folder
        Must not exist, unless `force` is set: then it is replaced once the new one is complete. Work in progress is
        kept beside it, in `<folder>.partial`.
    label
        Name of the model in the certificate; the source's own by default.
    column, label_column
        Of the data, where it has columns.
    progress
        Called with a stage, how much of it is done and out of how much.

    Raises
    ------
    NotCertified
        If the safest rung can't be certified; nothing is handed over.
    ValueError, OSError, MemoryError
        For input that can't be used, a full disk, too little memory; the folder is as it was.
    """
    tell: Progress = progress or (lambda stage, done, total: None)
    if folder.exists() and not force:
        raise ValueError(f"{folder} exists; choose another --out, or replace it with --force")
    check_memory(source)
    family = describe(source.module)
    chosen = _select(data, settings, column, label_column, tell)
    weights = weights_digest(source)
    workspace = Workspace(
        folder.with_name(folder.name + ".partial"),
        {
            "settings": settings.as_json(),
            "task": [task.name, task.loss],
            "weights": weights,
            "data": selection_digest(chosen),
            "torch": [torch.__version__, torch.get_num_threads()],
        },
    )
    bank = fill_bank(source, family, task, chosen, settings, workspace, tell)
    layers = list(bank.offered)
    original_bytes = source.nbytes
    kept_bytes = original_bytes - sum(stored_bytes(source, layer) for layer in layers)

    candidate = Candidate(source.module, copy.deepcopy(source.module), bank)
    table = measure_sensitivity(source, task, chosen.selection, bank, candidate, layers, workspace, tell)
    ladder = Ladder(pareto_ladder(table, settings.rungs), bank, candidate, workspace, tell)

    def mend(rung: int, before: RepairedRung | None) -> RepairedRung:
        choices = ladder.rungs[rung].choices
        return mend_rung(source, family, task, chosen.calibration, bank, rung, choices, before, workspace, tell)

    found = search(
        ladder, Scorer(source, task, chosen.selection), mend, settings, len(chosen.certification),
        why_not_repaired(source, settings),
    )  # fmt: skip
    certifying = Scorer(source, task, chosen.certification)
    losses: dict[int, np.ndarray] = {}

    def certification_losses(position: int) -> np.ndarray:
        number = found.tried[position]
        stage = f"certifying, step {position + 1}"
        losses[number] = ladder.losses(ladder.rungs[number], certifying, "certification", stage)
        return losses[number]

    steps = [
        step_record(step, number := found.tried[step.rung], kept_bytes + ladder.rungs[number].nbytes)
        for step in walk(
            certification_losses, settings.max_loss, settings.confidence, rungs=len(found.tried), q=settings.quantile
        )
    ]
    passed = [step for step in steps if step["certified"]]
    if not passed:
        workspace.remove()
        raise NotCertified(_refusal(steps[0], settings, len(chosen.certification)))
    rung = int(passed[-1]["rung"])

    tell("writing", 0, None)
    stored, vectors = ladder.stored(rung)
    details = make_details(
        source, task, family, chosen, table, ladder.rungs, stored, found, steps, losses[rung], kept_bytes, rung
    )
    original = {"source": label or source.spec, "weights_sha256": weights, "nbytes": original_bytes}

    def certify(small: dict[str, Any]) -> dict[str, Any]:
        units = [example.digest for example in chosen.certification]
        return make_certificate(settings, task, steps, losses[rung], original, small, units)

    final = Path(tempfile.mkdtemp(prefix=".final-", dir=workspace.folder))
    certificate = _write(final, source, stored, vectors, chosen, details, certify)
    put_in_place(final, folder)
    workspace.remove()
    return Outcome(folder, certificate, details)


def _select(data: Any, settings: Settings, column: str | None, label_column: str | None, tell: Progress) -> Selection:
    least = least_units(settings)
    chosen = select(
        data,
        seed=settings.seed,
        calibration=0.2,
        selection=0.2,
        certification=0.6,
        needed=least,
        column=column,
        label_column=label_column,
        progress=tell,
    )
    # The sides are in the order of a hash of the content, so their heads are random draws.
    chosen = without_paths(chosen, data)
    return replace(
        chosen,
        calibration=chosen.calibration[: settings.calibration],
        selection=chosen.selection[: settings.selection],
        certification=chosen.certification[: settings.units],
    )


def _refusal(step: Mapping[str, Any], settings: Settings, units: int) -> str:
    return (
        f"not certified: even the safest model on the ladder loses {step['risk']:.4f} on {units:,} certification "
        f"units, and with {100 * settings.confidence:g}% confidence no less than {step['bound']:.4f} can be promised, "
        f"above the {settings.max_loss:g} that you allowed; allow more, give more data, or add safer schemes such as "
        "int8-g32"
    )


def _write(
    final: Path,
    source: Source,
    stored: Mapping[str, Stored],
    vectors: Mapping[str, np.ndarray],
    chosen: Selection,
    details: Mapping[str, Any],
    certify: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Fills a folder: model, units, details, and last the certificate, which names the hashes of all the others."""
    save_package(final, source, stored, vectors)
    save_certification(chosen, final)
    write_json(final / DETAILS, details)
    files = sorted(path for path in final.rglob("*") if path.is_file())
    digests = {path.relative_to(final).as_posix(): file_digest(path) for path in files}
    certificate = certify({"nbytes": (final / WEIGHTS).stat().st_size, "files": digests})
    write_json(final / CERTIFICATE, certificate)
    return certificate


def put_in_place(final: Path, folder: Path) -> None:
    """Renames the finished folder; an old one of that name goes only once the new one is complete."""
    os.chmod(final, 0o755)
    if folder.exists():
        old = folder.with_name(f"{folder.name}.replaced")
        os.replace(folder, old)
        os.replace(final, folder)
        shutil.rmtree(old)
    else:
        os.replace(final, folder)
