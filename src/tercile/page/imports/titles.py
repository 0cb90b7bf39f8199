"""Which papers are here already: by identifier, by title, and by nearly the same title."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercile.filters.data import text_similarity
from tercile.filters.data.lsh import duplicate_key
from tercile.filters.data.similarity import PLACES, agreement, signatures
from tercile.page.imports.draft import Draft
from tercile.papers import catalogue

THRESHOLD = 0.8
#: Places of a signature in which an alike pair agrees, less five deviations: below that it is not worth comparing.
_AGREE = agreement("characters", THRESHOLD)
_FEWEST = int(PLACES * _AGREE - 5 * (PLACES * _AGREE * (1 - _AGREE)) ** 0.5)


@dataclass(frozen=True)
class Known:
    """A paper that is here: its key in addresses, its title, and how alike the two are (1 for the same paper)."""

    key: str
    title: str
    similarity: float
    because: str


class Titles:
    """What is here, in memory: the catalogue and all that was imported. 132 bytes a title, a millisecond a search.

    >>> from tercile.page.imports.draft import draft
    >>> titles = Titles()
    >>> titles.find(draft("A study of nothing in particular"))
    >>> found = titles.find(draft("Implicit Quantile Networks for Distributional Reinforcement-Learning"))
    >>> found.key, found.because
    ('iqn', 'the same title')
    """

    def __init__(self, *, with_catalogue: bool = True) -> None:
        self._names: list[tuple[str, str]] = []
        self._same: dict[str | bytes, int] = {}
        self._rows: dict[str, list[NDArray[np.uint8]]] = {}
        self._owners: dict[str, list[int]] = {}
        self._packed: dict[str, NDArray[np.uint8]] = {}
        self._last = 0
        for paper in catalogue() if with_catalogue else ():
            self.add(paper.slug, Draft(paper.title))

    def refresh(self, rows: sqlite3.Connection) -> None:
        """Take in what was imported since the last call, by whichever process."""
        query = "SELECT id, key, title, arxiv, doi FROM papers LEFT JOIN imports ON paper = id WHERE id > ? ORDER BY id"
        for row in rows.execute(query, (self._last,)).fetchall():
            stored = rows.execute(
                "SELECT way, signature FROM title_signatures WHERE paper = ?", (row["id"],)
            ).fetchall()
            made = {way: np.frombuffer(signature, np.uint8) for way, signature in stored}
            self.add(row["key"], Draft(row["title"], arxiv=row["arxiv"] or "", doi=row["doi"] or ""), made)
            self._last = row["id"]

    def add(self, key: str, paper: Draft, signed: dict[str, NDArray[np.uint8]] | None = None) -> None:
        """Remember a paper under its key."""
        number = len(self._names)
        self._names.append((key, paper.title))
        for mark in _marks(paper):
            self._same.setdefault(mark, number)
        for way, signature in (signed or signatures(paper.title)).items():
            self._rows.setdefault(way, []).append(signature)
            self._owners.setdefault(way, []).append(number)
            self._packed.pop(way, None)

    def find(self, paper: Draft) -> Known | None:
        """The paper that this one is, or that has nearly its title (a Jaccard index of at least 0.8)."""
        for mark in _marks(paper):
            if mark in self._same:
                why = "the same title" if isinstance(mark, bytes) else f"the same {mark.split(':')[0]}"
                return Known(*self._names[self._same[mark]], 1.0, why)
        near: list[tuple[float, int]] = []
        for way, signature in signatures(paper.title).items():
            if way not in self._rows:
                continue
            if way not in self._packed:
                self._packed[way] = np.stack(self._rows[way])
            for at in np.flatnonzero((self._packed[way] == signature).sum(1) >= _FEWEST):
                number = self._owners[way][int(at)]
                near.append((text_similarity(paper.title, self._names[number][1]), -number))
        similarity, number = max(near, default=(0.0, 0))
        if similarity < THRESHOLD:
            return None
        return Known(*self._names[-number], similarity, f"a title {similarity:.0%} alike")


def _marks(paper: Draft) -> list[str | bytes]:
    """What two mentions of the same paper share."""
    marks: list[str | bytes] = []
    if paper.arxiv:
        marks.append(f"arXiv identifier:{paper.arxiv}")
    if paper.doi:
        marks.append(f"DOI:{paper.doi}")
    return [*marks, title_key(paper.title)]


def title_key(title: str) -> bytes:
    """16 bytes that titles share when they differ in case, white space and punctuation alone.

    >>> title_key("A title: of two") == title_key("a  Title of Two.")
    True
    """
    return duplicate_key("".join(c if c.isalnum() else " " for c in title))
