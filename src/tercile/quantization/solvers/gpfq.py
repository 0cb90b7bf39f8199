"""GPFQ: round a weight input by input, so that the layer's output never strays far from the original's path.

Zhang, Zhou and Saab (2022), "Post-training Quantization for Neural Networks with Provable Guarantees",
arXiv:2201.11113. After t inputs the output is off by u_t = sum_{s <= t} (w_s x_s - q_s x~_s), x~ being what the layer
reads once earlier layers are quantized; each q_t is the value of the grid that keeps u_t shortest:

    q_t = nearest to <x~_t, u_{t-1} + w_t x_t> / |x~_t|^2.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from tercile import _native
from tercile.quantization.cross_moment import CrossMoment
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.round_to_nearest import check_channels, checked_weight
from tercile.quantization.solvers.thresholds import Rounding
from tercile.quantization.statistics import Statistics


def gpfq(
    weight: np.ndarray,
    statistics: Statistics,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    original: CrossMoment | None = None,
    rounding: Rounding | None = None,
    activation_order: bool = True,
    damping: float = 0.01,
) -> QTensor:
    """Greedy path following, for any scalar scheme: linear layers, and convolutions on their patches.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    statistics
        Of the inputs that the layer reads now, with second moment G = X~'X~ / n.
    scheme, ranges
        How to store it, and what estimates the scales; the mean square of each input is its importance.
    original
        The moment C = X~'X / n with the inputs that it read in the original network; by default they are the same.
    rounding
        `soft_threshold` or `hard_threshold`, for sparse codes; by default to nearest. Inputs that were never seen are
        rounded so too.
    activation_order
        Take the inputs in order of falling second moment, not as they come: what the first leave behind is made good
        by many others.
    damping
        Share of the mean diagonal of G added to its diagonal, as in `gptq`: without it an input of next to nothing may
        be given a huge weight, where the grid has one. The paper has none, 0.

    Returns
    -------
    QTensor on the scheme's grid; the same for the same input, on any number of threads.

    Raises
    ------
    ValueError
        If weight is empty or not finite, statistics or original do not fit it, or rounding needs a zero that the grid
        does not have.

    Notes
    -----
    With the moments instead of the inputs, q_t = nearest to (sum_{s <= t} C_ts w_s - sum_{s < t} G_ts q_s) / G_tt. If
    v solves tril(G) v = tril(C) w, this is the place v_t + sum_{s < t} G_ts (v_s - q_s) / G_tt: the column loop of
    `gptq` with G itself in place of its factor, and no factorisation. It looks back only, where `gptq` also knows what
    later inputs can make good; its error bound needs no more than that inputs are many (theorem 2 of the paper).

    Costs outputs * inputs^2 / 2 in native threaded code, and as much again with `original`.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import output_error, round_to_nearest
    >>> rng = np.random.default_rng(0)
    >>> w, seen = rng.normal(size=(8, 256)), Statistics(256)
    >>> seen.update(rng.normal(size=(32, 256)))
    >>> scheme = Scheme.parse("ternary-channel")
    >>> plain = output_error(w, round_to_nearest(w, seen, scheme), seen)
    >>> bool(output_error(w, gpfq(w, seen, scheme), seen) < 0.4 * plain)
    True
    """
    matrix = checked_weight(weight)
    rows, columns = matrix.shape
    check_channels(statistics, matrix)
    if not 0 <= damping < np.inf:
        raise ValueError(f"damping must be at least 0 and finite, got {damping}; the usual value is 0.01")
    grid = scheme.scalar_grid.native
    if rounding is not None:
        grid = _native.GridLevels(scheme.grid.levels, rounding(scheme.scalar_grid))
    gram = statistics.second_moment
    if not np.isfinite(gram).all():
        raise ValueError("the second moment holds NaN or infinity; gather the statistics again in float32")
    diagonal = np.diagonal(gram).astype(np.float64)
    seen = diagonal > 0
    unit = float(diagonal[seen].mean()) if seen.any() else 1.0

    # The native loop takes columns from the last to the first.
    order = np.argsort(-diagonal, kind="stable")[::-1] if activation_order else np.arange(columns)[::-1]
    gram = (gram[np.ix_(order, order)].astype(np.float64) / unit).astype(np.float32)
    target, apart = np.ascontiguousarray(matrix.T)[order], None
    if original is not None:
        apart = _apart(gram, original, order, unit)
    pivots = (np.where(seen, diagonal / unit, 1.0) + damping)[order]
    # An input of next to nothing could be asked for a multiple of itself beyond float32; it cannot give that anyhow.
    gram[np.arange(columns), np.arange(columns)] = np.maximum(pivots, 1e-12)
    if apart is not None:
        apart[~seen[order]] = 0  # what is not seen now cannot follow anything
        # As a difference from w, so that equal inputs change nothing: tril(G) (v - w) = tril(C - G) w. Inputs that
        # were dealt with before stand after, in the loop's order, so lower triangles are upper ones here.
        change = solve_triangular(np.triu(gram).astype(np.float64), apart @ target.astype(np.float64))
        target = (target + change).astype(np.float32)
    importance = statistics.mean_square
    chosen = ranges(matrix, scheme, importance if importance.any() else None)
    row_of = scheme.blocks.row_of(rows)
    index = np.empty((columns, rows), dtype=np.uint8)
    _native.solve_columns(
        target,
        gram,
        np.ascontiguousarray(chosen.scale[row_of].T),
        np.ascontiguousarray(chosen.offset[row_of].T),
        scheme.blocks.column_of(columns)[order],
        grid,
        index,
    )
    codes = np.empty_like(index)
    codes[order] = scheme.grid.code_of_level[index]
    return QTensor.from_codes(np.ascontiguousarray(codes.T), np.shape(weight), scheme, chosen)


def _apart(gram: np.ndarray, original: CrossMoment, order: np.ndarray, unit: float) -> np.ndarray:
    """tril(C - G) in the loop's order, both over unit."""
    if original.channels != len(order):
        raise ValueError(
            f"original is of {original.channels} inputs, but weight has {len(order)} columns; "
            "gather it on this layer's own inputs"
        )
    cross = original.value[np.ix_(order, order)].astype(np.float64) / unit
    if not np.isfinite(cross).all():
        raise ValueError("original holds NaN or infinity; gather it again in float32")
    return np.triu(cross - gram)
