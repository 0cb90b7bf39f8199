"""A measurable method: everything that `papers/<slug>.py` declares, checked before anything is run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tercile.papers.catalogue import catalogue, paper
from tercile.papers.declaration import Check, Measured, Paper, Size

Experiment = Callable[[Size, int], Mapping[str, Measured | float]]
SIZE_NAMES: tuple[Size, Size] = ("quick", "full")


@dataclass(frozen=True)
class Method:
    """A paper with the experiment that measures its claim.

    Parameters
    ----------
    paper
        From `paper(slug, ...)`.
    measured_on
        What is measured on what, in a sentence.
    baseline
        What it is compared with, on the same data in the same run.
    sizes
        ``{"quick": {...}, "full": {...}}``: what the two sizes are, in numbers or words; recorded.
    seeds
        Seeds of the full run; a quick run takes the first one.
    rule
        The checks, at least one of them with ``quick=True``.
    experiment
        ``(size, seed) -> {name: Measured or float}``.

    Raises
    ------
    ValueError
        Something is missing or empty; the message names it.
    """

    paper: Paper
    measured_on: str
    baseline: str
    sizes: Mapping[str, Mapping[str, int | float | str]]
    seeds: tuple[int, ...]
    rule: tuple[Check, ...]
    experiment: Experiment

    def __post_init__(self) -> None:
        name = self.paper.slug
        if not self.measured_on or not self.baseline:
            raise ValueError(f"{name}: measured_on and baseline must say what is measured and what against")
        if set(self.sizes) != set(SIZE_NAMES):
            raise ValueError(f"{name}: sizes must describe 'quick' and 'full', got {sorted(self.sizes)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"{name}: seeds must be one or more different integers, got {self.seeds}")
        if not any(check.quick for check in self.rule):
            raise ValueError(
                f"{name}: rule needs at least one check with quick=True, or a quick run tests nothing"
            )


def measurable() -> tuple[str, ...]:
    """Slugs that have an experiment, in catalogue order; looks at file names and imports nothing."""
    room = Path(__file__).parent
    return tuple(known.slug for known in catalogue() if (room / f"{known.slug}.py").is_file())


def load_method(slug: str) -> Method | Paper:
    """Import `tercile.papers.<slug>` and check what it declares.

    Returns
    -------
    Method | Paper
        The paper alone where it declares a reason why it is not measured here (`not_here`).

    Raises
    ------
    ValueError
        Not in the catalogue, without an experiment yet, or incompletely declared.
    ImportError
        The experiment needs a package that is not installed.
    """
    paper(slug)
    if slug not in measurable():
        ready = ", ".join(measurable()) or "none yet"
        raise ValueError(f"{slug} has no experiment yet; those that have one: {ready}")
    return method_of(importlib.import_module(f"tercile.papers.{slug}"))


def method_of(module: ModuleType) -> Method | Paper:
    """What a module declares by PAPER, MEASURED_ON, BASELINE, SIZES, SEEDS, RULE and experiment."""
    declared: Paper | None = getattr(module, "PAPER", None)
    if declared is None:
        raise ValueError(f"{module.__name__} must declare PAPER")
    if declared.not_here:
        return declared
    names = ("MEASURED_ON", "BASELINE", "SIZES", "SEEDS", "RULE", "experiment")
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        raise ValueError(f"{module.__name__} must declare {', '.join(missing)}")
    measured_on, baseline, sizes, seeds, rule, experiment = (getattr(module, name) for name in names)
    return Method(declared, measured_on, baseline, sizes, tuple(seeds), tuple(rule), experiment)
