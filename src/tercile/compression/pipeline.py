"""The main job: select, encode, certify, pack.

Reads from top to bottom as the job runs. Each stage keeps what it finished in a Workspace, so that a run which was
stopped takes up where it was.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.compression.bank import Bank, Candidate, Stored
from tercile.compression.batches import Batch, cut
from tercile.compression.certificate import CERTIFICATE, NotCertified, file_digest, make_certificate, step_record
from tercile.compression.details import DETAILS, make_details
from tercile.compression.package import WEIGHTS, save_package
from tercile.compression.repairing import NoGradients, RepairedRung, mend_rung, repair_bytes, repair_rungs
from tercile.compression.scoring import Scorer
from tercile.compression.sensitivity import measure_sensitivity
from tercile.compression.settings import Settings
from tercile.compression.source import Source, learnt, weights_digest
from tercile.compression.tasks import Task, run
from tercile.compression.units import least_units, save_certification, selection_digest, without_paths
from tercile.compression.workspace import Workspace
from tercile.files import write_json
from tercile.filters.data import Selection, select
from tercile.quantiles.certificate import quantile_upper_bound, upper_bound, walk
from tercile.quantization.allocation import pareto_ladder
from tercile.quantization.calibration import collect, count_rows
from tercile.quantization.families import Family, describe
from tercile.quantization.output_gradients import gradient_statistics
from tercile.quantization.statistics import Statistics

Progress = Callable[[str, int, int | None], None]

# Units by whose gradients it is measured what an embedding table's rounding costs.
FELT_BY = 192
# Where the walk comes down to the rung that the selection data point at: this many rungs before it.
APPROACH = (4, 1)
# Before repaired rungs, which lie beyond the frontier, one is enough.
APPROACH_REPAIRED = (1,)


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
    bank = _solve(source, family, task, chosen, settings, workspace, tell)
    layers = list(bank.offered)
    original_bytes = source.nbytes
    kept_bytes = original_bytes - sum(_stored_bytes(source, layer) for layer in layers)

    compared = Scorer(source, task, chosen.selection)
    candidate = Candidate(source.module, copy.deepcopy(source.module), bank)
    table = measure_sensitivity(source, task, chosen.selection, bank, candidate, layers, workspace, tell)
    ladder = list(pareto_ladder(table, settings.rungs))

    def score(scorer: Scorer, name: str, rung: int, stage: str, repaired: RepairedRung | None = None) -> np.ndarray:
        def make() -> np.ndarray:
            if repaired is None:
                candidate.set(ladder[rung].choices)
            else:
                candidate.put(repaired.weights, repaired.vectors)
            return scorer.losses(candidate.module, lambda done, total: tell(stage, done, total))

        key = f"{rung}" if repaired is None else f"{repaired.rung}-repaired"
        return workspace.array(f"losses/{name}-{key}", make)

    selection_losses: dict[int, np.ndarray] = {}

    def expected(losses: np.ndarray) -> float:
        return _expected_bound(losses, len(chosen.certification), settings)

    def promising(rung: int) -> bool:
        stage = f"comparing size {len(selection_losses) + 1}"
        selection_losses[rung] = score(compared, "selection", rung, stage)
        return expected(selection_losses[rung]) <= settings.max_loss

    frontier = last_true(promising, len(ladder))
    rungs_seen: dict[int, np.ndarray] = {}

    def look(repaired: RepairedRung) -> tuple[float, float]:
        found = score(compared, "selection", repaired.rung, "comparing the repaired size", repaired)
        rungs_seen[repaired.rung] = found
        return float(found.mean()), expected(found)

    def mend(rung: int, before: RepairedRung | None) -> RepairedRung:
        choices = ladder[rung].choices
        return mend_rung(source, family, task, chosen.calibration, bank, rung, choices, before, workspace, tell)

    mended: dict[int, RepairedRung] = {}
    unrepaired = why_not_repaired(source, settings)
    if unrepaired is None:
        try:
            for repaired in repair_rungs(ladder, frontier, mend, look, settings.max_loss):
                # A repaired rung stands after the ladder's own, and takes as many bytes as the one that it was.
                mended[len(ladder)] = repaired
                selection_losses[len(ladder)] = rungs_seen[repaired.rung]
                ladder.append(replace(ladder[repaired.rung], loss=math.nan))
        except NoGradients as error:
            unrepaired = str(error)
    tried = walk_rungs(frontier, len(ladder) - len(mended), list(mended))
    certifying = Scorer(source, task, chosen.certification)
    losses: dict[int, np.ndarray] = {}

    def certification_losses(position: int) -> np.ndarray:
        rung = tried[position]
        stage = f"certifying, step {position + 1}"
        losses[rung] = score(certifying, "certification", rung, stage, mended.get(rung))
        return losses[rung]

    steps = [
        step_record(step, tried[step.rung], kept_bytes + ladder[tried[step.rung]].nbytes)
        for step in walk(
            certification_losses, settings.max_loss, settings.confidence, rungs=len(tried), q=settings.quantile
        )
    ]
    passed = [step for step in steps if step["certified"]]
    if not passed:
        workspace.remove()
        raise NotCertified(_refusal(steps[0], settings, len(chosen.certification)))
    rung = int(passed[-1]["rung"])

    tell("writing", 0, None)
    vectors: Mapping[str, np.ndarray] = {}
    if rung in mended:
        stored = {layer: Stored(weight, None, math.nan) for layer, weight in mended[rung].weights.items()}
        vectors = mended[rung].vectors
    else:
        stored = {layer: bank.read(layer, scheme) for layer, scheme in ladder[rung].choices.items()}
    details = make_details(
        source, task, family, chosen, table, ladder, stored, selection_losses, steps, losses[rung], kept_bytes, rung
    )
    details["repair"] = {"rungs": list(mended), "left_out": unrepaired}
    for number, one in mended.items():
        details["ladder"][number]["repaired_from"] = one.rung
    original = {"source": label or source.spec, "weights_sha256": weights, "nbytes": original_bytes}

    def certify(small: dict[str, Any]) -> dict[str, Any]:
        units = [example.digest for example in chosen.certification]
        return make_certificate(settings, task, steps, losses[rung], original, small, units)

    final = Path(tempfile.mkdtemp(prefix=".final-", dir=workspace.folder))
    certificate = _write(final, source, stored, vectors, chosen, details, certify)
    put_in_place(final, folder)
    workspace.remove()
    return Outcome(folder, certificate, details)


def last_true(test: Callable[[int], bool], count: int) -> int:
    """Largest i below count with test(i), by bisection, for a test that is true up to some point; -1 if none."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if test(middle) else (low, middle)
    return low


