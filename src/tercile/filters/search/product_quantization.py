"""Product quantization: a vector as a few bytes, one for each piece of it, and distances by table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.arrays import load_arrays, save_arrays
from tercile.filters.search.codewords import k_means, nearest_codewords

Metric = Literal["inner_product", "l2"]
METRICS = get_args(Metric)


class ProductQuantizer:
    """Cuts vectors into pieces of equal width and stores, for each piece, which of `codewords` it is next to.

    A query is not rounded: a table of its products with all codewords turns the comparison with a stored vector
    into one addition for each piece.

    Parameters
    ----------
    pieces
        How many; the width of the vectors must be a multiple. Also the bytes of a code, if `codewords` is at most
        256, and half of them above.
    codewords
        For each piece, at most 65,536.
    iterations
        Of k-means.
    seed
        Of the codewords that k-means starts from.

    Attributes
    ----------
    codebooks_
        float32 (pieces, codewords, width of a piece).

    Notes
    -----
    Source: Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", 2011: the product code and
    asymmetric distances. Cost of a fit: pieces times k-means; of a table: codewords * width products; of a distance
    by table: `pieces` additions.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(1000, 8))
    >>> quantizer = ProductQuantizer(pieces=4, codewords=16).fit(vectors)
    >>> codes = quantizer.encode(vectors)
    >>> codes.shape, codes.dtype, quantizer.decode(codes).shape
    ((1000, 4), dtype('uint8'), (1000, 8))
    >>> found, distance = quantizer.nearest(vectors[:2], codes, k=3)
    >>> found.shape
    (2, 3)
    """

    #: What a file says that it holds.
    kind = "product code"

    def __init__(self, pieces: int = 16, codewords: int = 256, *, iterations: int = 25, seed: int = 0) -> None:
        self.pieces = pieces
        self.codewords = codewords
        self.iterations = iterations
        self.seed = seed

    def fit(self, vectors: ArrayLike) -> Self:
        """Learn the codebooks.

        Parameters
        ----------
        vectors
            (n, width), at least as many as there are codewords; a few dozen for each codeword are plenty.

        Raises
        ------
        ValueError
            The width is no multiple of `pieces`, there are fewer vectors than codewords, or one is not finite.
        """
        rows = self._rows(vectors)
        self.codebooks_ = self._codebooks(rows)
        return self

    def encode(self, vectors: ArrayLike) -> NDArray[np.unsignedinteger]:
        """Return codes, (n, pieces): uint8, or uint16 where there are more than 256 codewords."""
        return self._assigned(self._turned(self._checked(vectors, "vectors")))

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors, float32 (n, width), that codes stand for."""
        return self._back(self._looked_up(self._codes(codes)))

    def tables(self, queries: ArrayLike, metric: Metric = "inner_product") -> NDArray[np.float32]:
        """Return what each codeword adds to a comparison with each query, float32 (queries, pieces, codewords).

        Parameters
        ----------
        metric
            ``"inner_product"``, or ``"l2"`` for squared distances.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        asked = self._asked(self._checked(queries, "queries"))
        cut, books = asked.reshape(len(asked), *self.codebooks_.shape[::2]).swapaxes(0, 1), self.codebooks_
        if metric == "inner_product":
            return np.ascontiguousarray((cut @ books.swapaxes(1, 2)).swapaxes(0, 1))
        # From the middle of the codewords: far from the origin, differences of squares would cancel.
        middle = books.mean(axis=1, keepdims=True)
        cut, books = cut - middle, books - middle
        tables = -2 * (cut @ books.swapaxes(1, 2))
        tables += np.square(cut).sum(axis=2, keepdims=True)
        tables += np.square(books).sum(axis=2)[:, None]
        return np.ascontiguousarray(np.maximum(tables, 0, out=tables).swapaxes(0, 1))

    def nearest(
        self, queries: ArrayLike, codes: ArrayLike, k: int, metric: Metric = "inner_product"
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return the rows of the `k` codes that are nearest to each query, best first, and their scores.

        Every code is compared with every query: the definition that an index is tested against.

        Raises
        ------
        ValueError
            `k` is not between 1 and the number of codes.
        """
        kept = self._codes(codes)
        if not 1 <= k <= len(kept):
            raise ValueError(f"k must be between 1 and the number of codes, {len(kept)}, got {k}")
        tables = self.tables(queries, metric)
        rows = np.empty((len(tables), k), dtype=np.intp)
        scores = np.empty((len(tables), k), dtype=np.float32)
        sign = -1 if metric == "inner_product" else 1
        for i, table in enumerate(tables):
            score = table_sums(table, kept)
            best = np.argpartition(sign * score, k - 1)[:k]
            rows[i] = best[np.lexsort((best, sign * score[best]))]
            scores[i] = score[rows[i]]
        return rows, scores

    @property
    def width(self) -> int:
        """Of the vectors that codes are made of."""
        self._fitted()
        return self.codebooks_.shape[0] * self.codebooks_.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the learnt tables, which are stored once beside all codes."""
        return sum(array.nbytes for array in self._arrays().values())

    @classmethod
    def of(cls, codebooks: ArrayLike) -> ProductQuantizer:
        """Return a quantizer with codebooks that were learnt elsewhere, (pieces, codewords, width of a piece).

        >>> ProductQuantizer.of(np.eye(2)[None]).decode([[1]]).tolist()
        [[0.0, 1.0]]
        """
        books = np.ascontiguousarray(codebooks, dtype=np.float32)
        if books.ndim != 3 or 0 in books.shape or not np.isfinite(books).all():
            raise ValueError(f"codebooks must be finite, (pieces, codewords, width), got shape {books.shape}")
        made = ProductQuantizer(books.shape[0], books.shape[1])
        made.codebooks_ = books
        return made

    def save(self, path: Path | str) -> None:
        """Write what was learnt as safetensors, whole or not at all."""
        self._fitted()
        save_arrays(Path(path), self._arrays(), {"kind": self.kind})

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            The file is damaged, holds another kind of code, or its tables do not fit together.
        """
        arrays, said = load_arrays(Path(path))
        opened = cls()
        if said.get("kind") != cls.kind:
            raise ValueError(f"{path} holds {said.get('kind', 'no product code')!r}, not a {cls.kind!r}")
        opened._restore(path, arrays)
        return opened

    # What a rotation or a map learnt from pairs changes.
    def _turned(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows

    def _asked(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._turned(rows)

    def _back(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"codebooks": self.codebooks_}

    def _restore(self, path: Path | str, arrays: dict[str, NDArray[Any]]) -> None:
        codebooks = arrays.get("codebooks")
        if codebooks is None or codebooks.ndim != 3 or codebooks.dtype != np.float32 or 0 in codebooks.shape:
            raise ValueError(f"{path} has no codebooks of three dimensions in float32; it is damaged")
        self.pieces, self.codewords = codebooks.shape[:2]
        self.codebooks_ = codebooks

    # The parts that all of them share.
    def _check_counts(self, *names: str) -> None:
        for name in names:
            value, most = getattr(self, name), 65_536 if name == "codewords" else 1 << 31
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most}, got {value!r}")

    def _enough(self, vectors: ArrayLike) -> NDArray[np.float32]:
        rows = as_rows(vectors, "vectors")
        if len(rows) < self.codewords:
            raise ValueError(f"vectors must be at least as many as codewords, {self.codewords}, got {len(rows)}")
        return rows

    def _rows(self, vectors: ArrayLike) -> NDArray[np.float32]:
        self._check_counts("pieces", "codewords", "iterations")
        rows = self._enough(vectors)
        if rows.shape[1] % self.pieces:
            raise ValueError(
                f"vectors have width {rows.shape[1]}, which {self.pieces} pieces do not divide; choose other pieces"
            )
        return rows

    def _codebooks(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        random = np.random.default_rng(self.seed)
        return np.stack([k_means(piece, self.codewords, self.iterations, random) for piece in cut(rows, self.pieces)])

    def _assigned(self, rows: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
        kind = np.uint8 if self.codebooks_.shape[1] <= 256 else np.uint16
        codes = np.empty((len(rows), len(self.codebooks_)), dtype=kind)
        for i, (piece, codebook) in enumerate(zip(cut(rows, len(self.codebooks_)), self.codebooks_)):
            codes[:, i] = nearest_codewords(piece, codebook)
        return codes

    def _looked_up(self, codes: NDArray[np.integer]) -> NDArray[np.float32]:
        pieces, _, width = self.codebooks_.shape
        found = np.empty((len(codes), pieces, width), dtype=np.float32)
        for i, codebook in enumerate(self.codebooks_):
            found[:, i] = codebook[codes[:, i]]
        return found.reshape(len(codes), pieces * width)

    def _checked(self, vectors: ArrayLike, name: str) -> NDArray[np.float32]:
        self._fitted()
        rows = as_rows(vectors, name)
        if rows.shape[1] != self.width:
            raise ValueError(f"{name} must have width {self.width}, got {rows.shape[1]}")
        return rows

    def _codes(self, codes: ArrayLike) -> NDArray[np.integer]:
        self._fitted()
        kept = np.asarray(codes)
        pieces, codewords, _ = self.codebooks_.shape
        if kept.ndim != 2 or kept.shape[1] != pieces or kept.dtype.kind not in "iu":
            raise ValueError(f"codes must be whole numbers (n, {pieces}), got {kept.dtype} {kept.shape}")
        if kept.size and not 0 <= int(kept.min()) <= int(kept.max()) < codewords:
            raise ValueError(f"codes must be between 0 and {codewords - 1}, got {kept.min()} to {kept.max()}")
        return kept

    def _fitted(self) -> None:
        if not hasattr(self, "codebooks_"):
            raise ValueError(f"this {type(self).__name__} has learnt nothing yet; call fit first")


def table_sums(table: NDArray[np.float32], codes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the score of every code, float32 (n,), from one query's table (pieces, codewords).

    >>> table_sums(np.float32([[1, 2], [10, 20]]), np.array([[0, 1], [1, 1]])).tolist()
    [21.0, 22.0]
    """
    total = np.zeros(len(codes), dtype=np.float32)
    for entries, column in zip(table, codes.T):
        total += entries[column]
    return total


def cut(rows: NDArray[np.float32], pieces: int) -> NDArray[np.float32]:
    """Return the pieces of every vector, one after the other, (pieces, n, width of a piece)."""
    return np.ascontiguousarray(rows.reshape(len(rows), pieces, -1).swapaxes(0, 1))


def as_rows(vectors: ArrayLike, name: str) -> NDArray[np.float32]:
    """Vectors as float32 (n, width), or a ValueError that names them."""
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers of shape (n, width), got {rows.dtype} {rows.shape}")
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} must be finite in float32; remove or mend row {_first_bad(rows)}")
    return rows


def _first_bad(rows: NDArray[np.float32]) -> int:
    return int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
