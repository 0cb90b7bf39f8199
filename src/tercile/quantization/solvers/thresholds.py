"""Thresholds: rounding that sends small values to zero, for sparse codes on any grid that holds a zero.

Zhang, Zhou and Saab (2022), "Post-training Quantization for Neural Networks with Provable Guarantees",
arXiv:2201.11113, round the soft-thresholded value, or cut small values off.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tercile.quantization.grids import Grid

#: From a grid to the places, float32 (levels - 1,), where rounding passes from a level to the next.
Rounding = Callable[[Grid], np.ndarray]


def soft_threshold(size: float) -> Rounding:
    """Rounds sign(x) max(|x| - size, 0) to nearest: every value loses `size` first, as by a penalty on its magnitude.

    Parameters
    ----------
    size
        At least 0, in units of the grid: on an integer grid, 1 is a step.

    Examples
    --------
    >>> from tercile.quantization.grids import integer
    >>> soft_threshold(0.25)(integer(2)).tolist()
    [-1.75, -0.75, 0.75]
    """
    _check(size)
    return lambda grid: _away(grid) + np.sign(_away(grid)) * np.float32(size)


def hard_threshold(size: float) -> Rounding:
    """Rounds |x| <= size to zero and everything else to the nearest level.

    The paper's hard alphabet, 0 and +-(size + k step), is this on a code book of those values.

    Parameters
    ----------
    size
        At least 0, in units of the grid.

    Examples
    --------
    >>> from tercile.quantization.grids import integer
    >>> hard_threshold(0.75)(integer(2)).tolist()
    [-1.5, -0.75, 0.75]
    """
    _check(size)
    return lambda grid: np.sign(_away(grid)) * np.maximum(np.abs(_away(grid)), np.float32(size))


def _away(grid: Grid) -> np.ndarray:
    """Half-way points of the grid: none is zero, because zero is a level."""
    levels = grid.levels
    if not (levels == 0).any():
        raise ValueError(f"grid {grid.spelling!r} has no zero to send small values to; take one that has, such as int2")
    middles: np.ndarray = (levels[1:] / 2 + levels[:-1] / 2).astype(np.float32)
    return middles


def _check(size: float) -> None:
    if not 0 <= size < np.inf:
        raise ValueError(f"size of a threshold must be at least 0 and finite, got {size}")
