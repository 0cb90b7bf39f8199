"""Coordinate descent: rounds every weight anew, the others being as they are, after whatever solver.

Behdin, Acharya, Gupta, Song, Zhu, Keerthi and Mazumder (2023), "QuantEase: Optimization-based Quantization for Language
Models", use it from the start; here it takes up what a solver left.
"""

from __future__ import annotations

import numpy as np

from tercile import _native
from tercile.quantization.qtensor import QTensor
from tercile.quantization.solvers.gptq import check_damping
from tercile.quantization.solvers.round_to_nearest import check_channels, check_shape, checked_weight
from tercile.quantization.statistics import Statistics


def coordinate_descent(
    weight: np.ndarray, quantized: QTensor, statistics: Statistics, *, sweeps: int = 2, damping: float = 0.01
) -> QTensor:
    """A quantized weight with better codes under the same scales: never more error in the damped H-norm.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite: what `quantized` stands for.
    quantized
        What any solver made of it.
    statistics
        Of the layer's inputs, with second moment H.
    sweeps
        How often every weight is looked at, from the input of the largest second moment to that of the smallest.
    damping
        Share of the mean diagonal of H that is added to its diagonal, as in `gptq`.

    Raises
    ------
    ValueError
        If weight, quantized and statistics do not fit each other, or a number is out of range.

    Notes
    -----
    A weight goes to the level nearest to w + sum over the other inputs of e_q H_pq / H_pp, where e is w minus what is
    stored: each step lowers tr(e H e'), as far as one weight can. A sweep costs outputs * inputs^2, twice the column
    loop of `gptq`, in native threaded code.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import gptq, output_error
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(8, 32)), rng.normal(size=(200, 32)) @ rng.normal(size=(32, 32))
    >>> seen = Statistics(32)
    >>> seen.update(x)
    >>> first = gptq(w, seen, Scheme.parse("int2-g16"))
    >>> bool(output_error(w, coordinate_descent(w, first, seen), seen) < 0.95 * output_error(w, first, seen))
    True
    """
    matrix = checked_weight(weight)
    check_channels(statistics, matrix)
    check_shape(quantized, weight)
    check_damping(damping)
    if sweeps < 0:
        raise ValueError(f"sweeps must be at least 0, got {sweeps}")
    scheme, ranges = quantized.scheme, quantized.ranges
    hessian = statistics.second_moment
    if not np.isfinite(hessian).all():
        raise ValueError("the second moment holds NaN or infinity; gather the statistics again in float32")
    diagonal = np.diagonal(hessian).astype(np.float64)
    seen = diagonal > 0
    unit = float(diagonal[seen].mean()) if seen.any() else 1.0
    order = np.argsort(-diagonal, kind="stable")[::-1]  # the native loop starts at the last
    hessian = (hessian[np.ix_(order, order)] / unit).astype(np.float32)
    at = np.arange(len(order))
    hessian[at, at] = (np.where(seen, diagonal / unit, 1.0) + damping)[order]

    row_of = scheme.blocks.row_of(len(matrix))
    index = np.ascontiguousarray(scheme.grid.level_of_code[quantized.codes].T[order])
    _native.descend_columns(
        np.ascontiguousarray(matrix.T)[order],
        hessian,
        np.ascontiguousarray(ranges.scale[row_of].T),
        np.ascontiguousarray(ranges.offset[row_of].T),
        scheme.blocks.column_of(len(order))[order],
        scheme.grid.native,
        sweeps,
        index,
    )
    codes = np.empty_like(index)
    codes[order] = scheme.grid.code_of_level[index]
    return QTensor.from_codes(np.ascontiguousarray(codes.T), np.shape(weight), scheme, ranges)
