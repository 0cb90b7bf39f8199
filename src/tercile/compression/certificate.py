"""certificate.json: the promise, what it rests on, and hashes of everything that it speaks of."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

import tercile
from tercile.compression.settings import Settings
from tercile.compression.tasks import Task
from tercile.files import read_json
from tercile.quantiles.certificate import Step, method_for

CERTIFICATE = "certificate.json"


class NotCertified(Exception):
    """Even the safest model of the ladder could not be certified; the message says by how much."""


def make_certificate(
    settings: Settings,
    task: Task,
    walk: Sequence[Mapping[str, Any]],
    losses: np.ndarray,
    original: Mapping[str, Any],
    small: Mapping[str, Any],
    unit_hashes: Sequence[str],
    beside: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The sealed certificate of the last certified rung of a walk.

    Parameters
    ----------
    walk
        One record a rung tried, as `step_record` makes them.
    losses
        Certification losses of the chosen rung.
    original, small
        Source, size and hashes of each model.
    unit_hashes
        Of the certification examples, in the order in which they were tested.
    beside
        Hashes of the other files in the certificate's folder, where that is not the small model's own.
    """
    chosen = [step for step in walk if step["certified"]][-1]
    certificate = {
        "format": "tercile-certificate",
        "version": 1,
        "statement": statement(settings, task, chosen["risk"], len(losses)),
        "task": task.name,
        "loss": task.loss,
        "loss_description": task.description,
        "max_loss": settings.max_loss,
        "confidence": settings.confidence,
        "quantile": settings.quantile,
        "method": "order-statistics" if settings.quantile else method_for(losses),
        "bound": chosen["bound"],
        "risk": chosen["risk"],
        "units": len(losses),
        "walk": list(walk),
        "rung": chosen["rung"],
        "original": dict(original),
        "small": dict(small),
        "data": {"units": list(unit_hashes)},
        "seed": settings.seed,
        "versions": versions(),
    }
    if beside is not None:
        certificate["beside"] = dict(beside)
    return certificate | {"digest": seal(certificate)}


def statement(settings: Settings, task: Task, risk: float, units: int) -> str:
    """The certificate in words. It promises `max_loss`, not the bound: only that survives the choice of the rung."""
    what = "the mean loss" if settings.quantile is None else f"the loss of {100 * settings.quantile:g} in 100 units"
    seen = "mean" if settings.quantile is None else f"{settings.quantile:g} quantile"
    return (
        f"With {100 * settings.confidence:g}% confidence, {what} on data like yours is at most {settings.max_loss:g}, "
        f"where the loss of a unit is {task.description}. Measured on {units:,} units that played no part in making "
        f"the model: {seen} {risk:.4f}."
    )


def step_record(step: Step, rung: int, nbytes: int) -> dict[str, Any]:
    """A step of the walk as plain JSON values; `rung` counts on the whole ladder."""
    return {
        "rung": rung,
        "nbytes": nbytes,
        "risk": step.risk,
        "bound": step.bound,
        "p_value": step.p_value,
        "certified": bool(step.certified),
    }


def seal(certificate: Mapping[str, Any]) -> str:
    """SHA-256 over everything in a certificate but its digest."""
    content = {key: value for key, value in certificate.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def read_certificate(folder: Path) -> dict[str, Any]:
    """A certificate as it stands; whether it is true is for `verify` to find out.

    Raises
    ------
    ValueError
        If the file is missing or is no certificate.
    """
    certificate = read_json(folder / CERTIFICATE)
    if not isinstance(certificate, dict) or certificate.get("format") != "tercile-certificate":
        raise ValueError(f"{folder / CERTIFICATE} is no certificate")
    if certificate.get("version") != 1:
        found = certificate.get("version")
        raise ValueError(f"{folder / CERTIFICATE} is in version {found}; this tercile reads version 1: update it")
    return certificate


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    return {
        "tercile": tercile.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
    }
