"""What is searched: every method of the catalogue, and every paper that readers brought."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tercile.page.methods import Methods, year_of

#: The verdict of a paper that readers brought: nothing is claimed or measured here.
IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class Document:
    """One thing that can be found.

    Parameters
    ----------
    key
        A method's slug, or ``papers/<key>``.
    title, summary, claim
        What its words and its meaning are taken from.
    room
        Of the catalogue; empty where a paper has none.
    verdict
        Of the method, or `IMPORTED`.
    year
        None where it is not known.
    """

    key: str
    title: str
    summary: str
    claim: str
    room: str
    verdict: str
    year: int | None

    @property
    def address(self) -> str:
        """Where its page is."""
        return f"/{self.key}" if self.verdict == IMPORTED else f"/methods/{self.key}"

    @property
    def text(self) -> str:
        """What is embedded."""
        return f"{self.title}. {self.summary} {self.claim}".strip()

    @property
    def digest(self) -> str:
        """Changes when the text does; 128 bits in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


def method_documents(methods: Methods) -> list[Document]:
    """The methods of the catalogue."""
    return [
        Document(p.slug, p.title, p.summary, p.claim, p.room, entry.verdict, year_of(entry))
        for entry in methods.entries
        for p in (entry.paper,)
    ]


def paper_documents(rows: Iterable[Any]) -> list[Document]:
    """Rows of the table `papers`."""
    return [
        Document(f"papers/{row['key']}", row["title"], row["abstract"], "", row["room"], IMPORTED, row["year"])
        for row in rows
    ]


@dataclass(frozen=True)
class Filter:
    """What a reader narrows a search to; the default lets everything through.

    Parameters
    ----------
    room
        A room, or one with rooms under it such as ``quantization``; empty for all.
    verdicts
        Any of them; empty for all.
    since, until
        First and last year; a document whose year is not known does not pass either.
    """

    room: str = ""
    verdicts: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None

    def __bool__(self) -> bool:
        return bool(self.room or self.verdicts or self.since is not None or self.until is not None)

    def passes(self, document: Document) -> bool:
        """Whether a document is let through."""
        year = document.year
        return (
            (not self.room or document.room == self.room or document.room.startswith(f"{self.room}."))
            and (not self.verdicts or document.verdict in self.verdicts)
            and (self.since is None or (year is not None and year >= self.since))
            and (self.until is None or (year is not None and year <= self.until))
        )

    def where(self, rooms: Iterable[str]) -> str | None:
        """The same in the filter language of the index; None where everything passes.

        Parameters
        ----------
        rooms
            All rooms that there are.

        >>> Filter("filters", ("holds",), since=2020).where(["filters.data", "stats.tests"])
        "room in ('filters.data') and verdict in ('holds') and year >= 2020"
        """
        parts = []
        if self.room:
            under = sorted(room for room in rooms if room == self.room or room.startswith(f"{self.room}."))
            parts.append(f"room in ({', '.join(map(_quoted, under))})" if under else "false")
        if self.verdicts:
            parts.append(f"verdict in ({', '.join(map(_quoted, self.verdicts))})")
        if self.since is not None:
            parts.append(f"year >= {self.since}")
        if self.until is not None:
            parts.append(f"year <= {self.until}")
        return " and ".join(parts) or None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
