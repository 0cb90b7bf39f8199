"""Search as the page does it: by words, by meaning, or both blended, through one filter."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tercile.page.database import Database
from tercile.page.methods import Methods, Shelf
from tercile.page.search import vectors
from tercile.page.search.batching import Batcher
from tercile.page.search.collection import Collection
from tercile.page.search.documents import IMPORTED, Document, Filter, method_documents, paper_documents
from tercile.page.search.elsewhere import Elsewhere
from tercile.page.search.encoder import Encoder, default_model, why_not

Mode = Literal["both", "meaning", "words"]
MODES: tuple[Mode, ...] = get_args(Mode)
#: How many a search by meaning finds, and how many of each kind are blended.
DEPTH = 60
#: Ranks are blended as 1 / (FLAT + rank): the larger, the less the first places count.
FLAT = 20
#: Characters of a query that are read.
LONGEST = 400
#: Seconds between two looks whether something has changed.
PAUSE = 0.5
#: Papers that are embedded at once, between readers' queries.
TOGETHER = 8

logger = logging.getLogger("tercile.page")


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found.

    Parameters
    ----------
    document
        What was found.
    similarity
        Cosine between query and document; None where it was found by its words alone.
    """

    document: Document
    similarity: float | None = None


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Parameters
    ----------
    hits
        Best first.
    mode
        How it was searched; `words` where meaning was asked for and can't be had.
    notice
        Why, in words for the reader; empty as a rule.
    """

    hits: tuple[Hit, ...]
    mode: Mode
    notice: str = ""


class Search:
    """Finds methods and papers.

    The catalogue can be searched by words at once; the encoder loads in the background, and until it is there, or
    where it can't be, searches by meaning are answered by words with a notice.

    Parameters
    ----------
    shelf
        The catalogue with its evidence.
    database
        Holds readers' papers and their vectors.
    model
        Packed folder of the encoder; None takes the one that comes with tercile.
    threads
        Of the encoder.
    encoder
        Instead of a model: loads nothing.
    told
        Called with the size of each batch of queries.
    """

    def __init__(
        self,
        shelf: Shelf,
        database: Database,
        *,
        model: Path | None = None,
        threads: int = 1,
        encoder: Encoder | None = None,
        told: Callable[[int], None] | None = None,
    ) -> None:
        self._shelf, self._database, self._told = shelf, database, told
        self._folder = model or default_model()
        self._threads = threads
        has_model = (self._folder / "model.safetensors").is_file()
        self._model = vectors.model_digest(self._folder) if has_model else ""
        self._catalogue = vectors.catalogue_vectors(self._model)
        self._batcher = Batcher(encoder, told) if encoder else None
        self._notice = "" if encoder else why_not(self._folder) or "search by meaning is getting ready"
        self._elsewhere: Elsewhere | None = None
        self._worker = ThreadPoolExecutor(1, "search")
        self._tasks: set[asyncio.Task[None]] = set()
        self._looked = 0.0
        self._renewing = False
        self._stamp: tuple[Methods, int] | None = None
        self.collection = self._build()

    @property
    def ready(self) -> bool:
        """Whether searches by meaning are answered."""
        return self._batcher is not None

    @property
    def notice(self) -> str:
        """Why searches by meaning are answered by words; empty if they are not."""
        return "" if self.ready else self._notice

    async def load(self) -> None:
        """Load the encoder in a thread, unless there is one; what goes wrong becomes the notice."""
        if self.ready or why_not(self._folder) is not None:
            return
        try:
            self._elsewhere = Elsewhere(self._folder, threads=self._threads)
            await asyncio.get_running_loop().run_in_executor(self._worker, self._elsewhere.start)
        except (OSError, ValueError) as error:
            logger.warning("the encoder can't be loaded: %s", error)
            self._notice = "search by meaning can't load its model; the log of the page says why"
            return
        self._batcher = Batcher(self._elsewhere, self._told)
        self._start(self._embed_missing())

    async def find(self, query: str, wanted: Filter | None = None, mode: Mode = "both", most: int = DEPTH) -> Found:
        """Search.

        Parameters
        ----------
        query
            What a reader typed; the first 400 characters count.
        wanted
            What is let through.
        mode
            By words, by meaning, or both.
        most
            How many are found at most, up to `DEPTH` by meaning.

        Returns
        -------
        Found
            Without a query, everything that passes, in catalogue order.
        """
        self._look()
        collection, wanted = self.collection, wanted or Filter()
        query = " ".join(query[:LONGEST].split())
        if not query:
            passing = (Hit(document) for document in collection.documents if wanted.passes(document))
            return Found(tuple(passing), mode)
        vector, notice = (None, "") if mode == "words" else await self._vector(query)
        worded: list[int] = []
        if mode != "meaning" or vector is None:
            found = collection.words.search(query)
            worded = [at for at in found if not wanted or wanted.passes(collection.documents[at])]
        if vector is None:
            why = f"{notice[:1].upper()}{notice[1:]}. These were found by their words." if notice else ""
            return Found(tuple(Hit(collection.documents[at]) for at in worded[:most]), "words", why)
        meant = collection.nearest(vector, wanted, min(most, DEPTH))
        if mode == "meaning":
            return Found(tuple(Hit(collection.documents[at], cosine) for at, cosine in meant), mode)
        cosines = dict(meant)
        blended = blend([worded[:DEPTH], [at for at, _ in meant]])[:most]
        return Found(tuple(Hit(collection.documents[at], cosines.get(at)) for at in blended), mode)

    async def _vector(self, query: str) -> tuple[NDArray[np.float32] | None, str]:
        """The query's vector, or why there is none."""
        if self._batcher is None:
            return None, self.notice
        try:
            return await self._batcher.encode(query), ""
        except (OSError, ValueError) as error:
            logger.warning("a query can't be embedded: %s", error)
            return None, "search by meaning is being started anew"

    def similar(self, key: str, k: int = 5) -> list[Hit]:
        """Documents nearest in meaning to one of them; needs no encoder."""
        return [Hit(self.collection.documents[at], cosine) for at, cosine in self.collection.similar(key, k)]

    async def renew(self) -> None:
        """Index anew if the catalogue, its evidence or readers' papers have changed, and embed what is new."""
        if self._stamp != self._state():
            loop = asyncio.get_running_loop()
            self.collection = await loop.run_in_executor(self._worker, self._build)
        await self._embed_missing()

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked >= PAUSE and not self._renewing:
            self._looked = now
            if self._stamp != self._state():
                self._start(self._renew_once())

    async def _renew_once(self) -> None:
        self._renewing = True
        try:
            await self.renew()
        finally:
            self._renewing = False

    def _state(self) -> tuple[Methods, int]:
        row = self._database.connection().execute("SELECT number FROM changes WHERE name = 'papers'").fetchone()
        return self._shelf.now(), int(row[0])

    def _build(self) -> Collection:
        stamp = self._state()
        rows = self._database.connection().execute("SELECT * FROM papers ORDER BY added DESC, id DESC")
        documents = method_documents(stamp[0]) + paper_documents(rows)
        known = self._catalogue | vectors.paper_vectors(self._database, self._model)
        built = Collection.of(documents, known)
        self._stamp = stamp
        return built

    async def _embed_missing(self) -> None:
        """Embed what has no vector yet, a few texts at a time, so that readers' queries come between."""
        if self._batcher is None:
            return
        missing = self.collection.without_vectors
        for start in range(0, len(missing), TOGETHER):
            together = missing[start : start + TOGETHER]
            try:
                rows = await self._batcher.encode_all([document.text for document in together])
            except (OSError, ValueError) as error:
                logger.warning("texts can't be embedded: %s", error)
                return
            for document, row in zip(together, rows):
                if document.verdict != IMPORTED:  # a summary that changed since the package was made
                    self._catalogue[document.digest] = row
            papers = [at for at, document in enumerate(together) if document.verdict == IMPORTED]
            if papers:
                vectors.keep_papers(self._database, [together[at] for at in papers], rows[papers], self._model)
        if missing:
            self.collection = await asyncio.get_running_loop().run_in_executor(self._worker, self._build)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._worker.shutdown(wait=False, cancel_futures=True)
        if self._batcher is not None:
            self._batcher.close()
        if self._elsewhere is not None:
            self._elsewhere.close()


def blend(rankings: list[list[int]]) -> list[int]:
    """Several rankings as one: what stands near the top of any, and above all of several, comes first.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009). Ties keep the order of the first ranking.

    >>> blend([[7, 3], [3, 5]])
    [3, 7, 5]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, at in enumerate(ranking, 1):
            scores[at] = scores.get(at, 0.0) + 1 / (FLAT + rank)
    return sorted(scores, key=lambda at: -scores[at])
