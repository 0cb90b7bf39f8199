"""Predictions of where a quantile lies: the base measure of the exponential mechanism.

A prior is public. It must not be read off the data that are about to be released; it may come from other data,
from yesterday's release, or from somebody's guess. It costs no privacy whatever it says: at the same epsilon a good
prior makes the release better and a bad one worse. `mixed` bounds how much worse.

Source: Khodak, Amin, Dick & Vassilvitskii 2023, arXiv 2210.11222 (the mechanism with a prior; robustness by mixing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tercile.quantiles.private.domain import Domain, domain_from
from tercile.quantiles.private.randomness import Integers

Vector = NDArray[np.float64]
#: Whole masses of a prior's pieces add up to about 2 to this power; each cell has at least 1.
_MASS_BITS = 100
#: A prior is kept as steps between these of its own quantiles, evenly spaced in log odds.
_LEVELS = 1.0 / (1.0 + np.exp(-np.linspace(-30.0, 30.0, 241)))


@dataclass(frozen=True)
class Measure:
    """A positive measure on the cells of a domain: constant density between knots, in whole numbers."""

    knots: Integers
    density: list[int]
    _below: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        widths = np.diff(self.knots).tolist()
        below = [0]
        for width, density in zip(widths, self.density):
            below.append(below[-1] + width * density)
        object.__setattr__(self, "_below", below)

    def masses(self, edges: Integers) -> list[int]:
        """The mass between neighbouring edges, exactly."""
        if len(self.density) == 1:
            return [width * self.density[0] for width in np.diff(edges).tolist()]
        piece = np.clip(np.searchsorted(self.knots, edges, side="right") - 1, 0, len(self.density) - 1)
        inside = (edges - self.knots[piece]).tolist()
        below = [self._below[i] + self.density[i] * offset for i, offset in zip(piece.tolist(), inside)]
        return [high - low for low, high in pairwise(below)]

    def cell(self, start: int, mass: int) -> int:
        """The cell that mass number `mass` lies in, counted from the beginning of cell `start`."""
        piece = int(np.clip(np.searchsorted(self.knots, start, side="right") - 1, 0, len(self.density) - 1))
        mass += (start - int(self.knots[piece])) * self.density[piece]
        while mass >= (whole := self._below[piece + 1] - self._below[piece]):
            mass -= whole
            piece += 1
        return int(self.knots[piece]) + mass // self.density[piece]


@dataclass(frozen=True)
class Uniform:
    """Nothing is known beyond an interval.

    >>> Uniform(0, 4).cdf(np.array([1.0, 5.0])).tolist()
    [0.25, 1.0]
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        domain_from((self.lower, self.upper))

    def cdf(self, x: Vector) -> Vector:
        """Probability of at most x."""
        return np.clip((x - self.lower) / (self.upper - self.lower), 0.0, 1.0)

    def quantile(self, p: Vector) -> Vector:
        """The inverse of `cdf`."""
        return self.lower + p * (self.upper - self.lower)


@dataclass(frozen=True)
class _Located:
    """A family made by shifting and stretching one distribution."""

    location: float
    scale: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.location):
            raise ValueError(f"location must be finite, got {self.location}")
        if not 0.0 < self.scale < math.inf:
            raise ValueError(f"scale must be above 0 and finite, got {self.scale}")


@dataclass(frozen=True)
class Laplace(_Located):
    """A sharp prediction: density falls by e with each `scale` away from `location`.

    >>> Laplace(2.0, 1.0).cdf(np.array([2.0])).tolist()
    [0.5]
    """

    def cdf(self, x: Vector) -> Vector:
        """Probability of at most x."""
        z = (x - self.location) / self.scale
        half = 0.5 * np.exp(-np.abs(z))
        return np.where(z > 0, 1.0 - half, half)

    def quantile(self, p: Vector) -> Vector:
        """The inverse of `cdf`."""
        tail = np.minimum(p, 1.0 - p)
        return self.location - np.sign(0.5 - p) * self.scale * -np.log(np.maximum(2.0 * tail, 1e-300))


@dataclass(frozen=True)
class Cauchy(_Located):
    """A cautious prediction: being off by k scales costs only about 2 log k.

    >>> Cauchy(2.0, 1.0).cdf(np.array([3.0])).tolist()
    [0.75]
    """

    def cdf(self, x: Vector) -> Vector:
        """Probability of at most x."""
        return np.arctan((x - self.location) / self.scale) / math.pi + 0.5

    def quantile(self, p: Vector) -> Vector:
        """The inverse of `cdf`."""
        return self.location + self.scale * np.tan(math.pi * (np.clip(p, 1e-15, 1 - 1e-15) - 0.5))


@dataclass(frozen=True)
class LogUniform:
    """Only a centre is known, and the smallest distance worth telling apart: every power of ten of the distance
    from `center` beyond `least`, up to `most`, is as likely as another.

    The prior for a threshold in a tail, whose size nobody can guess.

    >>> prior = LogUniform(0.0, 1.0, 999.0)
    >>> [round(float(p), 6) for p in prior.cdf(np.array([-999.0, 0.0, 9.0, 99.0, 999.0]))]
    [0.0, 0.5, 0.666667, 0.833333, 1.0]
    """

    center: float
    least: float
    most: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.center) and 0.0 < self.least <= self.most < math.inf):
            raise ValueError(
                f"least and most must be finite, 0 < least <= most, around a finite center; got center "
                f"{self.center}, least {self.least}, most {self.most}"
            )

    def cdf(self, x: Vector) -> Vector:
        """Probability of at most x."""
        away = np.minimum(np.abs(x - self.center), self.most)
        share = np.log1p(away / self.least) / math.log1p(self.most / self.least)
        return 0.5 * (1.0 + np.sign(x - self.center) * share)

    def quantile(self, p: Vector) -> Vector:
        """The inverse of `cdf`."""
        share = np.abs(2.0 * p - 1.0) * math.log1p(self.most / self.least)
        return self.center + np.sign(p - 0.5) * self.least * np.expm1(share)


