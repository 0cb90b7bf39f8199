"""Users as codes too: what a user and an item have to do with each other is then read from a table of codewords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tercile.filters.search.recommendation.coded_items import CodedItems


@dataclass(frozen=True)
class CodedPairs:
    """Users and items as product codes of the same cut, and all products of a user's and an item's codewords.

    A score is one number from each table, without any multiplication, and no vector is kept of anybody.

    Parameters
    ----------
    users, items
        Coded by plain product codes with the same pieces; the numbers of codewords may differ.
    tables
        float32 (pieces, codewords of users, codewords of items).

    Examples
    --------
    >>> from tercile.filters.search.product_quantization import ProductQuantizer
    >>> vectors = np.random.default_rng(0).normal(size=(2, 500, 8)).astype(np.float32)
    >>> users, items = (CodedItems.of(some, ProductQuantizer(4, 16).fit(some)) for some in vectors)
    >>> pairs = CodedPairs.of(users, items)
    >>> bool(np.allclose(pairs.scores(np.arange(3)), users.vectors()[:3] @ items.vectors().T, atol=1e-5))
    True
    """

    users: CodedItems
    items: CodedItems
    tables: NDArray[np.float32]

    @classmethod
    def of(cls, users: CodedItems, items: CodedItems) -> Self:
        """Multiply all codewords once.

        Raises
        ------
        ValueError
            The two are not cut alike, or one is rotated.
        """
        left, right = users.quantizer.codebooks_, items.quantizer.codebooks_
        plain = all(one.quantizer.kind == "product code" for one in (users, items))
        if not plain or left.shape[::2] != right.shape[::2]:
            raise ValueError(
                "users and items must be plain product codes of one cut, got "
                f"{users.quantizer.kind} {left.shape[::2]} and {items.quantizer.kind} {right.shape[::2]}"
            )
        return cls(users, items, left @ right.swapaxes(1, 2))

    @property
    def nbytes(self) -> int:
        """Of both codes, codebooks, and the tables."""
        return self.users.nbytes + self.items.nbytes + self.tables.nbytes

    def scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return how much these users, by row, want each item, float32 (users, items)."""
        own, codes = self.users.codes[users], self.items.codes
        total = np.zeros((len(own), len(codes)), dtype=np.float32)
        for table, mine, theirs in zip(self.tables, own.T, codes.T):
            total += table[mine][:, theirs]
        return total
