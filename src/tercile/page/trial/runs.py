"""Runs that were made before, one for each loss: what certificates and ladders said, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tercile.files import read_json

FILE = Path(__file__).with_name("minilm.json")


@dataclass(frozen=True)
class Rung:
    """A candidate of the ladder; what was not asked about it is None.

    Parameters
    ----------
    rung
        Number, from the safest down.
    nbytes
        Stored weights.
    predicted
        Loss that the search expected.
    selection
        Loss seen on the selection units.
    risk, bound, certified
        What the certification units said, if it was tested.
    """

    rung: int
    nbytes: int
    predicted: float | None
    selection: float | None
    risk: float | None
    bound: float | None
    certified: bool | None


@dataclass(frozen=True)
class Run:
    """One finished `tercile compress`.

    Parameters
    ----------
    max_loss, confidence, statement, risk, bound, units
        Of the certificate.
    rung
        Number of the chosen candidate.
    before, after
        Bytes of the model.
    ladder
        Every candidate, the safest first.
    versions
        Of what made it.
    """

    max_loss: float
    confidence: float
    statement: str
    risk: float
    bound: float
    units: int
    rung: int
    before: int
    after: int
    ladder: tuple[Rung, ...]
    versions: Mapping[str, str]

    @property
    def tested(self) -> list[Rung]:
        """Candidates that were tested on the certification units, in order."""
        return [rung for rung in self.ladder if rung.risk is not None]


def run_of(certificate: Mapping[str, Any], details: Mapping[str, Any]) -> Run:
    """What a run's two files say, without the units that they rest on."""
    steps = {step["rung"]: step for step in certificate["walk"]}
    ladder = tuple(
        Rung(
            rung=rung["rung"],
            nbytes=rung["nbytes"],
            predicted=rung["predicted_loss"],
            selection=rung["selection_loss"],
            risk=(step := steps.get(rung["rung"], {})).get("risk"),
            bound=step.get("bound"),
            certified=step.get("certified"),
        )
        for rung in details["ladder"]
    )
    return Run(
        max_loss=certificate["max_loss"],
        confidence=certificate["confidence"],
        statement=certificate["statement"],
        risk=certificate["risk"],
        bound=certificate["bound"],
        units=certificate["units"],
        rung=certificate["rung"],
        before=certificate["original"]["nbytes"],
        after=certificate["small"]["nbytes"],
        ladder=ladder,
        versions=certificate["versions"],
    )


@cache
def stored_runs(file: Path = FILE) -> tuple[Run, ...]:
    """Runs on all-MiniLM-L6-v2, the strictest first.

    >>> runs = stored_runs()
    >>> [run.max_loss for run in runs] == sorted(run.max_loss for run in runs)
    True
    """
    return tuple(
        Run(**{**run, "ladder": tuple(Rung(**rung) for rung in run["ladder"])}) for run in read_json(file)["runs"]
    )
