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
            raise ValueError(f"table of grid {self.spelling!r} has {len(self.table)} codes; a grid has 2 to 256")
        with np.errstate(over="ignore"):
            values = np.asarray(self.table, dtype=np.float32)
        if np.isinf(values).any():
            raise ValueError(f"table of grid {self.spelling!r} holds an infinite value; leave it out or make it NaN")
        if len(np.unique(values[~np.isnan(values)])) < 2:
            raise ValueError(f"table of grid {self.spelling!r} needs at least two distinct values")
        # One NaN object for all, because tuples compare objects before values: equal grids must compare equal.
        object.__setattr__(self, "table", tuple(math.nan if math.isnan(v) else float(v) for v in values))

    def __reduce__(self) -> tuple[type[Grid], tuple[str, tuple[float, ...]]]:
        # Copies and pickles are made anew: what is cached for the kernels stays in its process.
        return Grid, (self.spelling, self.table)

    @cached_property
    def levels(self) -> np.ndarray:
        """Distinct values in ascending order, float32."""
        values = np.asarray(self.table, dtype=np.float32)
        return np.unique(values[~np.isnan(values)] + np.float32(0))  # + 0 turns -0 into 0, so that they merge

    @cached_property
    def valid(self) -> np.ndarray:
        """Whether each code stands for a number, bool (codes,)."""
        return ~np.isnan(np.asarray(self.table, dtype=np.float32))

    @cached_property
    def code_of_level(self) -> np.ndarray:
        """Code, uint8, of each entry of `levels`."""
        values = np.asarray(self.table, dtype=np.float32)
        return np.array([np.flatnonzero(values == level)[0] for level in self.levels], dtype=np.uint8)

    @cached_property
    def level_of_code(self) -> np.ndarray:
        """Index in `levels`, uint8, of each code's value; 0 for codes that are never used."""
        values = np.asarray(self.table, dtype=np.float32) + np.float32(0)
        return np.searchsorted(self.levels, np.where(self.valid, values, self.levels[0])).astype(np.uint8)

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
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
        if not np.isfinite(flat).all():
            at = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise ValueError(f"x[{at}] (flattened) is {flat[at]} in float32; a grid encodes finite numbers only")
        index = np.empty(flat.shape, dtype=np.uint8)
        _native.nearest(flat, self.native, index)
        return self.code_of_level[index].reshape(np.shape(x))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Value, float32, of each code; NaN for the codes that are never used.

        Raises
        ------
        ValueError
            If a code lies outside the table.
        """
        return np.asarray(self.table, dtype=np.float32)[self.checked_codes(codes)]

    def checked_codes(self, codes: np.ndarray) -> np.ndarray:
        """The codes as uint8.

        Raises
        ------
        TypeError
            If they are not whole numbers.
        ValueError
            If one lies outside the table.
        """
        codes = np.asarray(codes)
        if codes.dtype.kind not in "ui":
            raise TypeError(f"codes are {codes.dtype}; they must be whole numbers, such as uint8")
        if codes.size:
            least, most = int(codes.min()), int(codes.max())
            if least < 0 or most >= len(self.table):
                bad = least if least < 0 else most
                raise ValueError(f"codes hold {bad}; grid {self.spelling!r} has codes 0 to {len(self.table) - 1}")
        return codes.astype(np.uint8, copy=False)
