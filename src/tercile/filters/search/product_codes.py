"""Product codes as a way to keep the vectors of an index: a few bytes a row, whatever the dimension."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tercile.filters.search.optimized_product_quantization import OptimizedProductQuantizer
from tercile.filters.search.product_quantization import ProductQuantizer
from tercile.filters.search.vectors import TABLE, Asked

#: Numbers of a table for each byte, as the kernels read them.
ENTRIES = 256
#: Rounds of refining a rotation: what more of them gain is less than what another sample of rows changes.
ROUNDS = 10


@dataclass(frozen=True)
class ProductCodes:
    """A byte for each piece of a vector: "pq16" is 16 bytes a row, "opq16" the same after a learnt rotation.

    Queries are not rounded. For each of them a table is made of what every codeword adds to the distance, and a row
    costs as many additions as it has bytes.

    >>> rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> codec = ProductCodes(4).fit(rows)
    >>> stored = codec.encode(rows)
    >>> stored.shape, stored.dtype, codec.ask(rows[:2], True).queries.shape
    ((1000, 4), dtype('uint8'), (2, 1024))
    """

    pieces: int
    rotated: bool = False
    quantizer: ProductQuantizer | None = None

    @property
    def name(self) -> str:
        """How it is spelled."""
        return f"{'o' * self.rotated}pq{self.pieces}"

    def check(self, dimension: int) -> None:
        """Refuses a dimension that the pieces do not divide."""
        if dimension % self.pieces:
            raise ValueError(
                f"storage {self.name!r} cuts vectors into {self.pieces} pieces, which do not divide dimension "
                f"{dimension}; take another number of bytes"
            )

    def fit(self, sample: np.ndarray) -> ProductCodes:
        """Learns codewords, and the rotation if there is one. Cost: k-means with 256 codewords in every piece."""
        self.check(sample.shape[1])
        codewords = min(ENTRIES, len(sample))
        if self.rotated:
            return ProductCodes(
                self.pieces, True, OptimizedProductQuantizer(self.pieces, codewords, rounds=ROUNDS).fit(sample)
            )
        return ProductCodes(self.pieces, False, ProductQuantizer(self.pieces, codewords).fit(sample))

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """float32 in, a byte a piece out."""
        return self._fitted.encode(vectors)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """What the codes stand for, float32."""
        return self._fitted.decode(stored)

    def ask(self, queries: np.ndarray, squared: bool) -> Asked:
        """A table for each query: squared distances of its pieces from codewords, or inner products, sign changed."""
        tables = self._fitted.tables(queries, "l2") if squared else -self._fitted.tables(queries)
        short = ENTRIES - tables.shape[2]
        if short:
            tables = np.pad(tables, ((0, 0), (0, 0), (0, short)))
        return Asked(np.ascontiguousarray(tables.reshape(len(tables), -1), dtype=np.float32), TABLE, squared)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Codewords, and the rotation if there is one; nothing before `fit`."""
        return {} if self.quantizer is None else self.quantizer._arrays()

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> ProductCodes:
        """The codec that had learned these arrays."""
        if not arrays:
            return self
        quantizer = OptimizedProductQuantizer(self.pieces) if self.rotated else ProductQuantizer(self.pieces)
        quantizer._restore("the index", {name: np.asarray(array) for name, array in arrays.items()})
        return ProductCodes(self.pieces, self.rotated, quantizer)

    @property
    def _fitted(self) -> ProductQuantizer:
        if self.quantizer is None:
            raise ValueError(f"{self.name} has learned nothing yet; call fit first")
        return self.quantizer


def product_codes(name: str) -> ProductCodes | None:
    """The codec of such a name, or None if it is no name of product codes.

    >>> product_codes("opq16"), product_codes("int8"), product_codes("pq0")
    (ProductCodes(pieces=16, rotated=True, quantizer=None), None, None)
    """
    spelled = re.fullmatch(r"(o?)pq([1-9]\d{0,3})", name)
    return ProductCodes(int(spelled[2]), bool(spelled[1])) if spelled else None
