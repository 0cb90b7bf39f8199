"""One regression a task from users who each take part in several, with each user's privacy spent where it counts.

A user's data enter sums: for each task, the moments of features and targets. Noise hides what a user can change of
all sums together, so a user has a budget of influence to share out among her tasks. Shared equally, big tasks get
more than they can use and small ones drown in noise. Here every example of task i gets a weight proportional to
n_i^-exponent, scaled down user by user until her influence is 1.

Source: Krichene, Jain, Song, Sundararajan, Thakurta & Zhang 2023, arXiv 2302.07975 (weights, sufficient statistics
with noise). The exponent 1/2 follows from a sum of squared errors: with n_i examples of weight w_i the noise adds
about 1/(n_i w_i)^2 to the squared error of task i, counted n_i times; minimising the sum of 1/(n_i w_i^2) where the sum
of n_i w_i^2 is fixed gives w_i = n_i^(-1/2). For every task counted once it would be 3/4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.private.budget import Cost, PrivacyBudget, charge, checked_positive
from tercile.quantiles.private.randomness import (
    LARGEST_VARIANCE,
    Integers,
    Randomness,
    discrete_gaussian,
    randomness_from,
)

Vector = NDArray[np.float64]
#: Shares of rho for counting, for the moments of the features, and for those with the target.
SHARES = (0.1, 0.45, 0.45)


@dataclass(frozen=True)
class TaskRegression:
    """Released coefficients of every task.

    Attributes
    ----------
    coefficients
        (tasks, d) in the units of the features and targets given.
    counts
        (tasks,) the released sizes, in users' worth of examples, that the weights were made from.
    """

    coefficients: Vector
    counts: Vector

    def predict(self, features: ArrayLike, task: ArrayLike) -> Vector:
        """Predictions for (n, d) features of tasks (n,)."""
        of = np.asarray(task)
        return np.einsum("ij,ij->i", np.asarray(features, dtype=np.float64), self.coefficients[of])


def private_task_regression(
    features: ArrayLike,
    target: ArrayLike,
    user: ArrayLike,
    task: ArrayLike,
    *,
    tasks: int,
    feature_bound: float,
    target_bound: float,
    rho: float,
    exponent: float = 0.5,
    ridge: float = 10.0,
    budget: PrivacyBudget | None = None,
    random_state: int | np.random.Generator | None = None,
) -> TaskRegression:
    """Least squares for every task at once, private for whole users.

    Parameters
    ----------
    features
        (n, d) finite numbers. Rows longer than `feature_bound` are shortened to it. Include a column of ones.
    target
        (n,) finite numbers. Clipped to `target_bound` in size.
    user
        (n,) whole numbers; examples of one user have one number.
    task
        (n,) from 0 to `tasks - 1`.
    tasks
        How many tasks there are, whether or not they have examples.
    feature_bound, target_bound
        Chosen without looking at the data.
    rho
        Zero-concentrated privacy; `rho_from_epsilon` makes it from (epsilon, delta).
    exponent
        0 is equal weights; 1/2 minimises the squared error over examples, up to 3/4 that over tasks.
    ridge
        How strongly a task is drawn to what all tasks have in common, in units of the noise. The inverse of how
        much coefficients differ between tasks, in units of target_bound, is a good choice.
    budget, random_state
        As in `private_quantile`.

    Raises
    ------
    ValueError, TypeError
        Bad input, by name.

    Notes
    -----
    *Neighbours*: one *user*, with all of hers, added or removed. *Sensitivity*: 1 in the Euclidean norm for the counts,
    for the moments over feature_bound^2, and for those with the target over feature_bound * target_bound: each user's
    weights are scaled so that the squares of her weight in each task add up to at most 1. Sums are kept on a grid,
    and what rounding a user's part to it can add is added to the sensitivity. *Accounting*: three discrete Gaussian
    mechanisms, rho in all; no pure guarantee. Cost: O(n d^2) and some 2 us for each of tasks * d^2 / 2 noises.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> user, task = np.repeat(np.arange(5000), 4), rng.choice(3, 20_000, p=[0.9, 0.09, 0.01])
    >>> x = np.column_stack([np.ones(20_000), rng.uniform(-1, 1, 20_000)])
    >>> y = x @ [0.3, 0.1] + task * 0.1
    >>> fit = private_task_regression(x, y, user, task, tasks=3, feature_bound=1.5, target_bound=1.0, rho=0.5,
    ...                               random_state=1)
    >>> fit.coefficients[:2].round(1).tolist()
    [[0.3, 0.1], [0.4, 0.1]]
    """
    x, y, who, of = _checked(features, target, user, task, tasks)
    bounds = checked_positive(feature_bound, "feature_bound"), checked_positive(target_bound, "target_bound")
    total = checked_positive(rho, "rho")
    _check_tuning(exponent, ridge)
    randomness = randomness_from(random_state)
    charge(budget, "private_task_regression", Cost(math.inf, total))

    x = x / bounds[0]
    x /= np.maximum(np.linalg.norm(x, axis=1), 1.0)[:, None]
    y = np.clip(y / bounds[1], -1.0, 1.0)
    pairs = _Pairs(who, of, tasks)
    equal = user_weights(who, of, np.ones(tasks))
    counts, spread = pairs.noisy_sums(np.ones((x.shape[0], 1)), equal, SHARES[0] * total, randomness)
    sizes = np.maximum(counts[:, 0], max(spread, 1.0))
    weights = user_weights(who, of, sizes**-exponent)

    d = x.shape[1]
    rows, columns = np.triu_indices(d)
    moments, noise = pairs.noisy_sums(x[:, rows] * x[:, columns], weights, SHARES[1] * total, randomness)
    products, _ = pairs.noisy_sums(x * y[:, None], weights, SHARES[2] * total, randomness)
    square = np.empty((tasks, d, d))
    square[:, rows, columns] = square[:, columns, rows] = moments
    solved = _solved(square, products, ridge * noise * math.sqrt(d), noise * math.sqrt(d * tasks))
    return TaskRegression(solved * (bounds[1] / bounds[0]), counts[:, 0])


def user_weights(user: ArrayLike, task: ArrayLike, weight_of_task: ArrayLike) -> Vector:
    """Weights of examples, in proportion to their task's, such that each user's influence is 1.

    The influence of a user is the root of the sum, over tasks, of the squared sum of her weights in it.

    Parameters
    ----------
    user, task
        (n,) whole numbers, from 0.
    weight_of_task
        (tasks,) above 0.

    Returns
    -------
    (n,) float64

    >>> user_weights([0, 0, 1], [0, 1, 1], [1.0, 1.0]).round(3).tolist()
    [0.707, 0.707, 1.0]
    >>> user_weights([0, 0, 1], [0, 1, 1], [3.0, 4.0]).round(3).tolist()
    [0.6, 0.8, 1.0]
    """
    who, of = np.asarray(user, dtype=np.int64), np.asarray(task, dtype=np.int64)
    raw = np.asarray(weight_of_task, dtype=np.float64)[of]
    pair, which = np.unique(who * (int(of.max()) + 1) + of, return_inverse=True)
    in_pair = np.bincount(which, weights=raw)
    of_pair = pair // (int(of.max()) + 1)
    influence = np.sqrt(np.bincount(of_pair, weights=in_pair**2))
    return raw / influence[who]


class _Pairs:
    """The (user, task) pairs: what a user adds to a task's sum is rounded to the grid as one number."""

    def __init__(self, user: Integers, task: Integers, tasks: int) -> None:
        self.tasks = tasks
        key, self.which = np.unique(user * tasks + task, return_inverse=True)
        self.task = key % tasks
        self.size = key.size

    def noisy_sums(
        self, statistics: Vector, weights: Vector, rho: float, randomness: Randomness
    ) -> tuple[Vector, float]:
        """Weighted sums of (n, k) statistics over each task, with noise, and its standard deviation.

        Rows of `statistics` are at most 1 long and users' influence is at most 1, so a user changes all sums together
        by at most 1.
        """
        k = statistics.shape[1]
        # One step of the grid is 1/grid. Noise of the largest variance that the sampler takes makes it finest;
        # a user may be in every task, so rounding her parts can add half the root of tasks * k.
        deviation = math.isqrt(LARGEST_VARIANCE)
        rounding = 0.5 * math.sqrt(self.tasks * k)
        grid = math.floor(deviation * math.sqrt(2.0 * rho) - rounding - 1.0)
        if grid < 1:
            raise ValueError(f"rho is too small for {self.tasks} tasks: each sum gets {rho:.1e}; allow more")
        out = np.empty((self.tasks, k))
        for column in range(k):
            part = np.bincount(self.which, weights=statistics[:, column] * weights, minlength=self.size)
            whole = np.rint(part * grid)
            out[:, column] = np.bincount(self.task, weights=whole, minlength=self.tasks)
        noise = discrete_gaussian(out.size, LARGEST_VARIANCE, randomness).reshape(out.shape)
        return (out + noise) / grid, deviation / grid


