"""The catalogue with its evidence, as the page shows it: read once, and again when a file of evidence changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

from tercile.page.figures import skyline
from tercile.papers import Entry, list_papers
from tercile.papers.listing import STATES

#: Rooms stand on those before them.
HOUSE = ("quantiles", "filters", "quantization", "diffusion", "stats")
#: Seconds between two looks at the folder of evidence.
PAUSE = 5.0


@dataclass(frozen=True)
class Methods:
    """All methods as they stood at one moment.

    Attributes
    ----------
    entries
        In catalogue order.
    """

    entries: tuple[Entry, ...]

    @cached_property
    def by_slug(self) -> dict[str, Entry]:
        """Entries by their short name."""
        return {entry.paper.slug: entry for entry in self.entries}

    @cached_property
    def rooms(self) -> dict[str, list[Entry]]:
        """Entries by room, rooms in the order of the house, then of the alphabet."""
        found: dict[str, list[Entry]] = {}
        for entry in sorted(self.entries, key=lambda e: (HOUSE.index(e.paper.room.split(".")[0]), e.paper.room)):
            found.setdefault(entry.paper.room, []).append(entry)
        return found

    @cached_property
    def checked(self) -> dict[str, str]:
        """How many checks pass, in a few words, by short name."""
        return {entry.paper.slug: checks_in_words(entry) for entry in self.entries}

    @cached_property
    def skyline(self) -> Markup:
        """Every method as a bar, room by room: a picture of the state of the whole."""
        return skyline([[entry.verdict for entry in entries] for entries in self.rooms.values()])

    @cached_property
    def houses(self) -> list[tuple[str, list[str]]]:
        """Rooms by the room that they stand in."""
        found: dict[str, list[str]] = {}
        for room in self.rooms:
            found.setdefault(room.split(".")[0], []).append(room)
        return list(found.items())

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """How many methods have each verdict, `not yet` included."""
        return count(self.entries)

    @cached_property
    def years(self) -> tuple[int, ...]:
        """Years that are known, oldest first."""
        return tuple(sorted({year for entry in self.entries if (year := year_of(entry)) is not None}))


def checks_in_words(entry: Entry) -> str:
    """How many checks of a method pass; empty where none was measured."""
    if entry.evidence is None or not entry.evidence.measured:
        return ""
    results = entry.evidence.judge().checks
    passed = sum(result.holds for result in results)
    if len(results) == 1:
        return f"its one check {'passes' if passed else 'fails'}"
    if passed == len(results):
        return f"all {passed} checks pass"
    return f"{passed or 'none'} of {len(results)} checks pass{'' if passed > 1 else 'es'}"


def count(entries: tuple[Entry, ...] | list[Entry]) -> dict[str, int]:
    """How many entries have each verdict.

    >>> count([])
    {'holds': 0, 'partly': 0, 'not here': 0, 'not yet': 0}
    """
    seen = Counter(entry.verdict for entry in entries)
    return {state: seen[state] for state in STATES}


def year_of(entry: Entry) -> int | None:
    """The year of the paper, where somebody has looked it up."""
    return entry.evidence.year if entry.evidence else entry.paper.year


class Shelf:
    """Hands out `Methods`, looking every few seconds whether the evidence has changed.

    Parameters
    ----------
    folder
        Of the evidence files.
    clock
        Seconds that never go back.

    >>> len(Shelf(Path("nowhere")).now().entries)
    166
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self._stamp: tuple[tuple[str, int, int], ...] = ()
        self._looked = clock()
        self._now = self._read()

    def now(self) -> Methods:
        """The methods as they are; a file that is damaged or half written leaves the last ones that were sound."""
        if self._clock() - self._looked >= PAUSE:
            self._looked = self._clock()
            if self._stamp != self._stamps():
                try:
                    self._now = self._read()
                except ValueError:
                    return self._now
        return self._now

    def _read(self) -> Methods:
        stamp = self._stamps()
        found = Methods(tuple(list_papers(self.folder)))
        self._stamp = stamp
        return found

    def _stamps(self) -> tuple[tuple[str, int, int], ...]:
        if not self.folder.is_dir():
            return ()
        files = sorted(self.folder.glob("*.json"))
        return tuple((file.name, (state := file.stat()).st_mtime_ns, state.st_size) for file in files)
