"""Verification: trusts nothing but the files. Hashes, then both models and the data again, then the bound again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.compression.certificate import CERTIFICATE, file_digest, read_certificate, seal
from tercile.compression.package import Builder
from tercile.compression.scoring import Scorer
from tercile.compression.source import Source, weights_digest
from tercile.compression.tasks import make_task
from tercile.compression.third_party import open_third_party, place_of, tensors_digest
from tercile.compression.units import load_certification
from tercile.filters.data.example import Example
from tercile.quantiles.certificate import walk

Progress = Callable[[str, int, int | None], None]

# Another processor or thread count adds up in another order; the mean loss of the same files may move by this much.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that was looked at; `ok` when all of it held."""

    ok: bool
    checks: tuple[Check, ...]
    certificate: dict[str, Any]


def verify(
    folder: Path,
    original: Source,
    *,
    builder: Builder | None = None,
    loss: Any = None,
    data: tuple[Example, ...] | None = None,
    small: str | os.PathLike[str] | torch.nn.Module | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Recomputes a certificate from the files alone.

    Parameters
    ----------
    folder
        A compressed model with its certificate.
    original
        The model that it is compared with; its weights must have the hash that the certificate names.
    builder
        What builds the module, for models that were made by `module:function`.
    loss
        The user's own loss function, if the certificate was made with one; by default what the certificate names.
    data
        The certification examples, where the folder was handed on without them.
    small
        The small model, where the certificate is about one that another tool made; by default the files that the
        certificate names.
    progress
        As in `compress`.

    Returns
    -------
    Verification: later checks are left out once one fails that they rest on.

    Raises
    ------
    ValueError
        If the folder has no certificate to check.
    """
    tell: Progress = progress or (lambda stage, done, total: None)
    certificate = read_certificate(folder)
    checks: list[Check] = []

    def look(name: str, ok: bool, good: str, bad: str) -> bool:
        checks.append(Check(name, ok, good if ok else bad))
        return ok

    def result() -> Verification:
        return Verification(all(check.ok for check in checks), tuple(checks), certificate)

    sealed = look(
        "certificate is whole", certificate.get("digest") == seal(certificate),
        "its digest matches", f"{CERTIFICATE} was changed after it was made",
    )  # fmt: skip
    if not sealed or not _files(folder, certificate.get("beside", {}), look):
        return result()
    made = certificate["small"]
    place = _place(folder, made) if small is None else small
    if not isinstance(place, torch.nn.Module):
        path = place_of(place)
        if not _files(path.parent if path.is_file() else path, made["files"], look):
            return result()
    if not look(
        "original", weights_digest(original) == certificate["original"]["weights_sha256"],
        f"weights of {original.spec} have the hash that the certificate names",
        f"weights of {original.spec} are not those that the certificate speaks of; give the right one with --original",
    ):  # fmt: skip
        return result()
    try:
        examples = data if data is not None else load_certification(folder)
        opened = open_third_party(place, builder).module
    except ValueError as error:
        look("opens", False, "", str(error))
        return result()
    if not look(
        "data", [e.digest for e in examples] == certificate["data"]["units"],
        f"{len(examples):,} certification units, each with the hash that the certificate names",
        "the certification units are not those that the certificate names",
    ):  # fmt: skip
        return result()
    if "weights_sha256" in made and not look(
        "small model", tensors_digest(opened) == made["weights_sha256"],
        "its weights have the hash that the certificate names",
        "its weights are not those that the certificate speaks of; give the right one with --small",
    ):  # fmt: skip
        return result()
    task = make_task(original, certificate["task"], loss or certificate["loss"])
    scorer = Scorer(original, task, examples)
    losses = scorer.losses(opened, lambda done, total: tell("scoring again", done, total))
    _bound(certificate, losses, look)
    return result()


def _place(folder: Path, made: Mapping[str, Any]) -> str | Path:
    """Where the certificate says that the small model is: in its own folder, or at a path that it names."""
    if "source" not in made:
        return folder
    if not place_of(made["source"]).exists():
        raise ValueError(
            f"the small model is {made['source']!r}, which is no file here, and a certificate may not choose what code "
            f"is run; say where the model is: --small {made['source']}"
        )
    return str(made["source"])


def _files(folder: Path, digests: Mapping[str, str], look: Callable[[str, bool, str, str], bool]) -> bool:
    ok = True
    for name, digest in digests.items():
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        there = inside and path.is_file()
        same = there and file_digest(path) == digest
        problem = f"{name} was changed after the certificate was made" if there else f"{name} is missing"
        ok = look(name, same, "unchanged", problem) and ok
    return ok


def _bound(certificate: dict[str, Any], losses: np.ndarray, look: Callable[[str, bool, str, str], bool]) -> None:
    confidence, max_loss = certificate["confidence"], certificate["max_loss"]
    step = next(iter(walk([losses], max_loss, confidence, q=certificate["quantile"])))
    look(
        "risk", math.isclose(step.risk, certificate["risk"], abs_tol=ROUNDING),
        f"{step.risk:.6f}, as the certificate says",
        f"{step.risk:.6f}, but the certificate says {certificate['risk']:.6f}",
    )  # fmt: skip
    look(
        "bound", step.certified and math.isclose(step.bound, certificate["bound"], abs_tol=2 * ROUNDING),
        f"{step.bound:.6f}, within {max_loss:g} at {100 * confidence:g}% confidence",
        f"{step.bound:.6f} at {100 * confidence:g}% confidence; the certificate says {certificate['bound']:.6f} and "
        f"allows {max_loss:g}",
    )  # fmt: skip
    walked = certificate["walk"]
    good = [w["rung"] for w in walked if w["certified"]]
    before = [w["certified"] for w in walked if w["rung"] <= certificate["rung"]]
    look(
        "walk", bool(good) and good[-1] == certificate["rung"] and all(before),
        "every safer rung that was tried had passed before",
        "a rung was certified although a safer one before it had failed",
    )  # fmt: skip
