"""A stored matrix that is multiplied as it is stored: no more than a tile of it is ever decoded."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tercile import _native
from tercile.quantization.basis import row_place
from tercile.quantization.blocks import as_matrix
from tercile.quantization.hadamard import factor, rotate_back, signs
from tercile.quantization.low_rank import LowRank
from tercile.quantization.qtensor import QTensor
from tercile.quantization.runtime.branch import Branch
from tercile.quantization.runtime.layout import Layout, layout_of

Activations = Literal["float", "int8"]


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A QTensor ready to multiply activations: made by `from_qtensor`, never changed.

    Attributes
    ----------
    stored
        What it was made of. Its words are used where they are, also when they lie in a memory-mapped file.
    activations, activation_scale
        ``float`` multiplies activations as they are; ``int8`` rounds them to eight bits first, by a scale of their own
        for each row, or by the given one.
    unfolded
        Whether codes of a trellis lie in memory as bytes.

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
    activation_scale: float | None
    layout: Layout
    branch: Branch | None
    unfolded: bool = False

    @classmethod
    def from_qtensor(
        cls,
        q: QTensor,
        activations: Activations = "float",
        *,
        activation_scale: float | None = None,
        branch: LowRank | None = None,
        unfold: bool = False,
    ) -> PackedMatrix:
        """A stored tensor, seen as a matrix of (first axis, everything else).

        Parameters
        ----------
        q
            Of any scheme.
        activations
            With ``int8``, products are those of whole numbers. The values of a grid are then whole numbers too: those
            of integers, signs, powers of two and four-bit floats are anyway, others are rounded to 1/127 of the
            largest.
        activation_scale
            Of ``int8``: the step of all activations (static), which are held between -127 and 127 of them. None takes
            the largest magnitude / 127 of each row (dynamic).
        branch
            A low-rank branch beside the matrix, which reads the same activations as they are: what is multiplied with
            is the stored matrix plus ``branch.left @ branch.right``.
        unfold
            Of ``int8``: whether the codes of a trellis become whole numbers now, not in every product. The same answers
            from a byte a weight in memory, up to four times as fast for few rows. No other scheme is changed by it.

        Raises
        ------
        ValueError
            If `activations` is no way to treat them, a scale is not above 0, it or `unfold` is given without ``int8``,
            the tensor is empty, or the branch does not fit it.

        Notes
        -----
        Copies nothing where codes are whole bits and scales are float16 or float32. Digits (ternary and the like) are
        packed anew as whole bits, other scales and zero points become float32; `nbytes` counts both.
        """
        if activations not in get_args(Activations):
            raise ValueError(f"activations must be 'float' or 'int8', got {activations!r}")
        if activation_scale is not None:
            if activations != "int8":
                raise ValueError("activation_scale is for activations='int8' alone; leave it out")
            if not (math.isfinite(activation_scale) and activation_scale >= 1e-37):
                raise ValueError(f"activation_scale must be a number above 0, got {activation_scale!r}")
        if unfold and activations != "int8":
            raise ValueError("unfold is for activations='int8' alone; leave it out")
        if 0 in as_matrix(q.shape):
            raise ValueError(f"a tensor of shape {q.shape} is empty; there is nothing to multiply with")
        beside = None if branch is None else Branch.beside(branch, as_matrix(q.shape))
        return cls(q, activations, activation_scale, layout_of(q, unfold), beside, unfold)

    @functools.cached_property
    def native(self) -> _native.PackedLayer:
        """The matrix as compiled code multiplies by it.

        Its rows lie as they are stored. If that is not their order, the branch is not in it.
        """
        scheme, columns = self.stored.scheme, self.shape[1]
        rotated, branch = scheme.rotated, None if scheme.mixed else self.branch
        return _native.PackedLayer(
            self.layout.native,
            signs(columns) if rotated else None,
            factor(columns) if rotated else None,
            self.activations == "int8",
            self.activation_scale or 0.0,
            branch.right.native if branch else None,
            branch.left.native if branch else None,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return as_matrix(self.stored.shape)

    @property
    def nbytes(self) -> int:
        """Bytes held: what is stored, and what the kernels want in another form."""
        return self.stored.nbytes + self.layout.extra_bytes + (self.branch.nbytes if self.branch else 0)

    def with_stored(self, q: QTensor) -> PackedMatrix:
        """Another stored tensor that is treated alike, beside the same branch."""
        branch = None if self.branch is None else self.branch.stored
        scale = self.activation_scale
        return self.from_qtensor(q, self.activations, activation_scale=scale, branch=branch, unfold=self.unfolded)

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

        Notes
        -----
        Up to four rows of x are multiplied with codes as they are read, which costs one pass over the stored bytes.
        More rows share decoded panels of 16 or 32 rows. Threads: TERCILE_THREADS, else OMP_NUM_THREADS. A rotated
        matrix costs a rotation of x, n log n a row.
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        rows, columns = self.shape
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(f"x must be (m, {columns}) for a matrix {self.shape}, got shape {x.shape}")
        y = np.empty((len(x), rows), dtype=np.float32)
        self.native.multiply(x, y)
        if self.stored.scheme.mixed:
            y = np.ascontiguousarray(y[:, row_place(rows)])
            if self.branch is not None:
                y += self.branch.product(x)
        return y

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows by number, as an embedding looks them up; a low-rank branch adds its own.

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

        Notes
        -----
        Decodes the rows that are asked for and, of a trellis, the codes of the up to 12 rows above each.
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
        places = row_place(rows)[ids] if self.stored.scheme.mixed else ids
        self.layout.native.rows(np.ascontiguousarray(places, dtype=np.int64), out)
        if self.stored.scheme.rotated and len(ids):
            out = rotate_back(out)
        return out if self.branch is None else out + self.branch.rows(ids)
