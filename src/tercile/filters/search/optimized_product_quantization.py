"""Product quantization after the rotation that makes its error small."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.filters.search.codewords import means
from tercile.filters.search.product_quantization import ProductQuantizer, cut


class OptimizedProductQuantizer(ProductQuantizer):
    """Learns a rotation of the vectors together with the codebooks of their pieces.

    The rotation starts as the principal axes, dealt out so that the pieces have equal products of variances, and is
    then refined: one step of k-means in every piece, and the orthogonal matrix that takes the vectors closest to
    what their codes stand for, by turns.

    Parameters
    ----------
    pieces, codewords, iterations, seed
        As for `ProductQuantizer`; `iterations` are those of the last k-means.
    rounds
        Of refining the rotation. Zero keeps the principal axes.

    Attributes
    ----------
    rotation_
        float32 (width, width), orthogonal; a vector x is cut as x @ rotation_.
    codebooks_
        float32 (pieces, codewords, width of a piece), of rotated vectors.

    Notes
    -----
    Source: Ge, He, Ke, Sun, "Optimized Product Quantization", 2014: the parametric solution (eigenvalue allocation)
    starts the non-parametric one. Cost: each round encodes all vectors once and takes one singular value
    decomposition of width * width.

    Examples
    --------
    >>> mixed = np.random.default_rng(0).normal(size=(500, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    >>> fitted = OptimizedProductQuantizer(pieces=2, codewords=16).fit(mixed)
    >>> bool(np.allclose(fitted.rotation_ @ fitted.rotation_.T, np.eye(4), atol=1e-5))
    True
    >>> fitted.decode(fitted.encode(mixed)).shape
    (500, 4)
    """

    kind = "rotated product code"

    def __init__(
        self, pieces: int = 16, codewords: int = 256, *, rounds: int = 30, iterations: int = 25, seed: int = 0
    ) -> None:
        super().__init__(pieces, codewords, iterations=iterations, seed=seed)
        self.rounds = rounds

    def fit(self, vectors: ArrayLike) -> Self:
        """Learn the rotation and the codebooks; what is refused is what `ProductQuantizer.fit` refuses."""
        rows = self._rows(vectors)
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int | np.integer) or self.rounds < 0:
            raise ValueError(f"rounds must be a whole number from 0, got {self.rounds!r}")
        rotation = balanced_axes(rows, self.pieces)
        if self.rounds:
            random = np.random.default_rng(self.seed)
            turned = rows @ rotation
            start = random.choice(len(rows), self.codewords, replace=False)
            self.codebooks_ = cut(turned[start], self.pieces)
            for _ in range(self.rounds):
                codes = self._assigned(turned)
                moved = [means(piece, codes[:, i], self.codewords) for i, piece in enumerate(cut(turned, self.pieces))]
                # A codeword that nothing is next to stays where it is.
                used = np.stack([np.bincount(column, minlength=self.codewords) > 0 for column in codes.T])
                self.codebooks_ = np.where(used[:, :, None], np.stack(moved), self.codebooks_)
                rotation = procrustes(rows, self._looked_up(codes))
                turned = rows @ rotation
        self.rotation_ = rotation
        self.codebooks_ = self._codebooks(rows @ rotation)
        return self

    def _turned(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows @ self.rotation_

    def _back(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows @ self.rotation_.T

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return super()._arrays() | {"rotation": self.rotation_}

    def _restore(self, path: Path | str, arrays: dict[str, NDArray[Any]]) -> None:
        super()._restore(path, arrays)
        self.rotation_ = square(path, arrays, "rotation", self.width)


def balanced_axes(rows: NDArray[np.float32], pieces: int) -> NDArray[np.float32]:
    """Return the principal axes as columns, float32 (width, width), dealt out over pieces of equal width.

    From the largest variance down, each axis goes to the piece whose variances so far have the smallest product and
    that has room left.
    """
    width = rows.shape[1]
    variances, axes = np.linalg.eigh(np.cov(rows, rowvar=False).reshape(width, width))
    room = width // pieces
    taken: list[list[int]] = [[] for _ in range(pieces)]
    weight = np.zeros(pieces)
    # Logarithms relative to the largest, with a floor: an axis without variance must not decide anything.
    logs = np.log(np.maximum(variances / max(float(variances[-1]), 1e-300), 1e-10)) + np.log(1e10)
    for axis in np.argsort(variances)[::-1]:
        open_pieces = [piece for piece in range(pieces) if len(taken[piece]) < room]
        best = min(open_pieces, key=lambda piece: (weight[piece], piece))
        taken[best].append(int(axis))
        weight[best] += logs[axis]
    return np.ascontiguousarray(axes[:, [axis for piece in taken for axis in piece]], dtype=np.float32)


def procrustes(rows: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the orthogonal R, float32 (width, width), for which rows @ R is closest to `wanted`.

    >>> turn = np.float32([[0, 1], [-1, 0]])
    >>> x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    >>> bool(np.allclose(procrustes(x, x @ turn), turn, atol=1e-6))
    True
    """
    left, _, right = np.linalg.svd((rows.T @ wanted).astype(np.float64))
    return np.ascontiguousarray(left @ right, dtype=np.float32)


def square(path: Path | str, arrays: dict[str, NDArray[Any]], name: str, width: int) -> NDArray[np.float32]:
    """The matrix of that name in an opened file, which must be float32 (width, width)."""
    found = arrays.get(name)
    if found is None or found.shape != (width, width) or found.dtype != np.float32:
        raise ValueError(f"{path} has no {name} of {width} x {width} in float32; it is damaged")
    return found
