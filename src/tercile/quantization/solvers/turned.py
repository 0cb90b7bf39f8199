"""Schemes that store a weight in another basis: the problem is put into it, and solved there.

With W' = W R' and x' = R x the layer's output is the same, and so is its error tr((W' - Q') H' (W' - Q')') with
H' = R H R'. The order of the rows does not enter: each has an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tercile.quantization.basis import into_basis
from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme
from tercile.quantization.statistics import Statistics

Solve = Callable[..., QTensor]


def solve_turned(
    solve: Solve, weight: np.ndarray, statistics: Statistics | None, scheme: Scheme, *more: Any, **options: Any
) -> QTensor:
    """What a solver makes of the weight in the scheme's basis, as a tensor of the weight's own shape.

    Parameters
    ----------
    solve
        (weight, statistics, scheme, ...) -> QTensor, for schemes that turn nothing.
    weight
        Float tensor (outputs, inputs...), already checked.
    statistics
        With second moment, or None.
    scheme
        Turned.
    more, options
        Passed on.
    """
    matrix = into_basis(np.asarray(weight, dtype=np.float32).reshape(as_matrix(np.shape(weight))), scheme)
    seen = statistics.rotated() if statistics is not None and scheme.rotated else statistics
    inner = solve(matrix, seen, scheme.inner, *more, **options)
    return QTensor(scheme, tuple(np.shape(weight)), inner.words, inner.arrays)


def improve_turned(
    improve: Solve, weight: np.ndarray, quantized: QTensor, statistics: Statistics, **options: Any
) -> QTensor:
    """The same for what takes up a quantized weight: improve(weight, quantized, statistics, ...) -> QTensor."""
    scheme = quantized.scheme
    matrix = into_basis(np.asarray(weight, dtype=np.float32).reshape(as_matrix(quantized.shape)), scheme)
    begun = QTensor(scheme.inner, matrix.shape, quantized.words, quantized.arrays)
    seen = statistics.rotated() if scheme.rotated else statistics
    inner = improve(matrix, begun, seen, **options)
    return QTensor(scheme, quantized.shape, inner.words, inner.arrays)
