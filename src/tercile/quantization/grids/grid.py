"""A grid: the finite set of values, near unit scale, that a code can stand for.

A grid knows no scale, no tensor layout and no model. Everything below 9 bits that is scalar is one table of values by
code; what differs between integers, floats, NF4 or a codebook is only how that table is made, so there is one class
and a function for each kind (`integer`, `floating`, `normal_float`, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tercile import _native


@dataclass(frozen=True)
class Grid:
    """A scalar grid of 2 to 256 codes.

    Parameters
    ----------
    spelling
        What users type and files carry, such as ``int4`` or ``fp8-e4m3``. `tercile.quantization.grids.parse` reads it.
    table
        Value of each code, in code order. NaN marks a code that is never used; two codes may share a value (the two
        zeros of a float), and encoding then writes the smaller one.

    Raises
    ------
    ValueError
        If the table has fewer than two distinct finite values, more than 256 codes, or an infinite value.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid("halves", (-1.0, -0.5, 0.0, 0.5))
    >>> grid.bits, grid.encode(np.float32([-2, 0.2, 0.3])).tolist()
    (2.0, [0, 2, 3])
    """

    spelling: str
    table: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.table) <= 256:
            raise ValueError(f"table has {len(self.table)} codes; a grid has 2 to 256")
        values = np.asarray(self.table, dtype=np.float32)
        if np.isinf(values).any():
            raise ValueError(f"table of grid {self.spelling!r} holds an infinite value; leave it out or make it NaN")
        if len(np.unique(values[~np.isnan(values)])) < 2:
            raise ValueError(f"table of grid {self.spelling!r} needs at least two distinct values")

    @cached_property
    def levels(self) -> np.ndarray:
        """Distinct values in ascending order, float32."""
        values = np.asarray(self.table, dtype=np.float32)
        return np.unique(values[~np.isnan(values)] + np.float32(0))  # + 0 merges the two zeros

    @cached_property
    def code_of_level(self) -> np.ndarray:
        """Code, uint8, of each entry of `levels`."""
        values = np.asarray(self.table, dtype=np.float32)
        return np.array([np.flatnonzero(values == level)[0] for level in self.levels], dtype=np.uint8)

    @cached_property
    def native(self) -> _native.GridLevels:
        """The grid as the compiled kernels take it."""
        return _native.GridLevels(self.levels)

    @property
    def codes_per_word(self) -> int | None:
        """Codes in one 32-bit word when they are packed as digits; None when they are a stream of whole bits."""
        count = len(self.table)
        return None if count & (count - 1) == 0 else int(32 / math.log2(count))

    @property
    def bits(self) -> float:
        """Bits that one code takes when packed: a whole number, or 32 / codes_per_word."""
        per_word = self.codes_per_word
        return math.log2(len(self.table)) if per_word is None else 32 / per_word

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Code of the nearest value for each element; beyond the ends, the end.

        Parameters
        ----------
        x
            Any shape, read as float32. Must be finite.

        Returns
        -------
        uint8 codes in the shape of x. Exactly half-way values go to either neighbour, the same one every time.

        Raises
        ------
        ValueError
            If x holds NaN or infinity.
        """
        flat = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
        if not np.isfinite(flat).all():
            at = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise ValueError(f"x[{at}] (flattened) is {flat[at]}; a grid encodes finite numbers only")
        index = np.empty(flat.shape, dtype=np.uint8)
        _native.nearest(flat, self.native, index)
        return self.code_of_level[index].reshape(np.shape(x))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Value, float32, of each code.

        Raises
        ------
        ValueError
            If a code lies outside the table.
        """
        codes = np.asarray(codes)
        if codes.size and int(codes.max()) >= len(self.table):
            raise ValueError(f"codes hold {int(codes.max())}; grid {self.spelling!r} has codes 0 to {len(self.table) - 1}")
        return np.asarray(self.table, dtype=np.float32)[codes]
