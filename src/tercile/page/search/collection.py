"""Everything that can be found, as it stood at one moment: documents, their words, their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercile.filters.search import Index
from tercile.page.search.documents import Document, Filter
from tercile.page.search.words import Words


@dataclass(frozen=True)
class Collection:
    """A snapshot that is searched; a new one takes its place when something has changed.

    Attributes
    ----------
    documents
        Methods in catalogue order, then papers, the newest first.
    words
        Full-text index over them.
    vectors
        Of the documents that have one, by position; float32 of unit length.
    index
        Those vectors with room, verdict and year as attributes, by position; None where there are none yet.
    """

    documents: tuple[Document, ...]
    words: Words
    vectors: Mapping[int, NDArray[np.float32]]
    index: Index | None

    @classmethod
    def of(cls, documents: Sequence[Document], vectors: Mapping[str, NDArray[np.float32]]) -> Collection:
        """Index documents; `vectors` are found by the digests of their texts."""
        have = {at: vectors[document.digest] for at, document in enumerate(documents) if document.digest in vectors}
        index = None
        if have:
            rows = np.array(list(have.values()), dtype=np.float32)
            there = [documents[at] for at in have]
            attributes: dict[str, list[Any]] = {
                "room": [document.room for document in there],
                "verdict": [document.verdict for document in there],
                "year": [document.year for document in there],
            }
            if all(year is None for year in attributes["year"]):
                del attributes["year"]  # a column has to have a value to have a kind
            index = Index(rows.shape[1], "cosine")
            index.add(list(have), rows, attributes)
        return cls(tuple(documents), Words(documents), have, index)

    @cached_property
    def rooms(self) -> list[str]:
        """Rooms of the documents, in order."""
        return sorted({document.room for document in self.documents if document.room})

    @cached_property
    def years(self) -> list[int]:
        """Years of the documents, in order."""
        return sorted({document.year for document in self.documents if document.year is not None})

    @property
    def without_vectors(self) -> list[Document]:
        """Documents that have yet to be embedded."""
        return [document for at, document in enumerate(self.documents) if at not in self.vectors]

    @cached_property
    def places(self) -> dict[str, int]:
        """Positions of the documents by their keys."""
        return {document.key: at for at, document in enumerate(self.documents)}

    def nearest(self, vector: NDArray[np.float32], wanted: Filter, k: int) -> list[tuple[int, float]]:
        """Positions and cosines of the documents nearest in meaning, among those that a filter lets through."""
        if self.index is None or k < 1:
            return []
        if (wanted.since is not None or wanted.until is not None) and "year" not in self.index.schema:
            return []
        hits = self.index.search(vector, min(k, len(self.index)), wanted.where(self.rooms))
        pairs = zip(hits.ids[0].tolist(), hits.distances[0].tolist())
        return [(at, 1 - distance) for at, distance in pairs if at >= 0]

    def similar(self, key: str, k: int = 5) -> list[tuple[int, float]]:
        """Positions and cosines of the documents nearest to one of them, itself left out."""
        at = self.places.get(key)
        if at is None or at not in self.vectors:
            return []
        return [(other, cosine) for other, cosine in self.nearest(self.vectors[at], Filter(), k + 1) if other != at][:k]
