"""All papers of the page under one roof, the catalogue's and the imported ones, as the rankings see them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from tercile.papers import catalogue


@dataclass(frozen=True)
class Text:
    """One paper: its key (a slug of the catalogue, or a key of `papers`), where it belongs, and what it says.

    `added` is when it was imported, as ISO 8601 in UTC, `id` its row; empty and 0 for the catalogue.
    """

    key: str
    title: str
    room: str
    body: str
    added: str = ""
    authors: str = ""
    source: str = ""
    id: int = 0

    @property
    def path(self) -> str:
        """Its address on the page."""
        return f"/papers/{self.key}" if self.added else f"/methods/{self.key}"

    @property
    def top(self) -> str:
        """The room's first part: what readers choose by."""
        return self.room.split(".")[0]


def all_texts(rows: sqlite3.Connection) -> list[Text]:
    """The catalogue in its order, then what was imported, oldest first.

    >>> import sqlite3
    >>> made = sqlite3.connect(":memory:")
    >>> _ = made.execute("CREATE TABLE papers (key, title, room, abstract, added, authors, source, id)")
    >>> len(all_texts(made))
    166
    """
    texts = [Text(p.slug, p.title, p.room, f"{p.summary} {p.claim}") for p in catalogue()]
    query = "SELECT key, title, room, abstract, added, authors, source, id FROM papers ORDER BY id"
    return texts + [Text(*row) for row in rows.execute(query)]