def _solved(square: Vector, products: Vector, pull: float, pooled_pull: float) -> Vector:
    """Ridge regression of each task towards the one of all tasks together; both from noisy moments only."""
    unit = np.eye(square.shape[1])
    # Pseudo-inverses, since without a ridge noise may leave a task nothing to solve.
    together = np.linalg.pinv(_positive(square.sum(axis=0)) + pooled_pull * unit, hermitian=True) @ products.sum(axis=0)
    rest = products - square @ together
    ridges = np.stack([_positive(each) for each in square]) + pull * unit
    return together + (np.linalg.pinv(ridges, hermitian=True) @ rest[:, :, None])[:, :, 0]


def _positive(matrix: Vector) -> Vector:
    """The nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def _check_tuning(exponent: float, ridge: float) -> None:
    if not 0.0 <= exponent <= 2.0:
        raise ValueError(f"exponent must be 0 to 2, got {exponent}; 0.5 is a usual choice")
    if not 0.0 <= ridge < math.inf:
        raise ValueError(f"ridge must be at least 0 and finite, got {ridge}")


def _checked(
    features: ArrayLike, target: ArrayLike, user: ArrayLike, task: ArrayLike, tasks: Any
) -> tuple[Vector, Vector, Integers, Integers]:
    x, y = np.asarray(features), np.asarray(target)
    for name, array, dimensions in (("features", x, 2), ("target", y, 1)):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be numbers, got an array of {array.dtype}")
        if array.ndim != dimensions:
            raise ValueError(f"{name} must have {dimensions} axes, got shape {array.shape}")
        if not np.isfinite(array.astype(np.float64)).all():
            raise ValueError(f"{name} holds NaN or infinite numbers; drop such examples")
    if x.size == 0:
        raise ValueError(f"features is empty, with shape {x.shape}; at least one example is needed")
    if isinstance(tasks, bool) or not isinstance(tasks, (int, np.integer)) or tasks < 1:
        raise ValueError(f"tasks must be a whole number, at least 1, got {tasks!r}")
    who, of = np.asarray(user), np.asarray(task)
    for name, array in (("user", who), ("task", of)):
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be whole numbers, got an array of {array.dtype}")
    for name, array in (("target", y), ("user", who), ("task", of)):
        if array.shape != (x.shape[0],):
            raise ValueError(f"{name} must have shape ({x.shape[0]},) as features has rows, got {array.shape}")
    if of.min() < 0 or of.max() >= tasks:
        raise ValueError(f"task must be from 0 to tasks - 1 = {tasks - 1}, got {of.min()} to {of.max()}")
    numbered = np.unique(who, return_inverse=True)[1].astype(np.int64)
    return x.astype(np.float64), y.astype(np.float64), numbered, of.astype(np.int64)
