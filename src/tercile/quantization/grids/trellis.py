"""Trellis grids: a column of weights is rounded as one sequence, which comes close to the rate-distortion bound.

A code adds its bits to a shift register of `memory` bits, and the register's content picks the value. So a weight of
two bits has 4096 values at hand, and the search for the best sequence (Viterbi's) makes good use of them: 0.073 of the
variance of normal values is lost at 2 bits where the best scalar grid loses 0.117 and no code less than 0.0625.

The idea is trellis-coded quantization (Marcellin and Fischer 1990) with the bit-shift trellis of QTIP (Tseng et al.
2024, arXiv:2406.11235), whose decoder needs no more than the last bits of the stream. Two things differ: sequences run
down a column, where the rows of a layer do not depend on each other, so that GPTQ's feedback from column to column
stays exact; and the number of bits changes from row to row, which gives rates such as 2.25.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np

from tercile import _native

#: Rows of the tallest strip; taller matrices are cut into strips of nearly equal height.
TALLEST = 256
MEMORY = 12


@dataclass(frozen=True)
class Trellis:
    """A grid whose value depends on the codes of the rows above, for normal values of variance 1.

    Parameters
    ----------
    rate
        Bits for a weight, a multiple of 1/8 from 1 to 5. Row r of a strip takes floor((r + 1) rate) - floor(r rate).
    memory
        Bits of the shift register, 9 to 16. Each more halves the gap to the bound that is left by about an eighth and
        doubles the time of encoding.

    Raises
    ------
    ValueError
        If rate or memory are out of range.

    Notes
    -----
    Encoding costs about 6 * 2^memory operations a weight, decoding a shift and a look-up in a table of 2^memory values
    (16 KB at 12 bits), from any row on: its state is in the bits of the few rows above.

    Examples
    --------
    >>> import numpy as np
    >>> grid, x = Trellis(2), np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    >>> codes = grid.encode(x)
    >>> codes.max(), bool(((grid.decode(codes) - x) ** 2).mean() < 0.08)
    (np.uint8(3), True)
    """

    rate: Fraction
    memory: int = MEMORY

    def __post_init__(self) -> None:
        try:
            rate = Fraction(self.rate)
        except (TypeError, ValueError):
            raise TypeError(f"rate of a trellis must be a number such as 2.25, got {self.rate!r}") from None
        if not 1 <= rate <= 5 or rate.denominator not in (1, 2, 4, 8):
            raise ValueError(f"rate of a trellis must be a multiple of 1/8 from 1 to 5, got {self.rate}")
        if isinstance(self.memory, bool) or self.memory not in range(9, 17):
            raise ValueError(f"memory of a trellis must be a whole number from 9 to 16, got {self.memory!r}")
        object.__setattr__(self, "rate", rate)

    def __reduce__(self) -> tuple[type[Trellis], tuple[Fraction, int]]:
        # Copies and pickles are made anew: what is cached for the kernels stays in its process.
        return Trellis, (self.rate, self.memory)

    @property
    def spelling(self) -> str:
        """Such as ``trellis2`` or ``trellis2.25``, with ``m14`` at the end if memory is not 12."""
        return f"trellis{float(self.rate):g}" + (f"m{self.memory}" if self.memory != MEMORY else "")

    @property
    def bits(self) -> float:
        """Bits that a code takes, on average over the rows of a whole strip."""
        return float(self.rate)

    @functools.cached_property
    def native(self) -> Any:
        """The grid as the compiled kernels take it, a `_native.TrellisCode`."""
        return _native.TrellisCode(self.memory, state_values(self.memory), _bits_of_strip(self.rate))

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """Distinct values in ascending order, float32."""
        return np.unique(state_values(self.memory))

    @property
    def valid(self) -> np.ndarray:
        """Every code stands for a number."""
        return np.ones(256, dtype=bool)

    @property
    def code_of_level(self) -> np.ndarray:
        """The kernels write codes as they are."""
        return np.arange(256, dtype=np.uint8)

    level_of_code = code_of_level

    def row_bits(self, rows: int) -> np.ndarray:
        """Bits, uint8 (rows,), that the codes of each row of a matrix take.

        Examples
        --------
        >>> Trellis(2.25).row_bits(8).tolist()
        [2, 2, 2, 3, 2, 2, 2, 3]
        """
        height = math.ceil(rows / max(1, math.ceil(rows / TALLEST)))
        return _bits_of_strip(self.rate)[np.arange(rows) % max(height, 1)]

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
        _native.trellis_encode(matrix, self.native, codes)
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
        _native.trellis_decode(codes, self.native, values)
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


@functools.cache
def _bits_of_strip(rate: Fraction) -> np.ndarray:
    """Bits of each row of the tallest strip, uint8."""
    whole = [math.floor(rate * r) for r in range(TALLEST + 1)]
    return np.diff(whole).astype(np.uint8)


@functools.cache
def state_values(memory: int) -> np.ndarray:
    """Value, float32 (2^memory,), of each state: quantiles of the normal distribution in a scrambled order.

    The newest bits of a state, upside down, are the highest of its rank among the quantiles, and each bit is flipped or
    not by a hash of all older ones. So the values that a row can choose from always lie evenly spread, whatever the
    rows above and however many bits it has, and different pasts offer different ones.
    """
    states = np.arange(1 << memory, dtype=np.uint64)
    rank = np.zeros_like(states)
    for i in range(memory):
        older = states >> np.uint64(i + 1)
        flip = np.where(older > 0, _hash(older * np.uint64(2654435761) + np.uint64(i * 40503 + 1)) >> np.uint64(31), 0)
        rank |= (((states >> np.uint64(i)) ^ flip.astype(np.uint64)) & np.uint64(1)) << np.uint64(memory - 1 - i)
    inverse = NormalDist().inv_cdf
    quantiles = np.array([inverse((i + 0.5) / (1 << memory)) for i in range(1 << memory)])
    # Rounded so far that no difference in the last digit of a logarithm can show.
    values: np.ndarray = (np.round(quantiles * 1024) / 1024).astype(np.float32)[rank.astype(np.int64)]
    return values


def _hash(x: np.ndarray) -> np.ndarray:
    """32 bits in which every bit of x has a part."""
    word = np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & word
    return x ^ (x >> np.uint64(16))
