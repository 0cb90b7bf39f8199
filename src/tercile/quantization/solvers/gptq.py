"""GPTQ: round a weight column by column, each error made good by the columns still to come.

Frantar, Ashkboos, Hoefler and Alistarh (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", Algorithm 1.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from tercile import _native
from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.round_to_nearest import checked_weight
from tercile.quantization.statistics import Statistics

# Columns rounded before the rest is updated by one matrix product: the paper's B.
BLOCK = 128


def gptq(
    weight: np.ndarray,
    statistics: Statistics,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    activation_order: bool = True,
    damping: float = 0.01,
) -> QTensor:
    """Minimises the layer's output error tr((W - Q) H (W - Q)') greedily, H = X'X / n, for any scalar scheme.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    statistics
        Of the layer's inputs, with second moment; as many channels as the weight has columns.
    scheme
        How to store it.
    ranges
        Estimates the scales, from the weight as it is and the second moment's diagonal as importance.
    activation_order
        Take the columns in order of falling second moment, so that the inputs that matter most are rounded first.
    damping
        Share of the mean diagonal that is added to the diagonal. If the matrix still can't be factored, ten times as
        much is tried, up to ten times the diagonal itself; inputs that were never seen get a diagonal of their own.

    Returns
    -------
    QTensor on the scheme's grid; the same for the same input, on any number of threads.

    Raises
    ------
    ValueError
        If weight is empty or not finite, or statistics do not fit it.

    Notes
    -----
    Costs inputs^3 / 3 for each of a factorisation and an inversion in float64, and outputs * inputs^2 for the updates.
    The column loop is native and threaded; scales are read by group, so every kind of blocks costs the same.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import output_error, round_to_nearest
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(8, 32)), rng.normal(size=(200, 32)) @ rng.normal(size=(32, 32))
    >>> seen, scheme = Statistics(32), Scheme.parse("int3-g16")
    >>> seen.update(x)
    >>> plain = output_error(w, round_to_nearest(w, seen, scheme), seen)
    >>> bool(output_error(w, gptq(w, seen, scheme), seen) < 0.7 * plain)
    True
    """
    matrix = checked_weight(weight)
    rows, columns = matrix.shape
    if statistics.channels != columns:
        raise ValueError(f"statistics are of {statistics.channels} inputs, the weight has {columns} columns")
    if not damping > 0:
        raise ValueError(f"damping must be above 0, got {damping}; the usual value is 0.01")
    hessian = statistics.second_moment
    importance = np.diagonal(hessian).copy()
    chosen = ranges(matrix, scheme, importance if importance.any() else None)

    order = np.argsort(-importance, kind="stable") if activation_order else np.arange(columns)
    factor = inverse_factor(hessian[np.ix_(order, order)], damping)
    remaining = np.ascontiguousarray(matrix[:, order])
    group_of = scheme.blocks.column_of(columns)[order]
    row_of = scheme.blocks.row_of(rows)
    scale, offset = np.ascontiguousarray(chosen.scale[row_of]), np.ascontiguousarray(chosen.offset[row_of])

    index = np.empty((rows, columns), dtype=np.uint8)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        current = np.ascontiguousarray(remaining[:, start:stop])
        error, level = np.empty_like(current), np.empty(current.shape, dtype=np.uint8)
        corner = np.ascontiguousarray(factor[start:stop, start:stop])
        _native.solve_columns(current, corner, scale, offset, group_of[start:stop], scheme.grid.native, error, level)
        index[:, start:stop] = level
        remaining[:, stop:] -= error @ factor[start:stop, stop:]
    codes = np.empty_like(index)
    codes[:, order] = scheme.grid.code_of_level[index]
    return QTensor.from_codes(codes, np.shape(weight), scheme, chosen)


def inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Upper U, float32, with U'U = (H + damping)^-1, by one factorisation and one triangular inversion.

    Reversing rows and columns of H turns its lower Cholesky factor into an upper one, H = V V', and then U = V^-1.

    Raises
    ------
    ValueError
        If H is not finite, or stays indefinite under ten times its own diagonal.
    """
    if not np.isfinite(hessian).all():
        raise ValueError("the second moment holds NaN or infinity; gather the statistics again in float32")
    size = len(hessian)
    diagonal = np.diagonal(hessian).astype(np.float64)
    unseen = diagonal <= 0
    unit = float(diagonal[~unseen].mean()) if not unseen.all() else 1.0
    # Reversed on both axes and read as Fortran order: symmetric, so no copy changes its meaning.
    reverse = np.array(hessian[::-1, ::-1], dtype=np.float64, order="F")
    at = np.arange(size)
    reverse[at, at] = np.where(unseen, unit, diagonal)[::-1]
    share = damping
    while share <= 10:
        damped = reverse.copy(order="F")
        damped[at, at] += share * unit
        lower, failed = lapack.dpotrf(damped, lower=1, overwrite_a=1, clean=1)
        if not failed:
            inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
            return np.ascontiguousarray(inverse[::-1, ::-1], dtype=np.float32)
        share *= 10
    raise ValueError("the second moment is not positive even with ten times its diagonal added; it is not an X'X")
