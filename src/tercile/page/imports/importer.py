"""The import as the page and the command line use it: preview, then store, over one database."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tercile.filters.data import Rejection
from tercile.page.database import Database
from tercile.page.imports.draft import Draft
from tercile.page.imports.storing import Judged, Stored, judge_drafts, judged_from_json, judged_to_json, store
from tercile.page.imports.titles import Titles
from tercile.page.ranking.rooms import guess_room
from tercile.page.security import digest

#: A preview is kept for an hour, and so many for each reader.
HOUR = 3600.0
MOST_PREVIEWS = 5


@dataclass(frozen=True)
class Preview:
    """What a file would add: papers, each with the one that it equals or resembles, and what was turned away."""

    format: str
    judged: tuple[Judged, ...]
    rejected: tuple[Rejection, ...]
    stored: bool = False


class Importer:
    """Holds in memory which titles are here, and brings that up to date before each use.

    >>> import tempfile, pathlib
    >>> importer = Importer(Database(pathlib.Path(tempfile.mkdtemp()) / "page.sqlite3"))
    >>> papers = importer.judge([Draft("A study of nothing in particular")])
    >>> importer.store(papers, "form").keys
    ('paper-a-study-of-nothing-in-particular',)
    >>> [one.reason for one in importer.store(papers, "form").rejected]
    ['exact-duplicate']
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._titles = Titles()
        self._one_at_a_time = threading.Lock()

    def judge(self, drafts: Sequence[Draft]) -> tuple[Judged, ...]:
        """Hold papers against what is here now."""
        with self._one_at_a_time:
            self._titles.refresh(self.database.connection())
            return judge_drafts(drafts, self._titles)

    def store(self, judged: Sequence[Judged], format: str, insist: Collection[int] = ()) -> Stored:
        """Store papers, all or none, each once; see `tercile.page.imports.storing.store`."""
        with self._one_at_a_time:
            # Before the transaction, so that it holds the one place for writing no longer than it must.
            rooms = {one.draft: guess_room(one.draft.title, one.draft.abstract) for one in judged if not one.draft.room}
            try:
                with self.database.transaction() as rows:
                    return store(rows, judged, self._titles, format=format, room_of=rooms.__getitem__, insist=insist)
            except BaseException:
                self._titles = Titles()  # it may have seen rows that were rolled back
                raise

    def keep(self, session: int, preview: Preview) -> str:
        """Keep a preview for a reader; returns the token by which the reader consents."""
        token, now = secrets.token_urlsafe(24), time.time()
        text = judged_to_json(preview.format, preview.judged, preview.rejected)
        with self.database.transaction() as rows:
            rows.execute("DELETE FROM previews WHERE made < ?", (now - HOUR,))
            rows.execute(
                "INSERT INTO previews (token_hash, session, read, made) VALUES (?, ?, ?, ?)",
                (digest(token), session, text, now),
            )
            rows.execute(
                "DELETE FROM previews WHERE session = ? AND token_hash NOT IN "
                "(SELECT token_hash FROM previews WHERE session = ? ORDER BY made DESC LIMIT ?)",
                (session, session, MOST_PREVIEWS),
            )
        return token

    def kept(self, session: int, token: str) -> Preview | None:
        """A reader's preview, while it is kept."""
        row = self.database.connection().execute(
            "SELECT read, stored FROM previews WHERE token_hash = ? AND session = ? AND made >= ?",
            (digest(token), session, time.time() - HOUR),
        ).fetchone()  # fmt: skip
        if row is None:
            return None
        return Preview(*judged_from_json(row["read"]), stored=row["stored"] is not None)

    def agree(self, session: int, token: str, wanted: Collection[int]) -> Stored | None:
        """Store those papers of a preview that the reader ticked; None where the preview is gone.

        Agreeing twice stores nothing twice: the second time every paper is here already.
        """
        preview = self.kept(session, token)
        if preview is None:
            return None
        chosen = [at for at in range(len(preview.judged)) if at in wanted]
        made = self.store([preview.judged[at] for at in chosen], preview.format, range(len(chosen)))
        with self.database.transaction() as rows:
            rows.execute("UPDATE previews SET stored = ? WHERE token_hash = ?", (str(len(made.keys)), digest(token)))
        return made
