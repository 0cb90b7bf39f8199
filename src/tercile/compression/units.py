"""The examples that a certificate rests on: how many it takes, and how they are told and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercile.compression.settings import Settings
from tercile.filters.data import Example, Selection
from tercile.quantiles.certificate import units_needed

FILES = ("certification.jsonl.gz", "certification.npz")


def least_units(settings: Settings) -> int:
    """The fewest units with which the promise could be certified at all.

    Raises
    ------
    ValueError
        If that is more than the settings allow.
    """
    least = units_needed(settings.max_loss, settings.confidence, 0.0)
    if settings.quantile is not None:
        least = 1
        while settings.quantile**least > 1 - settings.confidence:
            least += 1
    if least > settings.units:
        raise ValueError(
            f"max_loss {settings.max_loss:g} at confidence {settings.confidence:g} takes at least {least:,} "
            f"certification units, and units is {settings.units:,}; raise units, or the loss that you can bear"
        )
    return least


def without_paths(chosen: Selection, data: Any) -> Selection:
    """Origins told from the data's own folder on: where that lies is nobody's business but the user's."""
    if not isinstance(data, (str, os.PathLike)) or Path(data).parent == Path():
        return chosen
    here = f"{Path(data).parent}/"

    def told(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(replace(example, origin=example.origin.replace(here, "")) for example in examples)

    return replace(
        chosen,
        calibration=told(chosen.calibration),
        selection=told(chosen.selection),
        certification=told(chosen.certification),
        samples={
            reason: tuple(
                replace(one, origin=one.origin.replace(here, ""), detail=one.detail.replace(here, "")) for one in those
            )
            for reason, those in chosen.samples.items()
        },
    )


def selection_digest(chosen: Selection) -> str:
    """SHA-256 over the contents and labels of the three sides, in order."""
    digest = hashlib.sha256()
    for side in (chosen.calibration, chosen.selection, chosen.certification):
        for example in side:
            digest.update(f"{example.digest} {example.label!r}\n".encode())
        digest.update(b"-\n")
    return digest.hexdigest()


def save_certification(chosen: Selection, folder: Path) -> Path:
    """Writes the certification side, and nothing of the others, so that anybody can score it again."""
    units = chosen.certification
    target = folder / (FILES[0] if isinstance(units[0].content, str) else FILES[1])
    Selection((), (), units, chosen.seed, len(units), len(units)).save(target)
    return target


def load_certification(folder: Path) -> tuple[Example, ...]:
    """The units that `save_certification` wrote.

    Raises
    ------
    ValueError
        If they are not there, or damaged.
    """
    for name in FILES:
        if (folder / name).is_file():
            return Selection.load(folder / name).certification
    raise ValueError("the certification data are not in the folder; give them with --data")
