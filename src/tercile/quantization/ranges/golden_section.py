"""Range by golden section: near its best, the rounding error is convex in the range; few tries find it.

Yang, Wang, Jiao and Huo (2025), "Quantization Range Estimation for Convolutional Neural Networks",
arXiv:2510.04044: the error of a layer as a function of its range is locally convex, and a search that uses it
replaces a fine grid. What is inside the range is rounded, which costs more the wider it is; what is outside
is clipped, which costs less.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tercile import _native
from tercile.quantization.ranges.estimators import _to_scale, searched
from tercile.quantization.scheme import Ranges, Scheme

# Fractions of the min-max range that are tried first: far enough down for a block with one huge outlier,
# close enough together that the piece between two neighbours of the best is convex but for the kinks of
# rounding.
COARSE = np.concatenate([np.geomspace(1 / 128, 1 / 4, 8)[:-1], np.linspace(1 / 4, 1, 17)])
STEPS = 10
#: Roundings of each value for one sign of a symmetric scheme: coarse tries, two first inner points, steps.
EVALUATIONS = len(COARSE) + 2 + STEPS
_SHRINK = (5**0.5 - 1) / 2

Errors = Callable[[np.ndarray], np.ndarray]


def golden_section(values: np.ndarray, scheme: Scheme, importance: np.ndarray | None = None) -> Ranges:
    """The range of least squared rounding error in each block, found on the convex piece around the best.

    A coarse look over all ranges finds the piece (there may be several where weights have far outliers),
    golden section narrows it down, and the best range that was seen is returned. Asymmetric schemes shrink
    both ends together first, then each by itself.

    Parameters
    ----------
    values
        Float tensor of any shape; finite.
    scheme
        How it will be stored: any grid, any blocks.
    importance
        Optional float (columns,), not negative: weight of each column's error.

    Raises
    ------
    ValueError
        If values are empty or not finite, or a scale does not fit the scheme's scale format.

    Notes
    -----
    Costs `EVALUATIONS` (36) roundings of each value; twice that for grids that are not their own mirror
    image, where both signs of the scale are tried, and three times for asymmetric schemes. The range is
    found to within a thousandth of the min-max range.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.ranges import min_max
    >>> x = np.random.default_rng(0).normal(size=(1, 4096)).astype(np.float32)
    >>> scheme = Scheme.parse("int4-tensor-f32")
    >>> bool(abs(golden_section(x, scheme).scale[0, 0]) < 0.8 * min_max(x, scheme).scale[0, 0])
    True
    """
    return searched(values, scheme, importance, _search)


def _search(
    block: np.ndarray, weight: np.ndarray | None, low: np.ndarray, high: np.ndarray, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Best scale and offset of each row of `block`."""
    unweighted = np.empty((0, 0), dtype=np.float32) if weight is None else weight

    def to_scale(below: np.ndarray, above: np.ndarray, backward: bool) -> tuple[np.ndarray, np.ndarray]:
        below, above = np.broadcast_arrays(below, above)
        lower, upper = (low[:, None] * below).astype(np.float32), (high[:, None] * above).astype(np.float32)
        scale, offset = _to_scale(-upper, -lower, scheme) if backward else _to_scale(lower, upper, scheme)
        scale = -scale if backward else scale
        if not scheme.scale_format.elementwise:
            return scale, offset
        stored = scheme.ranges(scale, offset if scheme.asymmetric else None)
        return stored.scale, stored.offset

    def error(below: np.ndarray, above: np.ndarray, backward: bool) -> np.ndarray:
        scale, offset = to_scale(below, above, backward)
        errors = np.empty(scale.shape, dtype=np.float32)
        _native.range_errors(block, unweighted, scale, offset, scheme.scalar_grid.native, errors)
        return errors

    def along(way: bool, below: np.ndarray | None = None, above: np.ndarray | None = None) -> Errors:
        """Errors as a function of the ends that are not given."""
        return lambda one: error(one if below is None else below, one if above is None else above, way)

    # Two's complement reaches further below zero than above, so a negative scale is a different range.
    levels = scheme.grid.levels
    mirrored = np.array_equal(levels, -levels[::-1])
    lopsided = not mirrored and not scheme.asymmetric and scheme.scale_format.signed
    tried = []
    for way in (False, True) if lopsided else (False,):
        below = above = line_search(along(way), len(block))[0]
        if scheme.asymmetric:
            below = line_search(along(way, above=above), len(block))[0]
            above = line_search(along(way, below=below), len(block))[0]
        tried.append((error(below, above, way), *to_scale(below, above, way)))
    errors, scales, offsets = (np.concatenate(parts, axis=1) for parts in zip(*tried))
    pick = np.arange(len(block)), errors.argmin(axis=1)
    return scales[pick], offsets[pick]


def line_search(errors: Errors, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Best fraction in (0, 1] for each of `count` functions at once, and its error, both (count, 1).

    Parameters
    ----------
    errors
        Fractions (count, tries) -> errors of the same shape.
    """
    tries = np.broadcast_to(COARSE, (count, len(COARSE)))
    seen = errors(tries)
    at = seen.argmin(axis=1)[:, None]
    best, least = COARSE[at], np.take_along_axis(seen, at, axis=1)
    a, b = COARSE[np.maximum(at - 1, 0)], COARSE[np.minimum(at + 1, len(COARSE) - 1)]
    # a < c < d < b, where c and d cut [a, b] so that one of them is a cut of the shorter piece too.
    c, d = b - _SHRINK * (b - a), a + _SHRINK * (b - a)
    error_c, error_d = errors(c), errors(d)
    for tried, its_error in ((c, error_c), (d, error_d)):
        best, least = np.where(its_error < least, tried, best), np.minimum(its_error, least)
    for _ in range(STEPS):
        left = error_c < error_d
        a, b = np.where(left, a, c), np.where(left, d, b)
        new = np.where(left, b - _SHRINK * (b - a), a + _SHRINK * (b - a))
        error_new = errors(new)
        c, d = np.where(left, new, d), np.where(left, c, new)
        error_c, error_d = np.where(left, error_new, error_d), np.where(left, error_c, error_new)
        best, least = np.where(error_new < least, new, best), np.minimum(error_new, least)
    return best, least
