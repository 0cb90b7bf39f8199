"""AdaRound: learn for every weight whether it goes up or down, all weights of a layer at once.

Nagel, Amjad, van Baalen, Louizos and Blankevoort (2020), "Up or Down? Adaptive Rounding for Post-Training
Quantization". The paper draws inputs at random and minimises the squared change of the outputs; that is
tr((W - Q) H (W - Q)') over all inputs at once, so the second moment H is all that is asked for.
"""

from __future__ import annotations

import numpy as np

from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.round_to_nearest import check_channels, checked_weight, round_to_nearest
from tercile.quantization.statistics import Statistics

# The sigmoid that a gate is read from is stretched beyond 0 and 1, so that gates reach their ends.
LOW, HIGH = -0.1, 1.1
# Adam: first step of a gate's logit, and how its two averages forget.
RATE, FIRST, SECOND, TINY = 0.1, 0.9, 0.999, 1e-12
# Gates are free for this share of the steps, then pressed to their ends by `1 - |2 gate - 1|^exponent`; how hard, in
# units of what each row loses by rounding to nearest, and from which exponent on, was found on small layers.
FREE, EXPONENTS, PRESSURE = 0.2, (8.0, 2.0), 50.0


def adaround(
    weight: np.ndarray,
    statistics: Statistics,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    steps: int = 200,
) -> QTensor:
    """Rounds every weight up or down so that the layer's outputs change little.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    statistics
        Of the layer's inputs, with second moment H.
    scheme, ranges
        How to store it, and how to find the scales, once, from the weights as they are.
    steps
        Of Adam on the gates.

    Returns
    -------
    QTensor on the scheme's grid, no row of which has more error than round-to-nearest's.

    Raises
    ------
    ValueError
        If weight is empty or not finite, statistics do not fit it, or steps is below 1.

    Notes
    -----
    A step costs 2 * outputs * inputs^2, four times the whole column loop of `gptq`: with 200 steps this is some hundred
    times slower. Its use is where the loss is not quadratic, see `tercile.quantization.training`.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import output_error
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(8, 32)), rng.normal(size=(200, 32)) @ rng.normal(size=(32, 32))
    >>> seen, scheme = Statistics(32), Scheme.parse("int3-g16")
    >>> seen.update(x)
    >>> plain = output_error(w, round_to_nearest(w, seen, scheme), seen)
    >>> bool(output_error(w, adaround(w, seen, scheme), seen) < 0.5 * plain)
    True
    """
    matrix = checked_weight(weight)
    check_channels(statistics, matrix)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    nearest = round_to_nearest(weight, statistics, scheme, ranges)
    hessian = statistics.second_moment
    if not np.isfinite(hessian).all():
        raise ValueError("the second moment holds NaN or infinity; gather the statistics again in float32")
    diagonal = np.diagonal(hessian).astype(np.float64)
    seen = diagonal > 0
    if not seen.any():
        return nearest
    hessian = (hessian / float(diagonal[seen].mean())).astype(np.float32)
    made, grid = nearest.ranges, scheme.grid
    scale = np.broadcast_to(scheme.blocks.spread(made.scale, matrix.shape), matrix.shape)
    offset = np.broadcast_to(scheme.blocks.spread(made.offset, matrix.shape), matrix.shape)
    # In units of the largest scale, so that squares neither overflow nor vanish.
    unit = np.float32(np.abs(scale).max()) or np.float32(1)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.divide(matrix - offset, scale, out=np.zeros_like(matrix), where=scale != 0)
    wanted = np.nan_to_num(wanted, posinf=grid.levels[-1], neginf=grid.levels[0])
    step = scale / unit
    below = np.clip(np.searchsorted(grid.levels, wanted, side="right") - 1, 0, len(grid.levels) - 2)
    low, gap = grid.levels[below], np.diff(grid.levels)[below]
    # Weights beyond the ends of the grid: how far beyond can be made good by others, but only within reason.
    aim = np.clip(wanted, 4 * min(grid.levels[0], -1), 4 * max(grid.levels[-1], 1))

    def error(level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Error of each row, and its gradient by the levels."""
        change = (level - aim) * step
        push = change @ hessian
        return np.einsum("ij,ij->i", change, push, dtype=np.float64), 2 * push * step

    fixed = grid.level_of_code[nearest.codes]
    start = grid.levels[fixed]
    base, _ = error(start)
    # Each row's error in units of round-to-nearest's, and one a weight: what the pressure is measured against.
    share = (matrix.shape[1] / np.maximum(base, 1e-30)).astype(np.float32)[:, None]
    level = _descend(start, low, gap, np.clip((aim - low) / gap, 0, 1), lambda at: error(at)[1] * share, steps)
    level = np.where(seen, level, start)
    level = np.where((error(level)[0] <= base)[:, None], level, start)
    codes = grid.code_of_level[np.searchsorted(grid.levels, level)]
    return QTensor.from_codes(codes, np.shape(weight), scheme, made)


def _descend(start, low, gap, share, gradient, steps: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Levels after Adam on the gates between `low` and `low + gap`, which begin at `share`."""
    inner = np.clip((share - LOW) / (HIGH - LOW), 1e-3, 1 - 1e-3)
    logit = np.log(inner / (1 - inner)).astype(np.float32)
    mean, square = np.zeros_like(logit), np.zeros_like(logit)
    for index in range(steps):
        sigmoid = 1 / (1 + np.exp(-logit))
        stretched = sigmoid * (HIGH - LOW) + LOW
        gate = np.clip(stretched, 0, 1)
        slope = (HIGH - LOW) * sigmoid * (1 - sigmoid) * ((stretched > 0) & (stretched < 1))
        push = gradient(low + gap * gate) * gap
        late = (index / steps - FREE) / (1 - FREE)
        if late > 0:
            exponent = EXPONENTS[0] + (EXPONENTS[1] - EXPONENTS[0]) * late
            from_middle = 2 * gate - 1
            push -= PRESSURE * 2 * exponent * np.sign(from_middle) * np.abs(from_middle) ** (exponent - 1)
        push *= slope
        mean += (1 - FIRST) * (push - mean)
        square += (1 - SECOND) * (push * push - square)
        rate = RATE * (1 - index / steps) / (1 - FIRST ** (index + 1))
        logit -= rate * mean / (np.sqrt(square / (1 - SECOND ** (index + 1))) + TINY)
    return np.where(1 / (1 + np.exp(-logit)) >= 0.5, low + gap, low)
