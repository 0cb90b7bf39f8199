"""Vector grids: two weights of a column share a codeword, which loses less than rounding each by itself.

Among vector quantizers of pairs this is the one of least squared error for normal values (Linde, Buzo, Gray 1980), as
Lee and Song 2025 ("Q-Palette", arXiv:2509.20214, section 3) use it beside trellis codes: it loses more than they do and
is decoded by one look-up, with nothing carried from row to row.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from typing import Any

import numpy as np

from tercile import _native
from tercile.quantization.grids.column_grid import ColumnGrid, bits_of_strip, checked_rate


@dataclass(frozen=True)
class Pairs(ColumnGrid):
    """A grid of pairs of values, for normal values of variance 1.

    Parameters
    ----------
    rate
        Bits for a weight, a multiple of 1/2 from 1 to 4. Rows 2k and 2k + 1 of a column share a codeword of twice that.

    Raises
    ------
    ValueError
        If rate is out of range.

    Notes
    -----
    Encoding looks at all 4^rate codewords for each pair. Of the variance of normal values 0.107 is lost at 2 bits,
    where single values lose 0.117 and a trellis 0.073.

    Examples
    --------
    >>> import numpy as np
    >>> grid, x = Pairs(2.5), np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    >>> codes = grid.encode(x)
    >>> grid.row_bits(4).tolist(), bool(((grid.decode(codes) - x) ** 2).mean() < 0.065)
    ([2, 3, 2, 3], True)
    """

    rate: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", checked_rate(self.rate, 2, 1, 4, "grid of pairs"))

    def __reduce__(self) -> tuple[type[Pairs], tuple[Fraction]]:
        # Copies and pickles are made anew: what is cached for the kernels stays in its process.
        return Pairs, (self.rate,)

    @property
    def spelling(self) -> str:
        """Such as ``pairs2`` or ``pairs2.5``."""
        return f"pairs{float(self.rate):g}"

    def height(self, rows: int) -> int:
        """Rows of each strip: even, so that pairs are cut apart at the end of the matrix only."""
        height = super().height(rows)
        return height + height % 2

    @functools.cached_property
    def native(self) -> Any:
        """The grid as the compiled kernels take it, a `_native.ColumnCode`."""
        return _native.PairCode(codewords(int(2 * self.rate)), bits_of_strip(self.rate))

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """Distinct values in ascending order, float32."""
        return np.unique(codewords(int(2 * self.rate)))


@functools.cache
def codewords(bits: int) -> np.ndarray:
    """Pairs of values, float32 (2^bits, 2), by their number; made by `make_pairs`."""
    with files(__package__).joinpath("pairs.npz").open("rb") as file, np.load(file, allow_pickle=False) as made:
        return np.ascontiguousarray(made[str(bits)])
