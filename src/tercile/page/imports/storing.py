"""From what was read to what is stored: a preview first, then the papers, each once."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from tercile.filters.data import Rejection
from tercile.filters.data.similarity import signatures
from tercile.page.imports.draft import Draft
from tercile.page.imports.titles import Known, Titles, title_key


@dataclass(frozen=True)
class Judged:
    """A paper that was read, and the one that is here already and that it equals or resembles, if there is one."""

    draft: Draft
    known: Known | None = None

    @property
    def wanted(self) -> bool:
        """Whether it is stored unless somebody objects."""
        return self.known is None

    @property
    def same(self) -> bool:
        """Whether it is certainly here already, so that nobody can insist."""
        return self.known is not None and self.known.similarity == 1.0


@dataclass(frozen=True)
class Stored:
    """What came of an import: keys of new papers, and what was not stored with the reason."""

    keys: tuple[str, ...]
    rejected: tuple[Rejection, ...]


def judge_drafts(drafts: Sequence[Draft], titles: Titles) -> tuple[Judged, ...]:
    """Hold each paper against what is here and against those before it in the file.

    Parameters
    ----------
    drafts
        In the order of the file; the first of two alike stays.
    titles
        Up to date; it is not changed.
    """
    within = Titles(with_catalogue=False)
    judged = []
    for paper in drafts:
        known = titles.find(paper) or within.find(paper)
        judged.append(Judged(paper, known))
        if known is None:
            within.add("", paper)
    return tuple(judged)


def store(
    rows: sqlite3.Connection,
    judged: Sequence[Judged],
    titles: Titles,
    *,
    format: str,
    room_of: Callable[[Draft], str],
    insist: Collection[int] = (),
    now: datetime | None = None,
) -> Stored:
    """Store papers; what is here already by now is left out, so that the same import twice stores everything once.

    Parameters
    ----------
    rows
        A connection inside a transaction.
    judged
        What a preview showed.
    titles
        What is here, as this process remembers it; brought up to date by this.
    format
        Where the papers come from: ``bibtex``, ``atom``, ``semantic-scholar`` or ``form``.
    room_of
        Says where a paper belongs that names no room itself.
    insist
        Positions of papers to store although their title is nearly that of another.
    now
        Time of the import.

    Returns
    -------
    Stored
        Rejections have the reason ``exact-duplicate`` or ``near-duplicate``, and name the paper that is here.
    """
    titles.refresh(rows)
    added = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    keys, rejected = [], []
    for position, one in enumerate(judged):
        paper = one.draft
        known = titles.find(paper)
        if known and (known.similarity == 1.0 or position not in insist):
            reason = "exact-duplicate" if known.similarity == 1.0 else "near-duplicate"
            rejected.append(Rejection(reason, f"{known.because} as {known.title}", paper.origin, paper.title[:80]))
            continue
        key = _free_key(rows, paper)
        guessed = not paper.room
        made = rows.execute(
            "INSERT INTO papers (key, title, abstract, authors, year, venue, source, url, room, added, changed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, paper.title, paper.abstract, paper.authors, paper.year, paper.venue, paper.source, paper.address,
             paper.room or room_of(paper), added, added),
        )  # fmt: skip
        rows.execute(
            "INSERT INTO imports (paper, arxiv, doi, title_key, format, room_guessed, published) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (made.lastrowid, paper.arxiv or None, paper.doi or None, title_key(paper.title), format, guessed,
             paper.published),
        )  # fmt: skip
        rows.executemany(
            "INSERT INTO title_signatures (paper, way, signature) VALUES (?, ?, ?)",
            [(made.lastrowid, way, signature.tobytes()) for way, signature in signatures(paper.title).items()],
        )
        titles.refresh(rows)
        keys.append(key)
    return Stored(tuple(keys), tuple(rejected))


def _free_key(rows: sqlite3.Connection, paper: Draft) -> str:
    """A name for addresses: the identifier, or the first words of the title; with a number where it is taken."""
    if paper.arxiv:
        wish = f"arxiv-{paper.arxiv.replace('/', '-').lower()}"
    else:
        folded = unicodedata.normalize("NFKD", paper.title).encode("ascii", "ignore").decode().lower()
        words = re.findall(r"[a-z0-9]+", folded)
        wish = "-".join(["paper", *words])[:60].rstrip("-")  # "paper-" keeps it apart from the catalogue's slugs
    key, number = wish, 1
    while rows.execute("SELECT 1 FROM papers WHERE key = ?", (key,)).fetchone():
        number += 1
        key = f"{wish}-{number}"
    return key


def judged_to_json(format: str, judged: Sequence[Judged], rejected: Sequence[Rejection]) -> str:
    """A preview as text, for the database."""
    parts = {
        "format": format,
        "judged": [{"draft": asdict(one.draft), "known": asdict(one.known) if one.known else None} for one in judged],
        "rejected": [asdict(one) for one in rejected],
    }
    return json.dumps(parts, ensure_ascii=False)


def judged_from_json(text: str) -> tuple[str, tuple[Judged, ...], tuple[Rejection, ...]]:
    """The inverse of `judged_to_json`."""
    parts = json.loads(text)
    judged = (Judged(Draft(**one["draft"]), Known(**one["known"]) if one["known"] else None) for one in parts["judged"])
    return parts["format"], tuple(judged), tuple(Rejection(**one) for one in parts["rejected"])
