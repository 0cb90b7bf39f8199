"""Range estimators: from values and a Scheme to the scale, and zero point, of each block.

All have one signature, `(values, scheme, importance=None) -> Ranges`: values is the matrix to be stored, importance an
optional non-negative weight for each of its columns (the diagonal of a layer's second moment, for example), which only
estimators that minimise an error use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from tercile import _native
from tercile.quantization.blocks import as_matrix
from tercile.quantization.grids import ColumnGrid
from tercile.quantization.ranges.matching import matched
from tercile.quantization.scales import PowerOfTwo, Shifted
from tercile.quantization.scheme import Ranges, Scheme

# Lower and upper end of each row of a stack of blocks.
Bounds = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


# Scale and offset of each row of a stack of blocks, given weights and the ends of the min-max range.
Search = Callable[
    [np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, Scheme], tuple[np.ndarray, np.ndarray]
]


class RangeEstimator(Protocol):
    """What solvers take as `ranges`."""

    def __call__(self, values: np.ndarray, scheme: Scheme, importance: np.ndarray | None = None) -> Ranges: ...


def min_max(values: np.ndarray, scheme: Scheme, importance: np.ndarray | None = None) -> Ranges:
    """The smallest range that clips nothing.

    Parameters
    ----------
    values
        Float tensor of any shape; finite.
    scheme
        How it will be stored.
    importance
        Not used; here so that estimators can be exchanged.

    Raises
    ------
    ValueError
        If values are empty or not finite, or a scale does not fit the scheme's scale format.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> min_max(np.float32([[-8.0, 3.0]]), Scheme.parse("int4-channel-f32")).scale.tolist()
    [[1.0]]
    """
    return _from_bounds(values, scheme, lambda block: (block.min(axis=1), block.max(axis=1)))


def quantile(
    values: np.ndarray, scheme: Scheme, importance: np.ndarray | None = None, *, level: float = 0.999
) -> Ranges:
    """The range between the `1 - level` and `level` quantiles of each block; what lies outside is clipped.

    Parameters
    ----------
    values, scheme, importance
        As for `min_max`.
    level
        Between 0.5 and 1; 1 is min-max.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> x = np.append(np.linspace(-1, 1, 999), 100).astype(np.float32)
    >>> bool(quantile(x, Scheme.parse("int8-tensor"), level=0.99).scale[0, 0] < 0.01)
    True
    """
    if not 0.5 < level <= 1:
        raise ValueError(f"level must be above 0.5 and at most 1, got {level}")
    return _from_bounds(values, scheme, lambda block: tuple(np.quantile(block, [1 - level, level], axis=1)))


def mse(values: np.ndarray, scheme: Scheme, importance: np.ndarray | None = None) -> Ranges:
    """The range of least squared rounding error, each column weighted by its importance, by search in each block.

    The search tries fractions of the min-max range, then finer ones around the best. It evaluates the true rounding
    error, so it works for every scalar grid; a grid for whole columns gets the scales of `matched`.

    Parameters
    ----------
    values, scheme
        As for `min_max`.
    importance
        Optional float (columns,), finite, not negative. Only ratios count. Columns of no importance weigh a millionth
        of the mean, so that a block of nothing else still gets a range.

    Notes
    -----
    Costs 32 roundings of each value for asymmetric schemes, 48 for symmetric ones, and 64 for grids that are not their
    own mirror image, which are tried both ways round; in native threaded code.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    >>> scheme = Scheme.parse("int3-g64")
    >>> bool(mse(x, scheme).scale[0, 0] < min_max(x, scheme).scale[0, 0])
    True
    """
    if isinstance(scheme.grid, ColumnGrid):
        return matched(values, scheme)
    return searched(values, scheme, importance, _search_ends if scheme.asymmetric else _search_scales)


def searched(values: np.ndarray, scheme: Scheme, importance: np.ndarray | None, search: Search) -> Ranges:
    """Ranges whose scale and offset a search finds for each block, within its min-max range.

    Parameters
    ----------
    values, scheme, importance
        As for `mse`.
    search
        (blocks (n, elements), weights alike or None, lower ends (n,), upper ends (n,), scheme) -> scale, offset (n,).
    """
    matrix = _checked(values)
    low, high = _bounds(matrix, scheme, lambda block: (block.min(axis=1), block.max(axis=1)))
    scale, offset = np.zeros_like(low), np.zeros_like(low)
    if importance is None:
        weights: Iterator[np.ndarray | None] = itertools.repeat(None)
    else:
        spread = np.broadcast_to(_checked_importance(importance, matrix.shape), matrix.shape)
        weights = (piece for _, _, piece in scheme.blocks.pieces(spread))
    for (rows, columns, block), weight in zip(scheme.blocks.pieces(matrix), weights):
        lo, hi = low[rows, columns], high[rows, columns]
        best_scale, best_offset = search(block, weight, lo.reshape(-1), hi.reshape(-1), scheme)
        scale[rows, columns], offset[rows, columns] = best_scale.reshape(lo.shape), best_offset.reshape(lo.shape)
    return scheme.ranges(scale, offset if scheme.asymmetric else None)


# Stages of the search, as fractions of the min-max range and differences of fractions. Numbers of candidates that are
# multiples of 16, the best so far included, fill the lanes of the kernel.
_COARSE = np.linspace(0.1, 1.0, 16, dtype=np.float32)
_FINE = np.float32(0.06) * np.delete(np.linspace(-1, 1, 17, dtype=np.float32)[:16], 8)
_COARSE_ENDS = np.array(list(itertools.product(np.linspace(0.34, 1.0, 4), repeat=2)), dtype=np.float32)
_FINE_ENDS = np.float32(0.055) * np.array(
    [(2, 2), (2, 0), (2, -2), (0, 2), (0, -2), (-2, 2), (-2, 0), (-2, -2),
     (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1)],
    dtype=np.float32,
)  # fmt: skip
_NO_WEIGHT = np.empty((0, 0), dtype=np.float32)


def _search_scales(
    block: np.ndarray, weight: np.ndarray | None, low: np.ndarray, high: np.ndarray, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Best scale of each row of `block`; a negative one turns the grid round."""
    forward, _ = _to_scale(low, high, scheme)
    backward = np.zeros_like(forward)
    mirrored = np.array_equal(scheme.grid.levels, -scheme.grid.levels[::-1])
    if not mirrored and scheme.scale_format.signed:
        backward = -_to_scale(-high, -low, scheme)[0]
    scale = np.empty(len(block), dtype=np.float32)
    weight = _NO_WEIGHT if weight is None else weight
    _native.search_scales(block, weight, forward, backward, _COARSE, _FINE, 2, scheme.scalar_grid.native, scale)
    offset = np.zeros_like(scale)
    return _settled(block, weight, scale, offset, scheme), offset