@dataclass(frozen=True)
class Steps:
    """A prior of any shape: how likely each interval between edges is; a released histogram, for instance.

    >>> Steps((0.0, 1.0, 10.0), (3.0, 1.0)).cdf(np.array([1.0, 5.5])).tolist()
    [0.75, 0.875]
    """

    edges: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.edges))
        if len(self.edges) != len(self.weights) + 1 or not self.weights or not rising:
            raise ValueError(f"edges must rise, one more than weights, got {self.edges} and {self.weights}")
        if not (min(self.weights) >= 0 and 0 < sum(self.weights) < math.inf and math.isfinite(sum(self.edges))):
            raise ValueError(f"weights must be at least 0, with a sum above 0, got {self.weights}")

    def _below(self) -> Vector:
        return np.cumsum([0.0, *self.weights]) / sum(self.weights)

    def cdf(self, x: Vector) -> Vector:
        """Probability of at most x."""
        return np.interp(x, self.edges, self._below())

    def quantile(self, p: Vector) -> Vector:
        """The inverse of `cdf`, and all edges: where the density changes."""
        return np.sort(np.concatenate([np.interp(p, self._below(), self.edges), self.edges]))


@dataclass(frozen=True)
class Mixture:
    """Several priors, each with its weight; `mixed` makes the one that is used most.

    >>> Mixture((Uniform(0, 1), Uniform(0, 2)), (0.5, 0.5)).cdf(np.array([1.0])).tolist()
    [0.75]
    """

    parts: tuple[Uniform | Laplace | Cauchy | LogUniform | Steps | Mixture, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.weights) or not self.parts:
            raise ValueError(f"got {len(self.parts)} parts and {len(self.weights)} weights; one weight a part")
        if min(self.weights) < 0 or not math.isclose(sum(self.weights), 1.0, abs_tol=1e-9):
            raise ValueError(f"weights must be at least 0 and add up to 1, got {self.weights}")

    def cdf(self, x: Vector) -> Vector:
        """Probability of at most x."""
        return np.sum([weight * part.cdf(x) for part, weight in zip(self.parts, self.weights)], axis=0)

    def quantile(self, p: Vector) -> Vector:
        """Quantiles of all parts, in order: where the density changes."""
        return np.sort(np.concatenate([part.quantile(p) for part in self.parts]))


#: What is known beforehand of where a quantile lies.
Prior = Uniform | Laplace | Cauchy | LogUniform | Steps | Mixture


def mixed(prior: Prior, other: Prior, share: float = 0.1) -> Mixture:
    """A prior that is robust: the prediction, and with probability `share` the other one.

    The error of a release grows with -log of the prior's mass near the answer. The mixture has at least `share` of
    the other's mass everywhere, so a prediction that is completely wrong costs log(1/share) more than never having
    had one (2.3 at 0.1, where a domain a billion times too wide costs 20.7), and one that is right costs
    log(1/(1-share)), 0.1, more than trusting it.

    Raises
    ------
    ValueError
        `share` is not strictly between 0 and 1.

    >>> mixed(Laplace(0.0, 1e-6), Uniform(0, 2)).cdf(np.array([1.0])).round(6).tolist()
    [0.95]
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must be between 0 and 1, got {share}; 0.1 is a usual choice")
    return Mixture((prior, other), (1.0 - share, share))


def measure_of(prior: Prior | None, domain: Domain) -> Measure:
    """The prior as whole numbers on the cells of a domain; None is the uniform one.

    What lies outside of the domain is cut off. Every cell keeps a mass of at least 1 in 2^100, so no answer is
    impossible.
    """
    if prior is None:
        return Measure(np.array([0, domain.cells]), [1])
    if not isinstance(prior, Prior):
        raise TypeError(f"prior must be one of {', '.join(kind.__name__ for kind in get_args(Prior))}, got {prior!r}")
    return _measure(prior, domain)


@lru_cache(maxsize=64)
def _measure(prior: Any, domain: Domain) -> Measure:
    places = domain.position(np.asarray(prior.quantile(_LEVELS), dtype=np.float64))
    knots = np.unique(np.concatenate([[0, domain.cells], np.rint(places).astype(np.int64)]))
    bounds = domain.lower + (knots / domain.cells_per_step - 0.5) * domain.width_of_step
    chances = np.maximum(np.diff(np.asarray(prior.cdf(bounds), dtype=np.float64)), 0.0)
    total = chances.sum() or 1.0
    per_cell = np.ldexp(chances / total / np.diff(knots), _MASS_BITS)
    return Measure(knots, [int(each) + 1 for each in per_cell.tolist()])


def checked_priors(priors: Prior | Sequence[Prior | None] | None, count: int) -> list[Prior | None]:
    """One prior for each of `count` quantiles, from one for all, one each, or none."""
    if priors is None or isinstance(priors, Prior):
        return [priors] * count
    given = list(priors)
    if len(given) != count:
        raise ValueError(f"priors must be one for all or one for each of {count} quantiles, got {len(given)}")
    return given
