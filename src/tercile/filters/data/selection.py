"""What was chosen, what was turned away and why; and the same on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercile.files import write_atomically
from tercile.filters.data.example import Example, Rejection
from tercile.filters.data.sides import SIDES


@dataclass(frozen=True)
class Selection:
    """The outcome of `select`.

    Parameters
    ----------
    calibration, selection, certification : tuple of Example
        The three sides, no two of whose units are near-duplicates.
    seed : int
        What the split was drawn with.
    read : int
        Units that were read or tried to be read.
    kept : int
        Units left after all rejections; more than the sides hold where the shares leave some unused.
    rejected : mapping of str to int
        How many were turned away, by reason, most frequent first.
    samples : mapping of str to tuple of Rejection
        Up to five of each reason, in the order of the source.
    settings : mapping
        The other arguments of `select` that shaped the outcome.

    >>> chosen = Selection((), (), (Example("a"),), seed=1, read=2, kept=1, rejected={"empty": 1})
    >>> chosen.summary()["sides"], chosen.sentence()
    ({'calibration': 0, 'selection': 0, 'certification': 1}, '1 of 2 units kept; turned away: 1 empty')
    """

    calibration: tuple[Example, ...]
    selection: tuple[Example, ...]
    certification: tuple[Example, ...]
    seed: int
    read: int
    kept: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, tuple[Rejection, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Counts, and up to five samples of each reason, as plain JSON values."""
        return {
            "read": self.read,
            "kept": self.kept,
            "sides": {side: len(getattr(self, side)) for side in SIDES},
            "rejected": dict(self.rejected),
            "samples": {
                reason: [{"origin": r.origin, "detail": r.detail, "excerpt": r.excerpt} for r in rejections]
                for reason, rejections in self.samples.items()
            },
            "seed": self.seed,
            "settings": dict(self.settings),
        }

    def sentence(self) -> str:
        """The counts in one line for a person."""
        return f"{self.kept:,} of {self.read:,} units kept{counted(self.rejected)}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all; the same selection gives the same bytes.

        Texts become gzipped JSON lines (``zcat`` shows them), arrays an ``.npz`` that `numpy.load` opens.
        Both end in a BLAKE2b checksum of every byte before it.

        Raises
        ------
        ValueError
            Texts and arrays in one selection, or arrays of Python objects.
        OSError
            The disk is full or the folder is not there; nothing is left behind.
        """
        # The formats know Selection, so Selection finds them only when asked.
        from tercile.filters.data.selection_file import packed

        write_atomically(Path(path), packed(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            Not such a file, or a single byte of it has changed.
        """
        from tercile.filters.data.selection_file import unpacked

        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"{os.fspath(path)}: cannot be read ({error.strerror or error})") from error
        return unpacked(data, os.fspath(path))


def counted(rejected: Mapping[str, int]) -> str:
    """The counts of rejections as the end of a sentence.

    >>> counted({"empty": 2, "near-duplicate": 1})
    '; turned away: 2 empty, 1 near-duplicate'
    """
    shown = ", ".join(f"{count:,} {reason}" for reason, count in rejected.items())
    return f"; turned away: {shown}" if shown else ""


def header(chosen: Selection) -> str:
    """Everything of a selection but its units, as one line of JSON."""
    return json.dumps({"format": "tercile-selection", "version": 1, **chosen.summary()})


def from_parts(head: Mapping[str, Any], sides: Mapping[str, list[Example]]) -> Selection:
    """The inverse of `header`, with the units."""
    return Selection(
        calibration=tuple(sides["calibration"]),
        selection=tuple(sides["selection"]),
        certification=tuple(sides["certification"]),
        seed=head["seed"],
        read=head["read"],
        kept=head["kept"],
        rejected=head["rejected"],
        samples={
            reason: tuple(Rejection(reason, s["detail"], s["origin"], s["excerpt"]) for s in listed)
            for reason, listed in head["samples"].items()
        },
        settings=head["settings"],
    )
