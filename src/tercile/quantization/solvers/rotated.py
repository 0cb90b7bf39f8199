"""The basis of schemes that store a rotated weight: the problem is put into it, and solved there.

With W' = W R' and x' = R x the layer's output is the same, and so is its error
tr((W' - Q') H' (W' - Q')') with H' = R H R'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.hadamard import rotate
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme
from tercile.quantization.statistics import Statistics

Solve = Callable[..., QTensor]


def solve_rotated(
    solve: Solve, weight: np.ndarray, statistics: Statistics | None, scheme: Scheme, *more: Any, **options: Any
) -> QTensor:
    """What a solver makes of the rotated weight, as a tensor of the weight's own shape and basis.

    Parameters
    ----------
    solve
        (weight, statistics, scheme, ...) -> QTensor, for schemes that are not rotated.
    weight
        Float tensor (outputs, inputs...), already checked.
    statistics
        With second moment, or None.
    scheme
        Rotated.
    more, options
        Passed on.
    """
    matrix = rotate(np.asarray(weight, dtype=np.float32).reshape(as_matrix(np.shape(weight))))
    seen = None if statistics is None else statistics.rotated()
    inner = solve(matrix, seen, scheme.unrotated, *more, **options)
    return QTensor(scheme, tuple(np.shape(weight)), inner.words, inner.arrays)


def improve_rotated(
    improve: Solve, weight: np.ndarray, quantized: QTensor, statistics: Statistics, **options: Any
) -> QTensor:
    """The same for what takes up a quantized weight: improve(weight, quantized, statistics, ...) -> QTensor."""
    scheme = quantized.scheme
    matrix = rotate(np.asarray(weight, dtype=np.float32).reshape(as_matrix(quantized.shape)))
    begun = QTensor(scheme.unrotated, matrix.shape, quantized.words, quantized.arrays)
    inner = improve(matrix, begun, statistics.rotated(), **options)
    return QTensor(scheme, quantized.shape, inner.words, inner.arrays)
