"""A stored matrix that is multiplied as it is stored: no more than a tile of it is ever decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.grids import Trellis
from tercile.quantization.hadamard import rotate, rotate_back
from tercile.quantization.packing import unpack, words_shape
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Ranges

Activations = Literal["float", "int8"]

#: Rows that are decoded at a time where rows do not depend on each other.
TILE = 256


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A QTensor ready to multiply activations: made by `from_qtensor`, never changed.

    Attributes
    ----------
    stored
        What it was made of. Its words are used where they are, also when they lie in a memory-mapped file.
    activations
        ``float`` multiplies activations as they are; ``int8`` rounds each row of them to eight bits first, with a scale
        of its own.

    Examples
    --------
    >>> from tercile.quantization import Scheme, ranges
    >>> scheme, w = Scheme.parse("int4-g32"), np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    >>> q = QTensor.quantize(w, scheme, ranges.min_max(w, scheme))
    >>> packed, x = PackedMatrix.from_qtensor(q), np.ones((2, 64), dtype=np.float32)
    >>> bool(np.allclose(packed.matmul(x), x @ q.dequantize().T, atol=1e-4))
    True
    """

    stored: QTensor
    activations: Activations
    ranges: Ranges

    @classmethod
    def from_qtensor(cls, q: QTensor, activations: Activations = "float") -> PackedMatrix:
        """A stored tensor, seen as a matrix of (first axis, everything else).

        Raises
        ------
        ValueError
            If `activations` is no way to treat them, or the tensor is empty.
        """
        if activations not in get_args(Activations):
            raise ValueError(f"activations must be 'float' or 'int8', got {activations!r}")
        if 0 in as_matrix(q.shape):
            raise ValueError(f"a tensor of shape {q.shape} is empty; there is nothing to multiply with")
        return cls(q, activations, q.ranges)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return as_matrix(self.stored.shape)

    @property
    def nbytes(self) -> int:
        """Bytes held: what is stored, and scales where the kernel wants them in another form."""
        return self.stored.nbytes + self.ranges.scale.nbytes + self.ranges.offset.nbytes

    def matmul(self, x: np.ndarray) -> np.ndarray:
        """x times the transposed matrix, as a linear layer does it.

        Parameters
        ----------
        x
            (m, columns), read as float32.

        Returns
        -------
        float32 (m, rows)

        Raises
        ------
        ValueError
            If x has another number of columns or dimensions.
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        rows, columns = self.shape
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(f"x must be (m, {columns}) for a matrix {self.shape}, got shape {x.shape}")
        if self.stored.scheme.rotated:
            x = rotate(x)
        if self.activations == "int8":
            x = _rounded(x)
        y = np.empty((len(x), rows), dtype=np.float32)
        for first, last in self._tiles():
            np.matmul(x, self._decode(first, last).T, out=y[:, first:last])
        return y

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows by number, as an embedding looks them up.

        Parameters
        ----------
        ids
            (n,) whole numbers from 0 to rows - 1.

        Returns
        -------
        float32 (n, columns)

        Raises
        ------
        TypeError
            If ids are not whole numbers.
        ValueError
            If ids have not one dimension, or one is out of range.
        """
        ids = np.asarray(ids)
        rows, columns = self.shape
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids are {ids.dtype}; they must be whole numbers, such as int64")
        if ids.ndim != 1:
            raise ValueError(f"ids must have one dimension, got shape {ids.shape}")
        if ids.size and (ids.min() < 0 or ids.max() >= rows):
            bad = ids[(ids < 0) | (ids >= rows)][0]
            raise ValueError(f"ids hold {bad}; the matrix has rows 0 to {rows - 1}")
        out = np.empty((len(ids), columns), dtype=np.float32)
        for first, last in self._tiles():
            asked = (first <= ids) & (ids < last)
            if asked.any():
                out[asked] = self._decode(first, last)[ids[asked] - first]
        return rotate_back(out) if self.stored.scheme.rotated and len(ids) else out

    def _tiles(self) -> list[tuple[int, int]]:
        rows = self.shape[0]
        pieces = -(-rows // TILE)
        height = -(-rows // pieces)  # as a trellis cuts its strips
        return [(first, min(first + height, rows)) for first in range(0, rows, height)]

    def _decode(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last) of the matrix as it is stored: rotated, if the scheme rotates."""
        (rows, columns), grid, blocks = self.shape, self.stored.scheme.grid, self.stored.scheme.blocks
        if isinstance(grid, Trellis):
            words = _cut(self.stored.words[0], grid.row_bits(rows).astype(np.int64) * columns, first, last)
            words = words[:, : words_shape((last - first, columns), grid)[1]]
            codes = unpack(words, columns, grid, last - first)
        else:
            codes = unpack(self.stored.words[first:last], columns, grid)
        block = blocks.row_of(rows)[first:last]
        of_column = blocks.column_of(columns)
        values = grid.decode(codes) * self.ranges.scale[block][:, of_column]
        if self.stored.scheme.asymmetric:
            values += self.ranges.offset[block][:, of_column]
        return values


def _cut(words: np.ndarray, widths: np.ndarray, first: int, last: int) -> np.ndarray:
    """The bits of rows [first, last) of a stream, moved to start a word of their own; (1, words)."""
    start, stop = int(widths[:first].sum()), int(widths[:last].sum())
    part = words[start // 32 : -(-stop // 32)].astype(np.uint64)
    following = np.append(part[1:], np.uint64(0))
    shifted = ((part | (following << np.uint64(32))) >> np.uint64(start % 32)) & np.uint64(0xFFFFFFFF)
    cut = shifted[: -(-(stop - start) // 32)].astype(np.uint32)
    if (stop - start) % 32:
        cut[-1] &= np.uint32((1 << (stop - start) % 32) - 1)
    return cut[None]


def _rounded(x: np.ndarray) -> np.ndarray:
    """Each row rounded to whole multiples of its largest magnitude / 127."""
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    return np.where(scale > 0, np.round(x / np.where(scale > 0, scale, 1)) * scale, 0).astype(np.float32)
