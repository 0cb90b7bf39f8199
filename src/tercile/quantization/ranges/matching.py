"""Scales that give each block the variance that a grid for whole columns is made for."""

from __future__ import annotations

import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.grids import ColumnGrid
from tercile.quantization.scheme import Ranges, Scheme


def matched(values: np.ndarray, scheme: Scheme) -> Ranges:
    """Root mean square of each block times the best scale for normal values; for grids that round whole columns.

    A search for the least error would have to encode for each scale that it tries. Near the best the error hardly
    changes: 5% off costs 1% of it.

    Raises
    ------
    ValueError
        If values are empty or not finite.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(1, 4096)).astype(np.float32)
    >>> bool(abs(matched(x, Scheme.parse("trellis2-channel")).scale[0, 0] - 1.02) < 0.03)
    True
    """
    matrix = np.ascontiguousarray(values, dtype=np.float32).reshape(as_matrix(np.shape(values)))
    if matrix.size == 0:
        raise ValueError(f"values are empty (shape {np.shape(values)}); there is no range to estimate")
    if not np.isfinite(matrix).all():
        raise ValueError("values hold NaN or infinity; a range needs finite numbers")
    scale = np.zeros(scheme.blocks.count(matrix.shape), dtype=np.float32)
    for rows, columns, block in scheme.blocks.pieces(matrix):
        largest = np.abs(block).max(axis=1, keepdims=True)  # squares of large values would overflow
        relative = np.divide(block, largest, out=np.zeros_like(block), where=largest > 0)
        size = largest[:, 0] * np.sqrt(np.square(relative).mean(axis=1))
        scale[rows, columns] = size.reshape(scale[rows, columns].shape)
    assert isinstance(scheme.grid, ColumnGrid)
    return scheme.ranges(scale * np.float32(scheme.grid.best_scale))
