"""A product with activations that have one scale below zero and another above, on the kernels of one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tercile.quantization.runtime.matrix import PackedMatrix


@dataclass(frozen=True, eq=False)
class TwoSidedMatrix:
    """A stored matrix, and the step of activations below and above zero: made by `from_packed`.

    Attributes
    ----------
    below, above
        The same stored matrix, multiplied with activations of either side. Its bytes are held once.

    Examples
    --------
    >>> from tercile.quantization import Scheme, ranges, QTensor
    >>> scheme, w = Scheme.parse("int8-channel"), np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    >>> packed = PackedMatrix.from_qtensor(QTensor.quantize(w, scheme, ranges.min_max(w, scheme)), "int8")
    >>> x = np.where(np.arange(64) % 2, 10.0, -0.1).astype(np.float32)[None]
    >>> two = TwoSidedMatrix.from_packed(packed, below=0.1 / 127, above=10 / 127)
    >>> bool(np.abs(two.matmul(x) - x @ packed.stored.dequantize().T).max() < 1e-3)
    True
    """

    below: PackedMatrix
    above: PackedMatrix

    @classmethod
    def from_packed(cls, matrix: PackedMatrix, *, below: float, above: float) -> TwoSidedMatrix:
        """The matrix with a step for each side.

        Parameters
        ----------
        matrix
            With ``int8`` activations, neither rotated nor with a branch: both read activations as a whole.
        below, above
            Steps: activations are held between -127 and 127 of them.

        Raises
        ------
        ValueError
            If the matrix is none of these or a step is not above 0.
        """
        if matrix.activations != "int8":
            raise ValueError("matrix must have activations='int8'; other activations are not rounded")
        if matrix.stored.scheme.rotated or matrix.branch is not None:
            raise ValueError("matrix must be neither rotated nor have a branch: both read activations as a whole")
        for name, step in (("below", below), ("above", above)):
            if not (math.isfinite(step) and step >= 1e-37):
                raise ValueError(f"{name} must be a number above 0, got {step!r}")
        return cls(replace(matrix, activation_scale=below), replace(matrix, activation_scale=above))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.above.shape

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.above.nbytes

    def matmul(self, x: np.ndarray) -> np.ndarray:
        """x times the transposed matrix: float32 (m, rows) of x (m, columns).

        Notes
        -----
        Twice the product of `PackedMatrix.matmul`, and two passes over x.
        """
        y = self.above.matmul(np.maximum(x, 0))
        y += self.below.matmul(np.minimum(x, 0))
        return y
