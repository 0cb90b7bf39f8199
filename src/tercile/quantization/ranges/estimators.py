"""Range estimators: from values and a Scheme to the scale, and zero point, of each block.

All have one signature, `(values, scheme, importance=None) -> Ranges`: values is the matrix to be stored, importance an
optional non-negative weight for each of its columns (the diagonal of a layer's second moment, for example), which only
estimators that minimise an error use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tercile import _native
from tercile.quantization.blocks import as_matrix
from tercile.quantization.scheme import Ranges, Scheme

# Lower and upper end of each row of a stack of blocks.
Bounds = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


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

    The search tries 24 fractions of the min-max range, for asymmetric schemes 12 x 12 pairs of them, then nine finer
    ones around the best. It evaluates the true rounding error, so it works for every grid.

    Parameters
    ----------
    values, scheme
        As for `min_max`.
    importance
        Optional float (columns,), not negative.

    Notes
    -----
    Costs about 35 (symmetric), 70 (symmetric integers, both signs of the scale) or 160 (asymmetric) roundings of each
    value, in native threaded code.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    >>> scheme = Scheme.parse("int3-g64")
    >>> bool(mse(x, scheme).scale[0, 0] < min_max(x, scheme).scale[0, 0])
    True
    """
    matrix = _checked(values)
    low, high = _bounds(matrix, scheme, lambda block: (block.min(axis=1), block.max(axis=1)))
    scale, offset = np.zeros_like(low), np.zeros_like(low)
    if importance is None:
        weights = itertools.repeat(None)
    else:
        spread = np.broadcast_to(_checked_importance(importance, matrix.shape), matrix.shape)
        weights = (values for _, _, values in scheme.blocks.pieces(spread))
    for (rows, columns, block), weight in zip(scheme.blocks.pieces(matrix), weights):
        lo, hi = low[rows, columns].reshape(-1), high[rows, columns].reshape(-1)
        best_scale, best_offset = _search(block, weight, lo, hi, scheme)
        scale[rows, columns] = best_scale.reshape(scale[rows, columns].shape)
        offset[rows, columns] = best_offset.reshape(scale[rows, columns].shape)
    return scheme.ranges(scale, offset if scheme.asymmetric else None)


def _search(
    block: np.ndarray, weight: np.ndarray | None, low: np.ndarray, high: np.ndarray, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Best scale and offset of each row of `block`, coarse then fine."""
    if scheme.asymmetric:
        coarse = np.linspace(0.3, 1.0, 12, dtype=np.float32)
        fractions = np.stack(np.meshgrid(coarse, coarse, indexing="ij"), -1).reshape(-1, 2)
        fine = (coarse[1] - coarse[0]) / 2 * np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)], dtype=np.float32)
    else:
        coarse = np.linspace(0.15, 1.0, 24, dtype=np.float32)
        fractions = np.stack([coarse, coarse], -1)
        fine = (coarse[1] - coarse[0]) * np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None].repeat(2, 1)
    # Two's complement reaches further below zero than above, so a negative scale is a different range.
    signs = (1.0, -1.0) if _lopsided(scheme) and scheme.scale_format.signed else (1.0,)

    def scored(fraction: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale, offset = _to_scale(low[:, None] * fraction[..., 0], high[:, None] * fraction[..., 1], scheme, sign)
        if scheme.scale_format.elementwise:
            stored = scheme.ranges(scale, offset if scheme.asymmetric else None)
            scale, offset = stored.scale, stored.offset
        error = np.empty(scale.shape, dtype=np.float32)
        none = np.empty((0, 0), dtype=np.float32)
        _native.range_errors(block, none if weight is None else weight, scale, offset, scheme.grid.native, error)
        return error, scale, offset

    pick = np.arange(len(block))
    tried = [(np.broadcast_to(fractions, (len(block), *fractions.shape)), np.float32(sign)) for sign in signs]
    results = [scored(*each) for each in tried]
    winner = np.argmin(np.stack([error.min(axis=1) for error, _, _ in results]), axis=0)
    at = np.stack([error.argmin(axis=1) for error, _, _ in results])[winner, pick]
    sign = np.asarray(signs, dtype=np.float32)[winner]
    error, scale, offset = (np.stack(parts)[winner, pick, at] for parts in zip(*results))
    refined, new_scale, new_offset = scored(fractions[at][:, None, :] + fine[None], sign[:, None])
    at = refined.argmin(axis=1)
    better = refined[pick, at] < error
    return np.where(better, new_scale[pick, at], scale), np.where(better, new_offset[pick, at], offset)


def _lopsided(scheme: Scheme) -> bool:
    return not scheme.asymmetric and float(scheme.grid.levels[0]) != -float(scheme.grid.levels[-1])


def _to_scale(
    low: np.ndarray, high: np.ndarray, scheme: Scheme, sign: np.ndarray | np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset that make the grid reach from low to high; a negative sign turns the grid round."""
    first, last = float(scheme.grid.levels[0]), float(scheme.grid.levels[-1])
    if scheme.asymmetric:
        return ((high - low) / np.float32(last - first)).astype(np.float32), low.astype(np.float32)
    forward = np.maximum(high / last, low / first) if first < 0 else high / last
    backward = np.maximum(high / -first, low / -last) if first < 0 else forward
    scale = np.where(sign > 0, forward, -backward).astype(np.float32)
    return scale, np.zeros_like(scale)


def _from_bounds(values: np.ndarray, scheme: Scheme, bounds: Bounds) -> Ranges:
    low, high = _bounds(_checked(values), scheme, bounds)
    scale, offset = _to_scale(low, high, scheme, np.float32(1))
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
    weight = np.ascontiguousarray(importance, dtype=np.float32)
    if weight.shape != (matrix[1],):
        raise ValueError(f"importance has shape {weight.shape}; it must have one number for each of {matrix[1]} columns")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("importance must be finite and not negative")
    return weight
