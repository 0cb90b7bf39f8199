"""Reshaping: levels dense near zero and wide at the tails, by a power, for weights that are bell-shaped.

A power p below 1 spreads small weights: t = sign(w) |w|^p is rounded to even steps and taken back by the
power 1/p. That is the same as rounding w itself to the levels sign(v) |v|^(1/p), v the levels of the grid, so
all that changes is the grid, and every solver, range estimator and kernel goes on as before.

Yang, Wang, Jiao and Huo (2025), arXiv:2510.04044, search the range on transformed weights. Their transform
could not be read; the power, and counting the error where the weights are and not where they were transformed
to, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tercile.quantization.grids import Grid, codebook
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges.estimators import RangeEstimator, _checked, _checked_importance
from tercile.quantization.ranges.golden_section import golden_section
from tercile.quantization.scheme import Scheme

#: Powers that are tried; 1 leaves the grid as it is.
POWERS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def reshaped(
    values: np.ndarray,
    scheme: Scheme,
    importance: np.ndarray | None = None,
    *,
    ranges: RangeEstimator = golden_section,
    powers: Sequence[float] = POWERS,
) -> Scheme:
    """The scheme with its grid bent by the power that gives this tensor the least squared rounding error.

    Parameters
    ----------
    values
        Float tensor of any shape; finite.
    scheme
        Symmetric; its grid has 2 to 256 codes.
    importance
        Optional float (columns,): weight of each column's error.
    ranges
        Finds the scales under each power.
    powers
        Candidates, above 0 and at most 1.

    Returns
    -------
    Scheme of as many codes, with a codebook grid, or the scheme itself where no power below 1 is better. A
    code book needs a look-up when it is decoded; integer arithmetic on the codes is no longer possible.

    Raises
    ------
    ValueError
        If the scheme is asymmetric, a power is out of range, or values are empty or not finite.

    Notes
    -----
    Costs one search of the range for each power.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> x = np.random.default_rng(0).uniform(-1, 1, size=(4, 1024)).astype(np.float32)
    >>> reshaped(x, Scheme.parse("int3-channel")).spelling
    'int3-channel'
    >>> [round(v, 2) for v in reshaped(x**3, Scheme.parse("int3-channel")).grid.table[4:]]
    [0.0, 0.21, 0.46, 0.73]
    """
    if scheme.asymmetric:
        raise ValueError(f"scheme {scheme.spelling!r} has a zero point; a bent grid needs zero in its middle")
    matrix = _checked(values)
    weight = np.float64(1) if importance is None else _checked_importance(importance, matrix.shape)
    best, least = scheme, np.inf
    for power in powers:
        candidate = scheme if power == 1 else replace(scheme, grid=bent(scheme.scalar_grid, power))
        stored = QTensor.quantize(matrix, candidate, ranges(matrix, candidate, importance)).dequantize()
        error = float((np.square(matrix - stored, dtype=np.float64) * weight).sum())
        if error < least:
            best, least = candidate, error
    return best


def bent(grid: Grid, power: float) -> Grid:
    """The grid with each level v moved to sign(v) |v|^(1/power), the furthest at -1 or 1.

    >>> from tercile.quantization.grids import integer
    >>> bent(integer(2), 0.5).levels.tolist()
    [-1.0, -0.25, 0.0, 0.25]
    """
    if not 0 < power <= 1:
        raise ValueError(f"power must be above 0 and at most 1, got {power}")
    levels = grid.levels.astype(np.float64) / np.abs(grid.levels).max()
    return codebook(np.sign(levels) * np.abs(levels) ** (1 / power))
