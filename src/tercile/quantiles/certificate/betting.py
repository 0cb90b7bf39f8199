"""A bound by betting against "the mean is m": the sharpest here for losses that are not just 0 or 1.

A gambler starts with capital 1 and, before each loss X is shown, stakes a share `bet` in [0, 1] of it on "X
is below m"; the capital is multiplied by

    1 + bet * (m - X) / (1 - m).

**Why it is valid.** X <= 1 keeps the factor at or above 0, and if the mean is m or more, whatever was seen
before, the factor has expectation at most 1. So the capital is a supermartingale, and by Ville's inequality
the chance that it ever reaches 1/p is at most p: one over the largest capital ever held is a p-value for
"the mean is m or more", at any n, for any distribution on [0, 1], *however the bets are chosen from the
past* (Waudby-Smith & Ramdas 2024). What is below concerns sharpness only; no estimate in it can break the
promise. Two things could: betting on a loss after seeing it, and an order of the units that depends on their
losses. Hence **the order must be fixed by something that does not know the losses** (a hash of the content,
the order of arrival of independent units). As a guard against a caller who sorted them all the same, the
units are first shuffled by a fixed permutation of their positions: it knows no losses either, so it takes
nothing from the proof, and it undoes a sort.

**How to bet.** We need to reach the target 1/(1 - confidence) by unit n, and nothing beyond it. With Gaussian
increments the best strategy for that is known (Kulldorff 1993): let p = capital/target be the share of the
way; then stake `phi(z) / (p * s)` where `p = Phi(-z)` and s is the standard deviation of the sum of losses
still to come. It gives the power of the one-sided test that knows the variance, where a fixed bet gives only
Chernoff's. It is what a bank does that hedges an option paying out when the sum of losses ends low enough.
We need s under "the mean is m":

    variance of one loss = m * D, with D = (sum of squared deviations + PRIOR) / (sum of losses + PRIOR)

where D, the dispersion, is 1 for losses that are 0 or 1 and small for losses that huddle; the prior says "as
spread as can be" until there is evidence against. Aiming a little beyond the target (`MARGIN`) makes up for
not being able to bet continuously. After the target is reached the next one is ten times as far, so that p
goes on falling.

The bets change at about `64 log n` moments, not after every loss: the stake is fixed before a run of losses,
so the argument above holds as it stands.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tercile.quantiles.certificate.losses import Losses

PRIOR = 0.5
MARGIN = 0.05
_NEXT_TARGET = math.log(10.0)
_GRID_POINTS = 4096
_COARSE = 32

Vector = NDArray[np.float64]


@lru_cache(maxsize=1)
def _stakes() -> tuple[Vector, Vector]:
    """-log p and phi(z) / p for p = Phi(-z), to interpolate in."""
    z = np.linspace(-9.0, 12.0, 400)
    p = np.array([0.5 * math.erfc(value / math.sqrt(2.0)) for value in z])
    return -np.log(p), np.exp(-0.5 * z * z) / (math.sqrt(2.0 * math.pi) * p)


@lru_cache(maxsize=64)
def _runs(n: int) -> tuple[tuple[int, int], ...]:
    """(first, end) of the runs of units under one bet: short at the start and towards the end."""
    runs = []
    first = 0
    while first < n:
        end = first + max(1, min((n - first) // 64, (first + 4) // 4))
        runs.append((first, end))
        first = end
    return tuple(runs)


def log_capital(losses: Losses, means: Vector, level: float, enough: float = math.inf) -> Vector:
    """The log of the largest capital held when betting against each of `means`.

    Parameters
    ----------
    losses : (1, n), bet on for every mean, or (k, n), one row for each mean (for simulations).
    means : (k,), each in (0, 1).
    level : 1 - confidence; the target is its inverse.
    enough : stop following a mean once its log capital is at least this.

    Returns
    -------
    (k,) log capital, at least 0.
    """
    log_p, stake = _stakes()
    shared = losses.shape[0] == 1
    result = np.zeros(means.size)
    rows = np.arange(means.size)
    mean, log_now, log_best = means, np.zeros(means.size), np.zeros(means.size)
    target = np.full(means.size, -math.log(level))
    total = square = np.zeros(losses.shape[0])
    n = losses.shape[1]
    for first, end in _runs(n):
        deviation = np.maximum(square - total * total / max(first, 1), 0.0)
        dispersion = np.minimum((deviation + PRIOR) / (total + PRIOR), 1.0 - mean)
        gap = np.maximum(target + MARGIN - log_now, 0.0)
        remaining = n - first
        bet = np.interp(gap, log_p, stake) * (1.0 - mean) / np.sqrt(remaining * mean * dispersion)
        # Never less than what reaches the target if all losses to come are 0.
        needed = np.expm1(np.minimum(gap / remaining, 50.0)) * (1.0 - mean) / mean
        bet = np.minimum(np.maximum(bet, needed), 1.0)
        run = losses[:, first:end]
        factors = 1.0 + (bet / (1.0 - mean))[:, None] * (mean[:, None] - run)
        with np.errstate(divide="ignore"):
            log_now = log_now + np.log(np.maximum(factors, 0.0).prod(axis=1))
        total, square = total + run.sum(axis=1), square + np.einsum("ij,ij->i", run, run)
        log_best = np.maximum(log_best, log_now)
        target = np.where(log_best >= target, target + _NEXT_TARGET, target)
        if log_best.max() >= enough:
            done = log_best >= enough
            result[rows[done]] = log_best[done]
            keep = ~done
            rows, mean, log_now = rows[keep], mean[keep], log_now[keep]
            log_best, target = log_best[keep], target[keep]
            if not shared:
                losses, total, square = losses[keep], total[keep], square[keep]
            if not rows.size:
                return result
    result[rows] = log_best
    return result


@lru_cache(maxsize=64)
def _order(n: int) -> NDArray[np.intp]:
    """A fixed permutation of n positions, by the SplitMix64 hash of each: the same on every machine."""
    with np.errstate(over="ignore"):
        hashed = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(hashed ^ (hashed >> np.uint64(31)), kind="stable")


def _row(losses: Losses) -> Losses:
    return losses[_order(losses.size)][None, :]


def _grid(n: int, level: float) -> Vector:
    """The means that are tested, fixed beforehand: from the least bound that there can be up to 1."""
    least = -math.expm1(math.log(level) / n)
    return np.geomspace(least, 1.0, _GRID_POINTS, endpoint=False)


def _largest_kept(losses: Losses, points: Vector, level: float, enough: float) -> int:
    """Index of the largest of the sorted `points` that is not rejected, or -1; as if each were tested."""
    row = _row(losses)
    coarse = np.arange(points.size - 1, -1, -_COARSE)
    kept = coarse[log_capital(row, points[coarse], level, enough) < enough]
    above = int(kept.max()) if kept.size else -1
    fine = np.arange(above + 1, points.size)
    kept = fine[log_capital(row, points[fine], level, enough) < enough] if fine.size else fine
    return int(kept.max()) if kept.size else above


def betting_bound(losses: Losses, level: float, include: float | None = None) -> float:
    """The smallest mean of a fixed grid such that it and all above it are rejected; 1 if there is none.

    The grid has 4,096 points, so the bound is rounded up by 0.2% or less. Valid because a bound below the
    true mean implies that the grid point next below the true mean was rejected, which happens with
    probability `level` at most. `include` adds a point to the grid, which must not depend on the losses.
    """
    points = _grid(losses.size, level)
    if include is not None:
        points = np.union1d(points, [include])
    kept = _largest_kept(losses, points, level, -math.log(level))
    return float(points[kept + 1]) if kept + 1 < points.size else 1.0


def betting_p_value(losses: Losses, max_loss: float, level: float) -> float:
    """The largest p-value at `max_loss` and the grid points above it, so that it agrees with the bound."""
    row = _row(losses)
    least = float(log_capital(row, np.array([max_loss]), level)[0])
    if least <= 0.0:
        return 1.0
    points = _grid(losses.size, level)
    points = points[points > max_loss]
    if points.size:
        least = min(least, float(log_capital(row, points, level, least).min()))
    return math.exp(-least)
