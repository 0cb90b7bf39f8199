"""Search by words: SQLite's full-text index over titles, summaries and claims."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

from tercile.page.search.documents import Document

#: What a word weighs by where it stands: title, short name, summary, claim.
WEIGHTS = (6.0, 6.0, 2.0, 1.0)
#: Words of a query that count.
MOST = 16
#: Words that say nothing about what is sought; they count only where a query has no others.
EMPTY = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from has have how i in is it its of on or so than that the their "
        "them then there these they this to was what when where which while who why will with without you your",
    )
)


class Words:
    """A full-text index in memory over documents, by their position.

    Words are reduced to their stems and the last one may be unfinished, as it is while somebody types. Documents with
    all words come first; those with some of them follow.

    Parameters
    ----------
    documents
        In the order in which results name them.

    Examples
    --------
    >>> one = Document("a", "Rotations before rounding", "Turns weights.", "", "", "holds", None)
    >>> two = Document("b", "Rounding", "Rounds to nearest.", "", "", "holds", None)
    >>> Words([one, two]).search("rotating round")
    [0, 1]
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        # Used by one thread at a time, not always the one that filled it.
        self._rows = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._rows.execute(
            "CREATE VIRTUAL TABLE words USING fts5(title, slug, summary, claim, "
            'tokenize = "porter unicode61 remove_diacritics 2", detail = full)'
        )
        self._rows.execute("BEGIN")
        self._rows.executemany(
            "INSERT INTO words (rowid, title, slug, summary, claim) VALUES (?, ?, ?, ?, ?)",
            ((at, d.title, d.key.replace("_", " "), d.summary, d.claim) for at, d in enumerate(documents)),
        )
        self._rows.execute("COMMIT")

    def search(self, query: str, most: int = 1000) -> list[int]:
        """Positions of the documents that have the words of a query, best first.

        Parameters
        ----------
        query
            Anything; letters and digits count, signs are taken as gaps.
        most
            How many positions at most.
        """
        words = re.findall(r"\w+", query.replace("_", " "))
        words = ([word for word in words if word.lower() not in EMPTY] or words)[:MOST]
        if not words:
            return []
        wanted = [f'"{word}"' for word in words[:-1]] + [f'"{words[-1]}"*']
        found = self._matching(" AND ".join(wanted), most)
        if len(words) > 1 and len(found) < most:
            seen = set(found)
            found += [at for at in self._matching(" OR ".join(wanted), most) if at not in seen][: most - len(found)]
        return found

    def _matching(self, expression: str, most: int) -> list[int]:
        rows = self._rows.execute(
            f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, {', '.join(map(str, WEIGHTS))}) LIMIT ?",
            (expression, most),
        )
        return [row[0] for row in rows]
