"""Exact randomness: whole numbers, and noise on whole numbers, with no rounding anywhere.

Noise made from floating-point numbers leaks: which doubles can come out depends on the data (Mironov 2012).
Everything in this room is therefore sampled on integers, from random bits, with probabilities that are what the
proof says: uniform integers by rejection, coins of probability exp(-a/b) by von Neumann's series, and from those
the discrete Laplace and discrete Gaussian distributions (Canonne, Kamath & Steinke 2020, Algorithms 1 to 3).
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

#: Variance of the largest discrete Gaussian: its acceptance test then fits 64 bits.
LARGEST_VARIANCE = 1 << 26


class Randomness:
    """Random bits from the operating system, or repeatable ones for tests and experiments.

    Parameters
    ----------
    random_state
        None: the operating system's generator, which is the one to use on data that matter. An integer or a
        `numpy.random.Generator`: repeatable, and no protection against somebody who knows the seed.

    >>> Randomness(0).below(10) in range(10)
    True
    """

    def __init__(self, random_state: int | np.random.Generator | None = None) -> None:
        self._generator: np.random.Generator | None = None
        if isinstance(random_state, np.random.Generator):
            self._generator = random_state
        elif random_state is not None:
            if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
                raise TypeError(f"random_state must be an integer, a numpy Generator or None, got {random_state!r}")
            if random_state < 0:
                raise ValueError(f"random_state must not be negative, got {random_state}")
            self._generator = np.random.default_rng(random_state)

    def _bytes(self, count: int) -> bytes:
        return os.urandom(count) if self._generator is None else self._generator.bytes(count)

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), of any size, by rejection."""
        bits = (bound - 1).bit_length()
        while True:
            drawn = int.from_bytes(self._bytes((bits + 7) // 8), "little") & ((1 << bits) - 1)
            if drawn < bound:
                return drawn

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words."""
        return np.frombuffer(self._bytes(8 * count), dtype=np.uint64)

    def many_below(self, bound: Integers) -> Integers:
        """Independent uniform integers, one below each bound (1 to 2^62), by rejection."""
        mask = np.asarray(bound - 1, dtype=np.uint64)
        for shift in (1, 2, 4, 8, 16, 32):
            mask = mask | (mask >> np.uint64(shift))
        drawn = (self.words(bound.size) & mask).astype(np.int64)
        wrong = np.flatnonzero(drawn >= bound)
        while wrong.size:
            drawn[wrong] = (self.words(wrong.size) & mask[wrong]).astype(np.int64)
            wrong = wrong[drawn[wrong] >= bound[wrong]]
        return drawn

    def choose(self, weights: list[int]) -> tuple[int, int]:
        """An index with probability proportional to its whole-numbered weight, and a uniform integer below it."""
        ticket = self.below(sum(weights))
        for index, weight in enumerate(weights):
            if ticket < weight:
                return index, ticket
            ticket -= weight
        raise AssertionError("unreachable: the ticket is below the sum")


def coins_exp(numerator: Integers, denominator: Integers, randomness: Randomness) -> NDArray[np.bool_]:
    """Independent coins, each true with probability exp(-numerator/denominator), exactly.

    Numerators are at least 0, denominators 1 to 2^56.
    """
    whole, rest = numerator // denominator, numerator % denominator
    result = _coins_below_one(rest, denominator, randomness)
    # exp(-whole) is a run of `whole` coins of exp(-1), ended by the first that fails.
    alive = np.flatnonzero(result & (whole > 0))
    left = whole.copy()
    while alive.size:
        one = np.ones(alive.size, dtype=np.int64)
        passed = _coins_below_one(one, one, randomness)
        result[alive[~passed]] = False
        left[alive] -= 1
        alive = alive[passed & (left[alive] > 0)]
    return result


def _coins_below_one(numerator: Integers, denominator: Integers, randomness: Randomness) -> NDArray[np.bool_]:
    """As `coins_exp`, for ratios of at most 1: the first failure of coins ratio/1, ratio/2, ... comes at an odd
    place with probability exp(-ratio)."""
    place = np.ones(numerator.size, dtype=np.int64)
    alive = np.arange(numerator.size)
    while alive.size:
        passed = randomness.many_below(denominator[alive] * place[alive]) < numerator[alive]
        alive = alive[passed]
        place[alive] += 1
    return place % 2 == 1


def _coin_exp(numerator: int, denominator: int, randomness: Randomness) -> bool:
    """One coin of probability exp(-numerator/denominator), for integers of any size."""
    while numerator > 0:
        part = min(numerator, denominator)  # exp(-1) as long as there is a whole one left, then the rest
        place = 1
        while randomness.below(denominator * place) < part:
            place += 1
        if place % 2 == 0:
            return False
        numerator -= part
    return True


def discrete_laplace(size: int, scale: tuple[int, int], randomness: Randomness) -> Integers:
    """Noise k with probability proportional to exp(-|k| s/t), for a scale of t/s given as (t, s).

    Cost: about 3 rounds over `size`, some 0.4 us a value.

    >>> noise = discrete_laplace(10_000, (5, 1), Randomness(0))
    >>> bool(abs(noise.mean()) < 0.3), bool(4.7 < np.abs(noise).mean() < 5.3)
    (True, True)
    """
    t, s = scale
    out = np.empty(size, dtype=np.int64)
    missing = np.arange(size)
    while missing.size:
        count = missing.size
        top = np.full(count, t, dtype=np.int64)
        low = randomness.many_below(top)
        good = coins_exp(low, top, randomness)
        high = np.zeros(count, dtype=np.int64)
        alive = np.arange(count)
        while alive.size:
            one = np.ones(alive.size, dtype=np.int64)
            alive = alive[_coins_below_one(one, one, randomness)]
            high[alive] += 1
        magnitude = (low + t * high) // s
        negative = (randomness.words(count) & np.uint64(1)).astype(bool)
        good &= ~(negative & (magnitude == 0))
        out[missing[good]] = np.where(negative, -magnitude, magnitude)[good]
        missing = missing[~good]
    return out


def laplace_scale(epsilon: float, sensitivity: int) -> tuple[int, int]:
    """A scale t/s of at least sensitivity/epsilon, by a fraction of 20 bits: rounded towards more noise.

    >>> t, s = laplace_scale(0.1, 1)
    >>> 10 <= t / s < 10.001
    True
    """
    shift = max(0, 20 - math.frexp(epsilon)[1])
    s = math.floor(math.ldexp(epsilon, shift))
    return sensitivity << shift, s


def discrete_gaussian(size: int, variance: int, randomness: Randomness) -> Integers:
    """Noise k with probability proportional to exp(-k^2 / (2 variance)), for a whole variance up to 2^26.

    On a whole-numbered statistic whose neighbours lie within d in the Euclidean norm it is d^2/(2 variance)-zCDP
    (Canonne, Kamath & Steinke 2020, Theorem 4 and its multivariate form).

    >>> noise = discrete_gaussian(10_000, 100, Randomness(0))
    >>> bool(abs(noise.mean()) < 0.4), bool(9.7 < noise.std() < 10.3)
    (True, True)
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise ValueError(f"variance must be 1 to {LARGEST_VARIANCE}, got {variance}; use a coarser grid")
    t = math.isqrt(variance) + 1
    out = np.empty(size, dtype=np.int64)
    missing = np.arange(size)
    while missing.size:
        proposed = discrete_laplace(missing.size, (t, 1), randomness)
        fits = np.abs(proposed) < 40 * t
        distance = np.where(fits, np.abs(proposed), 0) * t - variance
        bound = 2 * variance * t * t
        good = coins_exp(distance * distance, np.full(missing.size, bound, dtype=np.int64), randomness)
        for i in np.flatnonzero(~fits).tolist():  # squares that leave 64 bits: once in 10^17
            good[i] = _coin_exp((abs(int(proposed[i])) * t - variance) ** 2, bound, randomness)
        out[missing[good]] = proposed[good]
        missing = missing[~good]
    return out


def randomness_from(random_state: Any) -> Randomness:
    """A `Randomness`, made from a seed where it is not one yet."""
    return random_state if isinstance(random_state, Randomness) else Randomness(random_state)
