"""Everything that can be found, as it stood at one moment: documents, their words, their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    with_vectors
        Positions of the documents that have a vector, ascending.
    vectors
        Theirs, float32 (n, width), of unit length.
    """

    documents: tuple[Document, ...]
    words: Words
    with_vectors: NDArray[np.intp]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, documents: Sequence[Document], vectors: Mapping[str, NDArray[np.float32]]) -> Collection:
        """Index documents; `vectors` are found by the digests of their texts."""
        have = [at for at, document in enumerate(documents) if document.digest in vectors]
        rows = np.array([vectors[documents[at].digest] for at in have], dtype=np.float32)
        return cls(tuple(documents), Words(documents), np.array(have, dtype=np.intp), rows.reshape(len(have), -1))

    @property
    def rooms(self) -> list[str]:
        """Rooms of the documents, in order."""
        return sorted({document.room for document in self.documents if document.room})

    @property
    def without_vectors(self) -> list[Document]:
        """Documents that have yet to be embedded."""
        have = set(self.with_vectors.tolist())
        return [document for at, document in enumerate(self.documents) if at not in have]

    def at(self, key: str) -> int | None:
        """Position of a document."""
        return next((at for at, document in enumerate(self.documents) if document.key == key), None)

    def nearest(self, vector: NDArray[np.float32], wanted: Filter, k: int) -> list[tuple[int, float]]:
        """Positions and cosines of the documents nearest in meaning, among those that a filter lets through."""
        if not len(self.with_vectors) or k < 1:
            return []
        cosines = self.vectors @ vector
        if wanted:
            passing = np.array([wanted.passes(self.documents[at]) for at in self.with_vectors])
            cosines = np.where(passing, cosines, -np.inf)
        best = np.argsort(-cosines, kind="stable")[:k]
        return [(int(self.with_vectors[at]), float(cosines[at])) for at in best if np.isfinite(cosines[at])]

    def similar(self, key: str, k: int = 5) -> list[tuple[int, float]]:
        """Positions and cosines of the documents nearest to one of them, itself left out."""
        at = self.at(key)
        row = np.flatnonzero(self.with_vectors == at) if at is not None else np.empty(0, dtype=np.intp)
        if not len(row):
            return []
        found = self.nearest(self.vectors[row[0]], Filter(), k + 1)
        return [(other, cosine) for other, cosine in found if other != at][:k]
