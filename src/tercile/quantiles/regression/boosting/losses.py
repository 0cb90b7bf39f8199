"""What boosted trees can minimise, as functions of the margin, the sum of all trees.

Each loss says which constant margin is best (`start`), gives its first and second derivative by the margin times the
weight, (rows, 2) (`derivatives`), and says what each leaf adds at full rate (`leaf_values`): given the leaf of every
row, what y is off from the margin, and the Newton step of every leaf.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Vector = NDArray[np.float64]
#: Probabilities closer to 0 or 1 than this have no finite log-odds to start from.
_LEAST_CHANCE = 1e-15
_LEAST_SECOND = 1e-16


@dataclass(frozen=True)
class Squared:
    """Half the squared error: the mean.

    >>> Squared().start(np.array([1.0, 5.0]), np.array([3.0, 1.0]))
    2.0
    """

    def start(self, y: Vector, weight: Vector) -> float:
        """The weighted mean."""
        return float(np.average(y, weights=weight))

    def derivatives(self, y: Vector, margin: Vector, weight: Vector) -> NDArray[np.float64]:
        """The error, and 1."""
        return np.stack([weight * (margin - y), weight], axis=1)

    def leaf_values(self, leaf: NDArray[np.int32], off: Vector, weight: Vector, values: Vector) -> Vector:
        """The Newton step, which is exact here."""
        return values


@dataclass(frozen=True)
class Logistic:
    """Minus the log-likelihood of a label 0 or 1 whose log-odds is the margin.

    >>> round(Logistic().start(np.array([0.0, 1.0, 1.0, 1.0]), np.ones(4)), 4)
    1.0986
    """

    def start(self, y: Vector, weight: Vector) -> float:
        """The log-odds of the share of ones."""
        share = min(max(float(np.average(y, weights=weight)), _LEAST_CHANCE), 1.0 - _LEAST_CHANCE)
        return float(np.log(share) - np.log1p(-share))

    def derivatives(self, y: Vector, margin: Vector, weight: Vector) -> NDArray[np.float64]:
        """p - y and p (1 - p)."""
        chance = expit(margin)
        return np.stack([weight * (chance - y), weight * np.maximum(chance * (1.0 - chance), _LEAST_SECOND)], axis=1)

    def leaf_values(self, leaf: NDArray[np.int32], off: Vector, weight: Vector, values: Vector) -> Vector:
        """The Newton step."""
        return values


@dataclass(frozen=True)
class Pinball:
    """The loss whose minimum is the quantile of a level.

    It is flat on either side, so its second derivative says nothing: trees are grown with 1 in its place, and each
    leaf then takes the quantile of what its rows are off by.

    >>> Pinball(0.75).start(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4))
    3.0
    """

    level: float

    def start(self, y: Vector, weight: Vector) -> float:
        """The weighted quantile."""
        return float(quantile_by_group(np.zeros(y.size, dtype=np.int32), y, weight, self.level, np.zeros(1))[0])

    def derivatives(self, y: Vector, margin: Vector, weight: Vector) -> NDArray[np.float64]:
        """1 - level where the margin is above y, -level where it is not; and 1."""
        return np.stack([weight * ((margin > y) - self.level), weight], axis=1)

    def leaf_values(self, leaf: NDArray[np.int32], off: Vector, weight: Vector, values: Vector) -> Vector:
        """The quantile of what the leaf's rows are off by."""
        return quantile_by_group(leaf, off, weight, self.level, values)


Loss = Squared | Logistic | Pinball


def quantile_by_group(
    group: NDArray[np.int32], values: Vector, weight: Vector, level: float, otherwise: Vector
) -> Vector:
    """The least value of each group at or below which `level` of its weight lies.

    Parameters
    ----------
    group, values, weight : (n,); groups are numbers below `len(otherwise)`.
    level : in (0, 1).
    otherwise : (groups,), what a group without weight gets.

    Examples
    --------
    >>> quantile_by_group(np.array([0, 2, 0]), np.array([5.0, 1.0, 4.0]), np.ones(3), 0.5, np.full(3, -1.0))
    array([ 4., -1.,  1.])
    """
    some = weight > 0.0
    group, values, weight = group[some], values[some], weight[some]
    order = np.lexsort((values, group))
    group, values = group[order], values[order]
    reached = np.cumsum(weight[order])
    found = otherwise.copy()
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], group.size) - 1
    before = reached[first] - weight[order][first]
    for start, end, below in zip(first, last, before):
        # To within rounding of the sums: three weights of 0.1 are the share 0.3 of ten.
        wanted = below + level * (reached[end] - below) * (1.0 - 1e-12)
        at = start + int(np.searchsorted(reached[start : end + 1], wanted, side="left"))
        found[group[start]] = values[min(at, end)]
    return found
