"""Run an experiment over its seeds; nothing is written before all of it has succeeded."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tercile.papers.declaration import Measured, Paper, Size, is_quantity_name
from tercile.papers.evidence import Evidence, Quantity, checkout, write_evidence
from tercile.papers.machine import code_version, describe_machine
from tercile.papers.method import Method
from tercile.papers.verdict import judge

Progress = Callable[[int, int, str], None]


def run_method(
    method: Method, size: Size = "full", seeds: Sequence[int] | None = None, progress: Progress | None = None
) -> Evidence:
    """Measure a method and judge the numbers by its rule. Computes only; see `record` for writing.

    Parameters
    ----------
    method
        From `load_method`.
    size
        ``"quick"`` (seconds, first seed) or ``"full"`` (minutes, every seed).
    seeds
        Other seeds than those declared.
    progress
        Called as ``(done, total, what)`` before each seed and at the end.

    Raises
    ------
    ValueError
        The experiment gave no numbers, unusable names, something infinite, or other names for another seed.
    """
    chosen = tuple(seeds) if seeds else method.seeds if size == "full" else method.seeds[:1]
    began = time.monotonic()
    runs: list[dict[str, Measured]] = []
    for done, seed in enumerate(chosen):
        if progress:
            progress(done, len(chosen), f"seed {seed}")
        runs.append(_checked(method.paper.slug, method.experiment(size, seed)))
        if runs[-1].keys() != runs[0].keys():
            raise ValueError(
                f"{method.paper.slug}: seed {seed} measured other quantities than seed {chosen[0]}"
            )
    if progress:
        progress(len(chosen), len(chosen), "done")
    measured = {name: _over_seeds(name, [run[name] for run in runs]) for name in runs[0]}
    # A quick run need not measure what only a full run is judged by.
    rule = method.rule if size == "full" else tuple(check for check in method.rule if check.quick)
    judgement = judge(rule, [{name: one.value for name, one in run.items()} for run in runs])
    return Evidence(
        **_about(method.paper),
        measured_on=method.measured_on,
        baseline=method.baseline,
        size=size,
        sizes=dict(method.sizes[size]),
        seed=chosen,
        measured=measured,
        rule=rule,
        verdict=judgement.verdict,
        reason=judgement.reason,
        seconds=round(time.monotonic() - began, 2),
    )


def not_here(paper: Paper) -> Evidence:
    """The evidence file of a paper that declares why it is not measured here."""
    if not paper.not_here:
        raise ValueError(f"{paper.slug} declares no reason why it is not measured here")
    return Evidence(
        **_about(paper),
        measured_on="nothing",
        baseline="none",
        size="full",
        sizes={},
        seed=(),
        measured={},
        rule=(),
        verdict="not here",
        reason=paper.not_here,
        seconds=0.0,
    )


def record(evidence: Evidence, folder: Path) -> tuple[Path, bool]:
    """Write the evidence and, where matplotlib is installed, its plot.

    Returns
    -------
    tuple[Path, bool]
        The JSON file, and whether it has a plot beside it.
    """
    plot = None
    if evidence.measured:
        try:
            from tercile.papers.plot import plot_svg

            plot = plot_svg(evidence)
        except ImportError:
            plot = None
    return write_evidence(evidence, folder, plot), plot is not None


def _about(paper: Paper) -> dict[str, Any]:
    commit, dirty = code_version(checkout())
    return {
        "nr": paper.nr,
        "slug": paper.slug,
        "title": paper.title,
        "room": paper.room,
        "claim": paper.claim,
        "authors": paper.authors,
        "year": paper.year,
        "source": paper.source,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "commit": commit,
        "dirty": dirty,
    }


def _checked(slug: str, result: Mapping[str, Measured | float]) -> dict[str, Measured]:
    if not isinstance(result, Mapping) or not result:
        raise ValueError(f"{slug}: the experiment must return a mapping of names to numbers, got {result!r}")
    checked = {}
    for name, number in result.items():
        if not is_quantity_name(name):
            raise ValueError(
                f"{slug}: the experiment measured {name!r}; a quantity's name must look like 'error_4bit'"
            )
        try:
            checked[name] = number if isinstance(number, Measured) else Measured(number)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{slug}: the experiment's {name}: {error}") from None
    return checked


def _over_seeds(name: str, runs: list[Measured]) -> Quantity:
    units = {one.unit for one in runs}
    if len(units) > 1:
        raise ValueError(f"{name} has different units for different seeds: {', '.join(sorted(units))}")
    lower = [one.lower for one in runs if one.lower is not None]
    upper = [one.upper for one in runs if one.upper is not None]
    return Quantity(
        tuple(one.value for one in runs),
        runs[0].unit,
        tuple(lower) if len(lower) == len(runs) else None,
        tuple(upper) if len(upper) == len(runs) else None,
    )
