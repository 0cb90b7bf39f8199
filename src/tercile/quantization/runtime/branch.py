"""A low-rank branch at run time: two thin stored matrices beside a stored one, added to its product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercile.quantization.low_rank import LowRank
from tercile.quantization.runtime.layout import Layout, layout_of


@dataclass(frozen=True, eq=False)
class Branch:
    """left @ right, ready to be added to a product; `_native.PackedLayer` adds it.

    Attributes
    ----------
    stored
        What it was made of.
    right, left
        (rank, inputs) and (rank, outputs), as they are stored.
    """

    stored: LowRank
    right: Layout
    left: Layout

    @classmethod
    def beside(cls, stored: LowRank, matrix: tuple[int, int]) -> Branch:
        """The branch beside a matrix (outputs, inputs).

        Raises
        ------
        ValueError
            If the factors do not fit, or are stored rotated.
        """
        rank = stored.rank
        if (stored.left.shape, stored.right.shape) != ((rank, matrix[0]), (rank, matrix[1])):
            shapes = f"{stored.left.shape} and {stored.right.shape}"
            raise ValueError(f"a branch with factors {shapes} does not fit a matrix {matrix}")
        for factor in (stored.left, stored.right):
            if factor.scheme.turned:
                raise ValueError(f"a factor is {factor.scheme.spelling!r}; a branch runs with factors not rotated")
        return cls(stored, layout_of(stored.right), layout_of(stored.left))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.stored.nbytes + self.right.extra_bytes + self.left.extra_bytes

    def product(self, x: np.ndarray) -> np.ndarray:
        """left @ (right @ x) of each row of x, by numpy."""
        product: np.ndarray = x @ self.stored.right.dequantize().T @ self.stored.left.dequantize()
        return product

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of left @ right; decodes both factors."""
        product: np.ndarray = self.stored.left.dequantize()[:, ids].T @ self.stored.right.dequantize()
        return product
