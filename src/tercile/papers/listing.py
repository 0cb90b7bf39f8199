"""The catalogue joined with the evidence: claimed beside measured."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tercile.papers.catalogue import catalogue
from tercile.papers.declaration import Paper
from tercile.papers.evidence import Evidence, read_evidence
from tercile.papers.verdict import VERDICTS

NOT_YET = "not yet"
STATES = (*VERDICTS, NOT_YET)


@dataclass(frozen=True)
class Entry:
    """One paper of the catalogue and its evidence, if it has been measured."""

    paper: Paper
    evidence: Evidence | None

    @property
    def verdict(self) -> str:
        """`holds`, `partly`, `not here` or `not yet`."""
        return self.evidence.verdict if self.evidence else NOT_YET

    @property
    def measured(self) -> str:
        """The first check's numbers in a few words, averaged over seeds; empty where nothing was measured."""
        if not self.evidence or not self.evidence.measured:
            return ""
        first = self.evidence.judge().checks[0]
        value, limit = (sum(numbers) / len(numbers) for numbers in (first.values, first.limits))
        sign = "<=" if first.check.at_most is not None else ">="
        return f"{first.check.quantity} {value:.4g} ({sign} {limit:.4g})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        evidence = self.evidence.as_dict() if self.evidence else None
        return {
            **asdict(self.paper),
            "verdict": self.verdict,
            "measured": self.measured,
            "evidence": evidence,
        }


def list_papers(
    folder: Path, room: str | None = None, verdict: str | None = None, search: str | None = None
) -> list[Entry]:
    """Papers in catalogue order, with their evidence from a folder. Reads files only, imports no experiment.

    Parameters
    ----------
    folder
        Where the evidence files are; see `evidence_folder`.
    room
        A room (``"quantization.grids"``) or everything under one (``"quantization"``).
    verdict
        `holds`, `partly`, `not here` or `not yet`.
    search
        Words that must all occur in slug, title, room, summary or claim; upper and lower case are the same.

    Raises
    ------
    ValueError
        An unknown room or verdict, or a damaged evidence file, by its name.

    >>> [entry.paper.slug for entry in list_papers(Path("nowhere"), search="bold careful returns")]
    ['iqn']
    """
    rooms = {known.room for known in catalogue()}
    under = [known for known in rooms if room is None or known == room or known.startswith(f"{room}.")]
    if not under:
        close = difflib.get_close_matches(str(room), rooms, n=3, cutoff=0.4) or sorted(rooms)
        raise ValueError(
            f"room {room!r} is not in the catalogue; rooms are for example {', '.join(close[:6])}"
        )
    if verdict is not None and verdict not in STATES:
        raise ValueError(f"verdict must be one of {', '.join(STATES)}; got {verdict!r}")
    words = (search or "").lower().split()
    found = []
    for paper in catalogue():
        text = " ".join((paper.slug, paper.title, paper.room, paper.summary, paper.claim)).lower()
        if paper.room not in under or not all(word in text for word in words):
            continue
        entry = Entry(paper, read_evidence(paper.slug, folder))
        if verdict is None or entry.verdict == verdict:
            found.append(entry)
    return found
