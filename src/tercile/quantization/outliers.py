"""A quantized weight with some of its entries corrected in float16, where few weights make most of the error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor


@dataclass(frozen=True, eq=False)
class OutlierTensor:
    """A QTensor plus a sparse matrix.

    Attributes
    ----------
    dense
        What every entry has.
    row_ends
        uint32 (rows,): how many outliers the rows up to and including this one have.
    columns
        uint16, or uint32 for more than 65,536 columns (outliers,): where they stand, rising within a row.
    values
        float16 (outliers,): what is added there.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> dense = round_to_nearest(np.float32([[1.0, -1.0], [0.5, 0.25]]), None, Scheme.parse("sign-channel-f32"))
    >>> both = OutlierTensor.from_matrix(dense, np.float32([[0, 0], [0.25, 0]]))
    >>> (both.dequantize() - dense.dequantize()).tolist(), both.nbytes - dense.nbytes
    ([[0.0, 0.0], [0.25, 0.0]], 12)
    """

    dense: QTensor
    row_ends: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @classmethod
    def from_matrix(cls, dense: QTensor, sparse: np.ndarray) -> OutlierTensor:
        """Keeps the entries of a matrix, in the matrix shape of `dense`, that are not zero.

        Raises
        ------
        ValueError
            If the shapes differ or an entry does not fit float16.
        """
        if sparse.shape != as_matrix(dense.shape):
            raise ValueError(f"sparse has shape {sparse.shape}, dense {as_matrix(dense.shape)}; they must match")
        rows, columns = np.nonzero(sparse)
        with np.errstate(over="ignore"):
            values = sparse[rows, columns].astype(np.float16)
        if not np.isfinite(values).all():
            raise ValueError("sparse holds values beyond float16; make the weights smaller")
        ends = np.cumsum(np.bincount(rows, minlength=len(sparse))).astype(np.uint32)
        wide = sparse.shape[1] > 1 << 16
        return cls(dense, ends, columns.astype(np.uint32 if wide else np.uint16), values)

    @property
    def sparse(self) -> np.ndarray:
        """The outliers as a float32 matrix."""
        matrix = np.zeros(as_matrix(self.dense.shape), dtype=np.float32)
        ends = np.concatenate([[0], self.row_ends.astype(np.int64)])
        counts = ends[1:] - ends[:-1]
        matrix[np.repeat(np.arange(len(counts)), counts), self.columns] = self.values
        return matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that is stood for."""
        return self.dense.shape

    def dequantize(self) -> np.ndarray:
        """The float32 tensor that is stored."""
        return self.dense.dequantize() + self.sparse.reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes stored: codes and scales, and 4 bytes for each outlier and for each row (6 where columns are many)."""
        return self.dense.nbytes + self.row_ends.nbytes + self.columns.nbytes + self.values.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each element."""
        return 8 * self.nbytes / max(math.prod(self.shape), 1)
