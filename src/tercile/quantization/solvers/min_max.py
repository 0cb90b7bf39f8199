"""Least largest violation: discrete values for variables so that no linear equation is off by much.

Ahmed, Mostajabdaveh, Aref and Zhou (2025), "Discrete Optimization of Min-Max Violation and its Applications Across
Computational Sciences", arXiv:2508.13437, state the problem

    min over x of max_i |a_i x - b_i|,   each x_j one of a few values,

and search it by taking some variables out, putting them back one after the other, and local moves of one and two
variables. Weights with the least worst output error, images from projections and filters with short coefficients are
all of this kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.gptq import gptq
from tercile.quantization.solvers.round_to_nearest import checked_weight
from tercile.quantization.statistics import Statistics

#: Powers of the sums that stand in for the largest violation, one after the other: the sum has slopes where the largest
#: has none, because most variables do not touch the worst equation.
POWERS = (8, 32, 128)
#: Share of the variables that a round takes out.
TAKEN_OUT = 0.2
#: How much worse than the best an assignment may be, at most, from which the search goes on.
WORSE = 0.1
#: Best single moves that are tried together with every other.
PAIRED = 12


@dataclass(frozen=True, eq=False)
class Assignment:
    """Values for the variables.

    Attributes
    ----------
    index
        int64 (n,): which of its levels each variable has.
    values
        float64 (n,).
    violation
        max |A x - b|.
    """

    index: np.ndarray
    values: np.ndarray
    violation: float


def least_violation(
    matrix: np.ndarray,
    target: np.ndarray,
    levels: np.ndarray,
    *,
    start: np.ndarray | None = None,
    rounds: int = 20,
    seed: int = 0,
) -> Assignment:
    """Minimises max |A x - b| over x with x_j among the levels of j, by local search from a start.

    Parameters
    ----------
    matrix
        A, float (m, n).
    target
        b, float (m,).
    levels
        Ascending, float (k,) for all variables or (n, k) for each.
    start
        float (n,), rounded to the nearest levels; by default the least squares solution.
    rounds
        Of taking variables out and putting them back, after the first descent.
    seed
        Which ones.

    Returns
    -------
    Assignment, never with a larger violation than the rounded start; the same for the same seed.

    Raises
    ------
    ValueError
        If shapes do not fit, something is not finite, or levels do not ascend.

    Notes
    -----
    Descends sum_i |a_i x - b_i|^p for rising p with moves of one variable to a neighbouring level, then the largest
    violation itself with moves of one and two. Looking at all single moves costs 2 m n, at pairs 24 m n.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=(40, 12))
    >>> b = a @ rng.uniform(-1, 1, size=12)
    >>> levels = np.linspace(-1, 1, 5)
    >>> rounded = least_violation(a, b, levels, rounds=0)
    >>> least_violation(a, b, levels).violation <= rounded.violation
    True
    """
    a, b, every = _checked(matrix, target, levels)
    if rounds < 0:
        raise ValueError(f"rounds must be at least 0, got {rounds}")
    if start is None:
        start = np.linalg.lstsq(a, b, rcond=None)[0]
    begin = np.asarray(start, dtype=np.float64)
    if begin.shape != (a.shape[1],) or not np.isfinite(begin).all():
        raise ValueError(f"start must be ({a.shape[1]},) and finite, got {begin.shape}")
    rng = np.random.default_rng(seed)
    search = _Search(a, b, every)
    nearest = np.abs(every - begin[:, None]).argmin(axis=1)
    best = search.descend(nearest)
    if search.violation(nearest) < search.violation(best):
        best = nearest
    current = best
    for _ in range(rounds):
        tried = search.descend(search.rebuilt(current, rng))
        found, least = search.violation(tried), search.violation(best)
        # A little worse is let pass, so that the search does not stay where it is.
        if found < search.violation(current) or found < (1 + WORSE * rng.random()) * least:
            current = tried
        if found < least:
            best = tried
    return Assignment(best, search.values(best), search.violation(best))


def min_max_rounding(
    weight: np.ndarray,
    inputs: np.ndarray,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    rounds: int = 2,
    seed: int = 0,
) -> QTensor:
    """Quantizes a weight so that the largest error of any output on the inputs is small, row by row.

    It takes inputs, where other solvers take Statistics: the worst case is no function of the second moment. Starts
    from `gptq` and never ends above it.

    Parameters
    ----------
    weight, scheme, ranges
        As for `gptq`.
    inputs
        float (n, inputs): what the layer reads; the violations are of these rows.
    rounds, seed
        As for `least_violation`, one search a row.

    Raises
    ------
    ValueError
        If weight is empty or not finite, inputs do not fit it, or rounds is below 0.

    Notes
    -----
    Some hundred looks at 2 * n * inputs candidates for each row, in numpy: thousands of times slower than `gptq`, for
    small layers and guarantees on the worst case only.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(2, 64)), rng.normal(size=(80, 64))
    >>> seen, scheme = Statistics(64), Scheme.parse("int3-channel")
    >>> seen.update(x)
    >>> worst = [np.abs(x @ (w - q.dequantize()).T).max(axis=0) for q in (gptq(w, seen, scheme),
    ...     min_max_rounding(w, x, scheme))]
    >>> bool(worst[1].mean() < 0.9 * worst[0].mean())
    True
    """
    flat = checked_weight(weight)
    x = np.ascontiguousarray(inputs, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != flat.shape[1] or not len(x):
        raise ValueError(f"inputs must be (n, {flat.shape[1]}) with n at least 1, got {x.shape}")
    seen = Statistics(x.shape[1])
    seen.update(x)
    first = gptq(weight, seen, scheme, ranges)
    made, grid = first.ranges, scheme.grid
    scale = np.broadcast_to(scheme.blocks.spread(made.scale, flat.shape), flat.shape).astype(np.float64)
    offset = np.broadcast_to(scheme.blocks.spread(made.offset, flat.shape), flat.shape).astype(np.float64)
    start, codes = first.dequantize().reshape(flat.shape).astype(np.float64), first.codes.copy()
    rows = x.astype(np.float64)
    for row in range(len(flat)):
        # A negative scale turns the levels round; one of 0 leaves a single value, which stays what it is.
        turned = np.sign(scale[row])[:, None] < 0
        order = np.where(turned, np.arange(len(grid.levels))[::-1], np.arange(len(grid.levels)))
        every = scale[row][:, None] * grid.levels[order] + offset[row][:, None]
        free = scale[row] != 0
        if not free.any():
            continue
        wanted = rows @ flat[row].astype(np.float64) - rows[:, ~free] @ start[row, ~free]
        found = least_violation(
            rows[:, free], wanted, every[free], start=start[row, free], rounds=rounds, seed=seed + row
        )
        index = order[free, found.index]
        codes[row, free] = grid.code_of_level[index]
    assert codes.shape == as_matrix(np.shape(weight))
    return QTensor.from_codes(codes, np.shape(weight), scheme, made)


class _Search:
    """Local search on one problem; an assignment is an array of level indices."""

    def __init__(self, matrix: np.ndarray, target: np.ndarray, levels: np.ndarray) -> None:
        self.matrix, self.target, self.levels = matrix, target, levels
        self.variables, self.last = np.arange(len(levels)), levels.shape[1] - 1

    def values(self, index: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.levels[self.variables, index]
        return found

    def residual(self, index: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.matrix @ self.values(index) - self.target
        return found

    def violation(self, index: np.ndarray) -> float:
        return float(np.abs(self.residual(index)).max())

    def moves(self, index: np.ndarray, of: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every step of one variable to a neighbouring level: which variable, its new index, change of its value."""
        variables = self.variables if of is None else of
        variable = np.concatenate([variables, variables])
        to = np.concatenate([index[variables] + 1, index[variables] - 1])
        inside = (to >= 0) & (to <= self.last)
        variable, to = variable[inside], to[inside]
        return variable, to, self.levels[variable, to] - self.levels[variable, index[variable]]

    def descend(self, index: np.ndarray) -> np.ndarray:
        """Down the sums of powers, then down the largest violation."""
        for power in POWERS:
            index = self._descend_sum(index, power)
        return self._descend_largest(index)

    def _descend_sum(self, index: np.ndarray, power: int) -> np.ndarray:
        index = index.copy()
        residual = self.residual(index)
        for _ in range(4 * len(index)):
            unit = np.abs(residual).max()
            if unit == 0:
                break
            variable, to, change = self.moves(index)
            if not len(variable):
                break
            now = float(_power(residual / unit, power).sum())
            sums = _power((residual[:, None] + self.matrix[:, variable] * change) / unit, power).sum(axis=0)
            taken: set[int] = set()
            # The best few, one after the other as long as they still help: one look at all moves serves for several.
            for at in np.argsort(sums)[:6]:
                j = int(variable[at])
                if sums[at] >= now * (1 - 1e-9) or j in taken:
                    continue
                moved = residual + self.matrix[:, j] * change[at]
                then = float(_power(moved / unit, power).sum())
                if then < now * (1 - 1e-9):
                    residual, now, index[j] = moved, then, to[at]
                    taken.add(j)
            if not taken:
                break
        return index

    def _descend_largest(self, index: np.ndarray) -> np.ndarray:
        index = index.copy()
        residual = self.residual(index)
        while True:
            largest = float(np.abs(residual).max())
            variable, to, change = self.moves(index)
            if largest == 0 or not len(variable):
                return index
            moved = residual[:, None] + self.matrix[:, variable] * change
            worst = np.abs(moved).max(axis=0)
            at = int(worst.argmin())
            if worst[at] < largest * (1 - 1e-9):
                index[variable[at]], residual = to[at], moved[:, at]
                continue
            pair = self._best_pair(moved, worst, variable, change, largest)
            if pair is None:
                return index
            for one in pair:
                index[variable[one]] = to[one]
            residual = self.residual(index)

    def _best_pair(
        self, moved: np.ndarray, worst: np.ndarray, variable: np.ndarray, change: np.ndarray, largest: float
    ) -> tuple[int, int] | None:
        """Two moves that are better together, the first among those that harm least alone."""
        best, found = largest * (1 - 1e-9), None
        steps = self.matrix[:, variable] * change
        for first in np.argsort(worst)[:PAIRED]:
            both = np.abs(moved[:, [first]] + steps).max(axis=0)
            both[variable == variable[first]] = np.inf
            second = int(both.argmin())
            if both[second] < best:
                best, found = float(both[second]), (int(first), second)
        return found

    def rebuilt(self, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Takes some variables out, most of them such that touch the worst equation, and puts them back in turn."""
        index = index.copy()
        residual = self.residual(index)
        count = max(2, min(len(index), round(TAKEN_OUT * len(index))))
        touch = np.abs(self.matrix[int(np.abs(residual).argmax())]) + 1e-12
        chance = 0.5 * touch / touch.sum() + 0.5 / len(index)
        out = rng.choice(len(index), size=count, replace=False, p=chance)
        residual = residual - self.matrix[:, out] @ self.values(index)[out]
        for j in out:
            tried = residual[:, None] + self.matrix[:, [j]] * self.levels[j]
            unit = np.abs(tried).max() or 1.0
            sums = _power(tried / unit, POWERS[0]).sum(axis=0)
            # The best level, or the second: put back as they were, variables would lead to where they came from.
            index[j] = int(np.argsort(sums)[min(int(rng.random() < 0.3), len(sums) - 1)])
            residual = tried[:, index[j]]
        return index


def _power(x: np.ndarray, power: int) -> np.ndarray:
    """|x|^power for a power of two, by squaring."""
    found = np.square(x)
    while power > 2:
        found *= found
        power //= 2
    return found


def _checked(matrix: np.ndarray, target: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = np.asarray(matrix, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.ndim != 2 or not a.size or b.shape != (len(a),):
        raise ValueError(f"matrix must be (m, n) and target (m,), got {a.shape} and {b.shape}")
    every = np.asarray(levels, dtype=np.float64)
    if every.ndim == 1:
        every = np.tile(every, (a.shape[1], 1))
    if every.ndim != 2 or len(every) != a.shape[1] or every.shape[1] < 1:
        raise ValueError(f"levels must be (k,) or ({a.shape[1]}, k), got {np.shape(levels)}")
    if not all(np.isfinite(one).all() for one in (a, b, every)):
        raise ValueError("matrix, target and levels must be finite")
    if (np.diff(every, axis=1) < 0).any():
        raise ValueError("levels must ascend")
    return a, b, every
