"""A low-rank branch at run time: two thin stored matrices beside a stored one, added to its product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercile.quantization.low_rank import LowRank
from tercile.quantization.packing import pack
from tercile.quantization.qtensor import QTensor
from tercile.quantization.runtime.layout import Layout, layout_of
from tercile.quantization.scheme import Scheme


@dataclass(frozen=True, eq=False)
class Branch:
    """left @ right, ready to be added to a product; `_native.PackedLayer` adds it.

    Attributes
    ----------
    stored
        What it was made of.
    right
        (rank, inputs).
    left
        (outputs, rank): the codes of the stored factor turned round, without its scales.
    scale
        float32 (rank,): the scales of the left factor, one a direction. They are multiplied with what comes out of the
        right one, so that the codes of the left one can be multiplied as they are.
    """

    stored: LowRank
    right: Layout
    left: Layout
    scale: np.ndarray

    @classmethod
    def beside(cls, stored: LowRank, matrix: tuple[int, int], places: np.ndarray | None = None) -> Branch:
        """The branch beside a matrix (outputs, inputs), with output i in row places[i] if they are given.

        Raises
        ------
        ValueError
            If the factors do not fit, or the left one has more than one scale a direction, zero points or a rotation.
        """
        rank = stored.rank
        if (stored.left.shape, stored.right.shape) != ((rank, matrix[0]), (rank, matrix[1])):
            shapes = f"{stored.left.shape} and {stored.right.shape}"
            raise ValueError(f"a branch with factors {shapes} does not fit a matrix {matrix}")
        scheme, ranges = stored.left.scheme, stored.left.ranges
        if ranges.scale.shape[1] != 1 or scheme.asymmetric or scheme.turned or stored.right.scheme.turned:
            raise ValueError(f"the left factor is {scheme.spelling!r}; a branch runs with schemes such as int8-channel")
        codes = np.ascontiguousarray(stored.left.codes.T)
        if places is not None:
            codes[places] = codes.copy()
        bare = Scheme.parse(f"{scheme.scalar_grid.spelling}-tensor-f32")
        one = bare.ranges(np.ones((1, 1), dtype=np.float32))
        turned = QTensor(bare, codes.shape, pack(codes, bare.grid), one.arrays)
        scale = scheme.blocks.spread(ranges.scale, (rank, 1)).reshape(-1)
        return cls(stored, layout_of(stored.right), layout_of(turned), np.broadcast_to(scale, (rank,)))

    @property
    def nbytes(self) -> int:
        """Bytes held, the turned codes included."""
        return self.stored.nbytes + self.stored.left.nbytes + self.right.extra_bytes + self.left.extra_bytes

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the product left @ right."""
        picked = np.empty((len(ids), len(self.scale)), dtype=np.float32)
        self.left.native.rows(np.ascontiguousarray(ids, dtype=np.int64), picked)
        product: np.ndarray = (picked * self.scale) @ self.stored.right.dequantize()
        return product
