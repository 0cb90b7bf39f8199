"""Trellis grids: a column of weights is rounded as one sequence, which comes close to the rate-distortion bound.

A code adds its bits to a shift register of `memory` bits, and the register's content picks the value. So a weight of
two bits has 4096 values at hand, and the search for the best sequence (Viterbi's) makes good use of them: 0.073 of the
variance of normal values is lost at 2 bits where the best scalar grid loses 0.117 and no code less than 0.0625.

The idea is trellis-coded quantization (Marcellin and Fischer 1990) with the bit-shift trellis of QTIP (Tseng et al.
2024, arXiv:2406.11235), whose decoder needs no more than the last bits of the stream, run down columns.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np

from tercile import _native
from tercile.quantization.grids.column_grid import ColumnGrid, bits_of_strip, checked_rate

MEMORY = 12
# Scale of least squared error for normal values of variance 1, by rate: with few bits the values that are stored have
# to vary less than those that they stand for, with many the tail of the table has to reach further. Measured.
RATES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
BEST = (0.90, 0.95, 1.02, 1.05, 1.07, 1.09, 1.12, 1.15)


@dataclass(frozen=True)
class Trellis(ColumnGrid):
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
        object.__setattr__(self, "rate", checked_rate(self.rate, 8, 1, 5, "trellis"))
        if isinstance(self.memory, bool) or self.memory not in range(9, 17):
            raise ValueError(f"memory of a trellis must be a whole number from 9 to 16, got {self.memory!r}")

    def __reduce__(self) -> tuple[type[Trellis], tuple[Fraction, int]]:
        # Copies and pickles are made anew: what is cached for the kernels stays in its process.
        return Trellis, (self.rate, self.memory)

    @property
    def spelling(self) -> str:
        """Such as ``trellis2`` or ``trellis2.25``, with ``m14`` at the end if memory is not 12."""
        return f"trellis{float(self.rate):g}" + (f"m{self.memory}" if self.memory != MEMORY else "")

    @property
    def best_scale(self) -> float:
        """Scale of least squared error for normal values of variance 1."""
        return float(np.interp(self.bits, RATES, BEST))

    @functools.cached_property
    def native(self) -> Any:
        """The grid as the compiled kernels take it, a `_native.ColumnCode`."""
        return _native.TrellisCode(self.memory, state_values(self.memory), bits_of_strip(self.rate))

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """Distinct values in ascending order, float32."""
        return np.unique(state_values(self.memory))


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
