"""Residual quantization: each codeword refines what the ones before it left over, so that codes read as a path."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.filters.search.codewords import k_means, nearest_codewords
from tercile.filters.search.product_quantization import ProductQuantizer


class ResidualQuantizer(ProductQuantizer):
    """Stores a vector as a sum of whole-width codewords, one from each codebook in turn.

    Unlike a product code's, its codes go from coarse to fine: vectors that share their first codes are alike, which
    makes them usable as names (semantic ids). Encoding keeps the best few partial sums at each step.

    Parameters
    ----------
    pieces
        Codebooks, and codes of a vector.
    codewords, iterations, seed
        As for `ProductQuantizer`.
    beam
        Partial sums that encoding keeps; 1 is greedy.

    Attributes
    ----------
    codebooks_
        float32 (pieces, codewords, width).

    Notes
    -----
    Source: Chen, Guan, Wang, "Approximate Nearest Neighbor Search by Residual Vector Quantization", 2010; encoding by
    beam search: Babenko and Lempitsky, "Additive Quantization for Extreme Vector Compression", 2014. Cost of
    encoding a vector: pieces * beam * codewords * width products. Tables hold inner products alone: the length of a
    sum is no sum of lengths.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(1000, 8))
    >>> quantizer = ResidualQuantizer(pieces=3, codewords=16).fit(vectors)
    >>> codes = quantizer.encode(vectors)
    >>> coarse = quantizer.codebooks_[0][codes[:, 0]]
    >>> errors = [np.square(vectors - guess).mean() for guess in (0, coarse, quantizer.decode(codes))]
    >>> errors == sorted(errors, reverse=True)
    True
    """

    kind = "residual code"

    def __init__(
        self, pieces: int = 4, codewords: int = 256, *, beam: int = 4, iterations: int = 25, seed: int = 0
    ) -> None:
        super().__init__(pieces, codewords, iterations=iterations, seed=seed)
        self.beam = beam

    @property
    def width(self) -> int:
        """Of the vectors that codes are made of."""
        self._fitted()
        return self.codebooks_.shape[2]

    def fit(self, vectors: ArrayLike) -> Self:
        """Learn the codebooks; what is refused is what `ProductQuantizer.fit` refuses, but for the width."""
        self._check_counts("pieces", "codewords", "iterations", "beam")
        rest = self._enough(vectors).copy()
        random = np.random.default_rng(self.seed)
        books = []
        for _ in range(self.pieces):
            book = k_means(rest, self.codewords, self.iterations, random)
            rest -= book[nearest_codewords(rest, book)]
            books.append(book)
        self.codebooks_ = np.stack(books)
        return self

    def tables(self, queries: ArrayLike, metric: str = "inner_product") -> NDArray[np.float32]:
        """Return what each codeword adds to a query's inner products, float32 (queries, pieces, codewords)."""
        if metric != "inner_product":
            raise ValueError(f"metric must be inner_product for a residual code, got {metric!r}")
        asked = self._checked(queries, "queries")
        return np.ascontiguousarray((asked @ self.codebooks_.swapaxes(1, 2)).swapaxes(0, 1))

    def _assigned(self, rows: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
        pieces, codewords, _ = self.codebooks_.shape
        kind = np.uint8 if codewords <= 256 else np.uint16
        found = np.empty((len(rows), pieces), dtype=kind)
        for start in range(0, len(rows), 1024):
            part = rows[start : start + 1024]
            rest, paths = part[:, None], np.zeros((len(part), 1, 0), dtype=np.intp)
            for book in self.codebooks_:
                error = np.square(rest).sum(axis=2)[..., None] + np.square(book).sum(axis=1) - 2 * rest @ book.T
                flat = error.reshape(len(part), -1)
                width = min(self.beam, flat.shape[1])
                best = np.argpartition(flat, width - 1, axis=1)[:, :width]
                came_from, word = np.divmod(best, codewords)
                rest = np.take_along_axis(rest, came_from[..., None], axis=1) - book[word]
                paths = np.take_along_axis(paths, came_from[..., None], axis=1)
                paths = np.concatenate([paths, word[..., None]], axis=2)
            ends = np.square(rest).sum(axis=2).argmin(axis=1)
            found[start : start + 1024] = paths[np.arange(len(part)), ends]
        return found

    def _looked_up(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        total = np.zeros((len(codes), self.codebooks_.shape[2]), dtype=np.float32)
        for book, column in zip(self.codebooks_, codes.T):
            total += book[column]
        return total
