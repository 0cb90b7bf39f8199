"""A recommender's item table as codes: what is stored, and recommendations straight from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tercile.filters.search.product_quantization import ProductQuantizer, table_sums


@dataclass(frozen=True)
class CodedItems:
    """Items as codes of a few bytes, and the quantizer that they belong to.

    The quantizer decides the family: a plain vector quantizer is a product code of one piece, the parallel ones are
    `ProductQuantizer` and `OptimizedProductQuantizer`, the sequential one is `ResidualQuantizer`, and one that was
    learnt from who took what is `MatchingOrientedQuantizer`.

    Parameters
    ----------
    quantizer
        Fitted.
    packed
        Codes, `bits` each, item by item without gaps.
    items
        How many.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> items = CodedItems.of(vectors, ProductQuantizer(4, 16).fit(vectors))
    >>> items.packed.nbytes, items.nbytes, vectors.nbytes  # 4 pieces of 4 bits; and 16 codewords of 8 floats
    (2000, 2512, 32000)
    >>> items.recommended(vectors[:1], k=3)[0].shape
    (1, 3)
    """

    quantizer: ProductQuantizer
    packed: NDArray[np.uint8]
    items: int

    @classmethod
    def of(cls, vectors: ArrayLike, quantizer: ProductQuantizer) -> Self:
        """Encode a table of item vectors."""
        codes = quantizer.encode(vectors)
        return cls(quantizer, packed(codes, bits_for(quantizer.codebooks_.shape[1])), len(codes))

    @property
    def codes(self) -> NDArray[np.uint16]:
        """(items, pieces)."""
        pieces, codewords, _ = self.quantizer.codebooks_.shape
        return unpacked(self.packed, bits_for(codewords), self.items, pieces)

    @property
    def nbytes(self) -> int:
        """Of everything that is stored: codes, codebooks and rotations."""
        return self.packed.nbytes + self.quantizer.nbytes

    def vectors(self) -> NDArray[np.float32]:
        """Return what the codes stand for, float32 (items, width)."""
        return self.quantizer.decode(self.codes)

    def recommended(
        self, users: ArrayLike, k: int, taken: sparse.csr_array | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return the `k` items that each user wants most, best first, and their scores.

        A user's products with all codewords are computed once; an item then costs one addition for each piece.

        Parameters
        ----------
        users
            (users, width).
        k
            At most the number of items.
        taken
            (users, items): what is not recommended again, scored -inf where nothing else is left.
        """
        if not 1 <= k <= self.items:
            raise ValueError(f"k must be between 1 and the number of items, {self.items}, got {k}")
        tables = self.quantizer.tables(users)
        if taken is not None and taken.shape != (len(tables), self.items):
            raise ValueError(f"taken must have shape {(len(tables), self.items)}, got {taken.shape}")
        codes = self.codes
        known = None if taken is None else sparse.csr_array(taken)
        found = np.empty((len(tables), k), dtype=np.intp)
        scores = np.empty((len(tables), k), dtype=np.float32)
        for i, table in enumerate(tables):
            score = table_sums(table, codes)
            if known is not None:
                score[known.indices[known.indptr[i] : known.indptr[i + 1]]] = -np.inf
            best = np.argpartition(-score, k - 1)[:k]
            found[i] = best[np.lexsort((best, -score[best]))]
            scores[i] = score[found[i]]
        return found, scores


def bits_for(codewords: int) -> int:
    """Bits that tell `codewords` apart, at least one.

    >>> bits_for(16), bits_for(17), bits_for(1)
    (4, 5, 1)
    """
    return max(1, (codewords - 1).bit_length())


def packed(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Codes below 2**bits as a stream of bits, the most significant first.

    >>> packed(np.array([[1, 2], [3, 4]]), 4).tolist()
    [18, 52]
    """
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((codes.reshape(-1, 1).astype(np.int64) >> shifts & 1).astype(np.uint8))


def unpacked(stream: NDArray[np.uint8], bits: int, items: int, pieces: int) -> NDArray[np.uint16]:
    """The codes (items, pieces) of a stream that `packed` made.

    >>> unpacked(np.array([18, 52], np.uint8), 4, 2, 2).tolist()
    [[1, 2], [3, 4]]
    """
    ones = np.unpackbits(stream, count=items * pieces * bits).reshape(-1, bits)
    return (ones @ (1 << np.arange(bits - 1, -1, -1))).astype(np.uint16).reshape(items, pieces)