def _search_ends(
    block: np.ndarray, weight: np.ndarray | None, low: np.ndarray, high: np.ndarray, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Best scale and offset of each row of `block`."""
    scale, offset = np.empty(len(block), dtype=np.float32), np.empty(len(block), dtype=np.float32)
    weight = _NO_WEIGHT if weight is None else weight
    whole = scheme.whole_offsets
    _native.search_ends(
        block, weight, low, high, _COARSE_ENDS, _FINE_ENDS, 1, whole, scheme.scalar_grid.native, scale, offset
    )
    return _settled(block, weight, scale, offset, scheme), offset


def _settled(
    block: np.ndarray, weight: np.ndarray, scale: np.ndarray, offset: np.ndarray, scheme: Scheme
) -> np.ndarray:
    """The scale, or its half or double in part, whichever is best once it is stored: powers of two lie far apart."""
    if isinstance(scheme.scale_format, Shifted):
        return _shifted(block, weight, scale, offset, scheme, scheme.scale_format.span)
    if not isinstance(scheme.scale_format, PowerOfTwo):
        return scale
    tried = scale[:, None] * np.array([1, 2**-0.5, 2**0.5], dtype=np.float32)
    stored = scheme.ranges(tried, np.repeat(offset[:, None], 3, axis=1) if scheme.asymmetric else None)
    error = np.empty(tried.shape, dtype=np.float32)
    _native.range_errors(block, weight, stored.scale, stored.offset, scheme.scalar_grid.native, error)
    return np.take_along_axis(stored.scale, error.argmin(axis=1)[:, None], axis=1)[:, 0]


def _shifted(
    block: np.ndarray, weight: np.ndarray, scale: np.ndarray, offset: np.ndarray, scheme: Scheme, span: int
) -> np.ndarray:
    """Scales that differ by whole shifts within a span: the base, and each shift up or down, of least error."""
    starts = np.arange(0, len(scale), span)
    spans = np.arange(len(scale)) // span
    largest = np.maximum.reduceat(scale, starts)
    bases = largest[:, None] * np.exp2(np.linspace(-0.5, 0.5, 9, dtype=np.float32))
    # As they can be stored: at least float16's smallest number, at most its largest.
    bases = np.clip(bases, 6e-8, 65504).astype(np.float16).astype(np.float32)[spans]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        depth = np.log2(bases / scale[:, None])
    depth = np.where((scale > 0)[:, None], np.clip(depth, -1, 40), 0)
    pair = np.stack([np.floor(depth), np.ceil(depth)], axis=2)
    tried = np.where((scale > 0)[:, None, None], bases[:, :, None] * np.exp2(-pair), 0).astype(np.float32)
    tried = np.where(tried > 65504, bases[:, :, None], tried)
    tried = tried.reshape(len(scale), -1)
    error = np.empty(tried.shape, dtype=np.float32)
    _native.range_errors(
        block, weight, tried, np.repeat(offset[:, None], tried.shape[1], axis=1), scheme.grid.native, error
    )
    pairs = error.reshape(len(scale), -1, 2)
    base = np.add.reduceat(pairs.min(axis=2), starts, axis=0).argmin(axis=1)[spans]
    rows = np.arange(len(scale))
    best: np.ndarray = tried.reshape(pairs.shape)[rows, base, pairs[rows, base].argmin(axis=1)]
    return best


def _to_scale(low: np.ndarray, high: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset that make the grid reach from low to high, where it has values of that sign at all."""
    first, last = np.float32(scheme.grid.levels[0]), np.float32(scheme.grid.levels[-1])
    if scheme.asymmetric:
        return high / (last - first) - low / (last - first), low
    scale = np.maximum(high / last if last > 0 else 0, low / first if first < 0 else 0)
    return scale.astype(np.float32), np.zeros_like(low)


def _from_bounds(values: np.ndarray, scheme: Scheme, bounds: Bounds) -> Ranges:
    low, high = _bounds(_checked(values), scheme, bounds)
    scale, offset = _to_scale(low, high, scheme)
    return scheme.ranges(scale, offset if scheme.asymmetric else None)


def _bounds(matrix: np.ndarray, scheme: Scheme, bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of each block, zero always within."""
    count = scheme.blocks.count(matrix.shape)
    low, high = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
    for rows, columns, block in scheme.blocks.pieces(matrix):
        below, above = bounds(block)
        low[rows, columns] = np.minimum(below, 0).reshape(low[rows, columns].shape)
        high[rows, columns] = np.maximum(above, 0).reshape(high[rows, columns].shape)
    return low, high


def _checked(values: np.ndarray) -> np.ndarray:
    matrix = np.ascontiguousarray(values, dtype=np.float32).reshape(as_matrix(np.shape(values)))
    if matrix.size == 0:
        raise ValueError(f"values are empty (shape {np.shape(values)}); there is no range to estimate")
    if not np.isfinite(matrix).all():
        raise ValueError("values hold NaN or infinity; a range needs finite numbers")
    return matrix


def _checked_importance(importance: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    weight = np.asarray(importance, dtype=np.float64)
    if weight.shape != (matrix[1],):
        raise ValueError(f"importance has shape {weight.shape}; it must have one number a column, {matrix[1]}")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("importance must be finite and not negative")
    mean = weight.mean()
    return (weight / mean + 1e-6 if mean > 0 else np.ones_like(weight)).astype(np.float32)