def walk_rungs(frontier: int, count: int, repaired: Sequence[int] = ()) -> list[int]:
    """Rungs to try for a certificate, in order: the safest of all, a few before the frontier, then all from it on, or
    else the repaired ones, which are smaller.

    The order is settled before the certification data are looked at, and the walk ends at the first rung that fails, so
    the long tail costs nothing unless the selection data were unlucky.
    """
    approach = APPROACH_REPAIRED if repaired else APPROACH
    before = {0} | {frontier - step for step in approach if frontier >= step}
    if repaired:
        return [*sorted(before), *repaired]
    return sorted(before | set(range(max(frontier, 0), count)))


def check_memory(source: Source, available: int | None = None) -> None:
    """Refuses before any work when memory can't hold a second copy of the model and what one block needs.

    Parameters
    ----------
    available
        Free bytes; by default what the kernel says, and no check where it says nothing.

    Raises
    ------
    MemoryError
        With what is needed and what there is.
    """
    available = free_bytes() if available is None else available
    if available is None:
        return
    tensors = learnt(source.module).values()
    widest = max((tensor[0].numel() for tensor in tensors if tensor.ndim > 1), default=1)
    # A copy and the outputs of a pass; second moment, factor and work of the widest layer in float64.
    needed = sum(3 * tensor.numel() * tensor.element_size() // 2 for tensor in tensors) + 3 * 8 * widest**2
    if needed > available:
        raise MemoryError(
            f"compressing {source.spec!r} takes about {needed / 2**30:.1f} GiB more memory and "
            f"{available / 2**30:.1f} GiB are free; close other programs or use a larger machine"
        )


def _felt(source: Source, task: Task, tables: Sequence[str], batches: Sequence[Batch]) -> dict[str, Statistics]:
    """How the task's outputs feel changes of what embedding tables give; empty where torch can't differentiate them."""
    wanted = max(1, round(len(batches) * FELT_BY / sum(len(batch.at) for batch in batches)))
    few = batches[:: max(1, len(batches) // wanted)]
    keep = None if batches[0].keep is None else lambda batch: batch.keep
    try:
        return gradient_statistics(source.module, list(tables), few, task.outputs, keep=keep)
    except RuntimeError:
        return {}


def free_bytes() -> int | None:
    """Memory that can be used, as the kernel says; None where it says nothing."""
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def why_not_repaired(source: Source, settings: Settings) -> str | None:
    """Why no rung is repaired; None if they are."""
    if not settings.repair:
        return "it was not asked for"
    free = free_bytes()
    if free is not None and repair_bytes(source) > free:
        return f"it takes {repair_bytes(source) / 2**30:.1f} GiB more memory and {free / 2**30:.1f} GiB are free"
    return None


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


def _solve(
    source: Source,
    family: Family,
    task: Task,
    chosen: Selection,
    settings: Settings,
    workspace: Workspace,
    tell: Progress,
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


def _stored_bytes(source: Source, layer: str) -> int:
    return source.module.get_parameter(f"{layer}.weight").numel() * source.dtypes[f"{layer}.weight"].itemsize


def _expected_bound(losses: np.ndarray, units: int, settings: Settings) -> float:
    """The bound that these losses give if the certification data look just like them. Steers, never certifies."""
    alike = np.resize(losses, units)
    if settings.quantile is not None:
        return quantile_upper_bound(alike, settings.quantile, settings.confidence)
    return upper_bound(alike, settings.confidence)


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
