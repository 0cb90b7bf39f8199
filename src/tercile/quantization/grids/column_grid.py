"""What grids have in common whose values depend on more than one code: columns are rounded jointly, strip by strip.

Rows are cut into strips. The codes of a column of a strip are found together, and so are its values. Sequences run down
a column, where the rows of a layer do not depend on each other, so that GPTQ's feedback from column to column stays
exact; and the number of bits changes from row to row, which gives rates such as 2.25.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

import numpy as np

from tercile import _native

#: Rows of the tallest strip; taller matrices are cut into strips of nearly equal height.
TALLEST = 256


class ColumnGrid(ABC):
    """A grid for columns of normal values of variance 1.

    Attributes
    ----------
    rate
        Bits for a weight. Row r of a strip takes floor((r + 1) rate) - floor(r rate).
    """

    rate: Fraction

    @property
    @abstractmethod
    def spelling(self) -> str:
        """Its name, which `parse` reads back."""

    @property
    @abstractmethod
    def native(self) -> Any:
        """The grid as the compiled kernels take it, a `_native.ColumnCode`."""

    @property
    @abstractmethod
    def levels(self) -> np.ndarray:
        """Distinct values in ascending order, float32."""

    @property
    def best_scale(self) -> float:
        """Scale of least squared error for normal values of variance 1."""
        return 1.0

    @property
    def bits(self) -> float:
        """Bits that a code takes, on average over the rows of a whole strip."""
        return float(self.rate)

    @property
    def valid(self) -> np.ndarray:
        """Every code stands for a number."""
        return np.ones(256, dtype=bool)

    @property
    def code_of_level(self) -> np.ndarray:
        """The kernels write codes as they are."""
        return np.arange(256, dtype=np.uint8)

    @property
    def level_of_code(self) -> np.ndarray:
        """The kernels read codes as they are."""
        return np.arange(256, dtype=np.uint8)

    def height(self, rows: int) -> int:
        """Rows of each strip of a matrix, but for the last one."""
        return max(1, math.ceil(rows / max(1, math.ceil(rows / TALLEST))))

    def row_bits(self, rows: int) -> np.ndarray:
        """Bits, uint8 (rows,), that the codes of each row of a matrix take.

        Examples
        --------
        >>> from tercile.quantization.grids import Trellis
        >>> Trellis(2.25).row_bits(8).tolist()
        [2, 2, 2, 3, 2, 2, 2, 3]
        """
        return bits_of_strip(self.rate)[np.arange(rows) % self.height(rows)]

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Codes of the values nearest to each column of each strip as a whole, in the sum of squares.

        Parameters
        ----------
        x
            (rows, columns), read as float32. Must be finite.

        Returns
        -------
        uint8 codes in the shape of x.

        Raises
        ------
        ValueError
            If x has not two dimensions, or holds NaN or infinity.
        """
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(x, dtype=np.float32)
        if matrix.ndim != 2:
            raise ValueError(f"x must have two dimensions, sequences run down its columns, got shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(matrix))[0])
            raise ValueError(f"x{list(at)} is {matrix[at]} in float32; a grid encodes finite numbers only")
        codes = np.zeros(matrix.shape, dtype=np.uint8)
        _native.encode_columns(matrix, self.native, codes)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values, float32, of codes (rows, columns).

        Raises
        ------
        ValueError
            If codes have not two dimensions, or one takes more bits than its row has.
        """
        codes = np.ascontiguousarray(self.checked_codes(codes))
        values = np.empty(codes.shape, dtype=np.float32)
        _native.decode_columns(codes, self.native, values)
        return values

    def checked_codes(self, codes: np.ndarray) -> np.ndarray:
        """The codes as uint8.

        Raises
        ------
        TypeError
            If they are not whole numbers.
        ValueError
            If they have not two dimensions, or one takes more bits than its row has.
        """
        codes = np.asarray(codes)
        if codes.dtype.kind not in "ui":
            raise TypeError(f"codes are {codes.dtype}; they must be whole numbers, such as uint8")
        if codes.ndim != 2:
            raise ValueError(f"codes must have two dimensions (rows, columns), got shape {codes.shape}")
        bits = self.row_bits(len(codes))
        if codes.size and (codes.min() < 0 or (codes >> bits[:, None].astype(codes.dtype)).any()):
            raise ValueError(f"codes hold one that takes more bits than its row has in {self.spelling!r}")
        return codes.astype(np.uint8, copy=False)


def checked_rate(rate: object, steps: int, lowest: int, highest: int, what: str) -> Fraction:
    """The rate as a fraction.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is out of range or no multiple of 1/steps.
    """
    try:
        found = Fraction(rate)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise TypeError(f"rate of a {what} must be a number such as 2.5, got {rate!r}") from None
    if not lowest <= found <= highest or (found * steps).denominator != 1:
        raise ValueError(f"rate of a {what} must be a multiple of 1/{steps} from {lowest} to {highest}, got {rate}")
    return found


@functools.cache
def bits_of_strip(rate: Fraction) -> np.ndarray:
    """Bits of each row of the tallest strip, uint8."""
    whole = [math.floor(rate * r) for r in range(TALLEST + 1)]
    return np.diff(whole).astype(np.uint8)
