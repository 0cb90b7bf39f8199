"""Priors learned from other data: offline from public data sets, online from one release to the next.

The measure of a prediction is its loss U = -log of the integral of exp(-rate * score) over the prior: the error of
a release is at most (log(1/b) + U) / rate with probability 1-b. Up to a term that no prediction changes it is at
most -log of the prior's mass between the two records around the quantile, and for Laplace priors that is convex in
theta = location/scale and phi = 1/scale. So predictions can be learned by convex optimisation.

Source: Khodak, Amin, Dick & Vassilvitskii 2023, arXiv 2210.11222.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from tercile.quantiles.private.budget import checked_positive
from tercile.quantiles.private.domain import Domain, checked_values, domain_from
from tercile.quantiles.private.exponential import rank_pieces
from tercile.quantiles.private.many import checked_levels
from tercile.quantiles.private.prior import Laplace, Mixture, Prior, Uniform, measure_of, mixed
from tercile.quantiles.private.randomness import Randomness

Vector = NDArray[np.float64]
_ROUNDS = 3


def prediction_loss(
    values: ArrayLike, q: float, prior: Prior | None, domain: Domain | tuple[float, float], epsilon: float
) -> float:
    """How bad a prior is for a quantile of these values: U, at least 0 and 0 for a perfect prediction.

    Not private: it reads the values. For public data, and for experiments.

    Parameters
    ----------
    values, q, domain, epsilon
        As in `private_quantile`.
    prior
        None for the uniform one.

    >>> x = np.random.default_rng(0).normal(size=1000)
    >>> from tercile.quantiles.private import Cauchy
    >>> round(prediction_loss(x, 0.5, None, (-1e6, 1e6), 1.0), 1)
    19.6
    >>> round(prediction_loss(x, 0.5, Cauchy(0.0, 1.0), (-1e6, 1e6), 1.0), 1)
    6.3
    """
    numbers, where, level = checked_values(values), domain_from(domain), checked_levels(q)[0]
    cells = np.sort(where.cells_of(numbers, Randomness(0)))
    rate = epsilon / (2.0 * float(max(level, 1 - level)))
    target = level * numbers.size
    unit = target.denominator
    edges, scores = rank_pieces(cells, target, unit, math.ceil(60.0 * unit / rate), (0, where.cells - 1))
    masses = measure_of(prior, where).masses(edges)
    total = sum(measure_of(prior, where).masses(np.array([0, where.cells])))
    shares = np.array([mass / total for mass in masses])
    return max(0.0, -math.log(float(np.sum(shares * np.exp(-rate / unit * scores)))))


def fit_priors(
    examples: Sequence[ArrayLike],
    q: ArrayLike,
    domain: Domain | tuple[float, float],
    *,
    family: type[Any] = Laplace,
    robust: float = 0.1,
    other: Prior | None = None,
) -> list[Mixture]:
    """One prior a level from example data sets, offline.

    Minimises the mean of -log of the prior's mass between the two records around the quantile.

    Parameters
    ----------
    examples
        Data sets like those to come, each (n,). *Public*, or themselves private releases: nothing here protects them.
    q
        (m,) levels.
    domain
        As in `private_quantile`.
    family
        `Laplace` (the objective is convex) or `Cauchy`.
    robust
        Share of `other` that is mixed in, between 0 and 1.
    other
        By default uniform over the domain.

    Returns
    -------
    list of Mixture
        In the order of `q`, for `private_quantiles(..., priors=...)`.

    Raises
    ------
    ValueError, TypeError
        No examples, or bad input by name.

    Examples
    --------
    >>> days = [np.random.default_rng(day).normal(10, 2, 500) for day in range(20)]
    >>> fitted = fit_priors(days, [0.5], (-1000, 1000))[0]
    >>> round(fitted.parts[0].location), fitted.parts[0].scale < 0.3
    (10, True)
    """
    where, levels = domain_from(domain), checked_levels(q)
    if len(examples) == 0:
        raise ValueError("examples is empty; at least one data set is needed")
    ordered = [np.sort(checked_values(example, f"examples[{i}]")) for i, example in enumerate(examples)]
    fallback = Uniform(where.lower, where.upper) if other is None else other
    fitted = []
    for level in levels:
        around = np.array([_records_around(x, level, where) for x in ordered])
        location, scale = _fitted(around, family, where)
        fitted.append(mixed(family(location, scale), fallback, robust))
    return fitted


def _records_around(x: Vector, level: Fraction, domain: Domain) -> tuple[float, float]:
    """The interval of right answers, widened by half a step each way as the domain rounds."""
    rank = float(level) * x.size
    low = domain.lower if rank < 1 else x[math.ceil(rank) - 1]
    high = domain.upper if rank >= x.size else x[math.floor(rank)]
    if low == high:  # not a whole rank: answers next to the record are as good as can be, too
        low = x[max(math.floor(rank) - 1, 0)]
        high = x[min(math.ceil(rank), x.size - 1)]
    half = domain.width_of_step / 2.0
    return max(low, domain.lower) - half, min(high, domain.upper) + half


def _fitted(around: NDArray[np.float64], family: type[Any], domain: Domain) -> tuple[float, float]:
    """Location and scale that minimise the mean of -log mass over the intervals."""
    middle = around.mean(axis=1)
    start = float(np.median(middle))
    spread = float(np.mean(np.abs(middle - start)) + np.mean(around[:, 1] - around[:, 0]) + domain.width_of_step)

    def loss(at: Vector) -> float:
        prior = family(start + spread * at[0], spread * math.exp(min(max(at[1], -20.0), 20.0)))
        mass = prior.cdf(around[:, 1]) - prior.cdf(around[:, 0])
        return float(-np.log(np.maximum(mass, 1e-300)).mean())

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7})
    return start + spread * float(best.x[0]), spread * math.exp(min(max(float(best.x[1]), -20.0), 20.0))


class OnlinePriors:
    """Priors for a series of data sets, learned from what was released about the ones before.

    Predicts each quantile by a Laplace prior whose location is linear in public features of the data set (its
    weekday, yesterday's value), made robust by mixing. It learns from *released* quantiles only, so learning is free:
    whatever is computed from a release is as private as the release. The loss of a release o is
    |theta - phi o| - log phi, the convex surrogate with the interval of right answers shrunk to the release. The
    prediction is the minimiser over all releases so far together with the first guess, which counts for `patience`
    of them (follow the regularised leader): a median regression, and the mean distance from it.

    Parameters
    ----------
    q
        (m,) levels.
    domain
        As in `private_quantile`.
    features
        How many numbers, of size 1 or so, describe a data set beforehand.
    location, scale
        The first guess, one for all levels or one each; public. By default the middle of the domain and a quarter
        of its width.
    patience
        How many releases the first guess counts for.
    robust
        Share of `other` that is mixed in.
    other
        By default uniform over the domain.

    Notes
    -----
    Cost: learning looks at all t releases again: O(t m d^2) with d features, a millisecond for t = 1,000, m = 9.

    Examples
    --------
    >>> learner = OnlinePriors([0.5], (-1000, 1000), location=0.0, scale=10.0)
    >>> for day in range(100):
    ...     learner.learn([7.0 + 0.1 * (day % 3)])
    >>> prior = learner.predict()[0].parts[0]
    >>> 6.9 < prior.location < 7.3, prior.scale < 3
    (True, True)
    """

    def __init__(
        self,
        q: ArrayLike,
        domain: Domain | tuple[float, float],
        *,
        features: int = 0,
        location: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        patience: float = 3.0,
        robust: float = 0.1,
        other: Prior | None = None,
    ) -> None:
        self.levels = checked_levels(q)
        self.domain = domain_from(domain)
        if isinstance(features, bool) or not isinstance(features, (int, np.integer)) or features < 0:
            raise ValueError(f"features must be a whole number, at least 0, got {features!r}")
        self.features = int(features)
        middle = (self.domain.lower + self.domain.upper) / 2.0
        quarter = (self.domain.upper - self.domain.lower) / 4.0
        count = len(self.levels)
        self.location = np.broadcast_to(np.asarray(middle if location is None else location, float), count)
        self.scale = np.broadcast_to(np.asarray(quarter if scale is None else scale, float), count)
        if not np.isfinite(self.location).all():
            raise ValueError(f"location must be finite, got {location!r}")
        if not ((self.scale > 0) & np.isfinite(self.scale)).all():
            raise ValueError(f"scale must be above 0 and finite, got {scale!r}")
        self.robust = robust
        self.other = Uniform(self.domain.lower, self.domain.upper) if other is None else other
        mixed(self.other, self.other, robust)  # a wrong share is refused here, not at the first prediction
        self.patience = checked_positive(patience, "patience")
        # Everything is in units of the first guess: 0 is its location, 1 its scale.
        self._rows = np.zeros((0, self.features + 1))
        self._seen = np.zeros((0, count))
        self._slopes = np.zeros((count, self.features + 1))
        self._width = np.ones(count)

    def predict(self, features: ArrayLike | None = None) -> list[Mixture]:
        """A prior for each level, for a data set with these features."""
        places = self.location + self.scale * (self._slopes @ self._checked_features(features))
        places = np.clip(places, self.domain.lower, self.domain.upper)
        widths = np.maximum(self.scale * self._width, self.domain.width_of_step)
        return [
            mixed(Laplace(float(place), float(width)), self.other, self.robust) for place, width in zip(places, widths)
        ]

    def learn(self, released: ArrayLike, features: ArrayLike | None = None) -> None:
        """Take in the private quantiles of a data set, in the order of `q`, and the features it had.

        Raises
        ------
        ValueError
            Another number of quantiles than levels; changes nothing.
        """
        row = self._checked_features(features)
        seen = checked_values(released, "released")
        if seen.size != len(self.levels):
            raise ValueError(f"released must hold {len(self.levels)} quantiles, got {seen.size}")
        self._rows = np.vstack([self._rows, row])
        self._seen = np.vstack([self._seen, (seen - self.location) / self.scale])
        # Least absolute deviations by reweighted least squares, from where the last release left it.
        for _ in range(_ROUNDS):
            distance = np.abs(self._seen - self._rows @ self._slopes.T)
            weights = 1.0 / np.maximum(distance, 0.1 * self._width)
            normal = np.einsum("tm,td,te->mde", weights, self._rows, self._rows)
            normal += self.patience * np.eye(self.features + 1)
            right = np.einsum("tm,td,tm->md", weights, self._rows, self._seen)
            self._slopes = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        distance = np.abs(self._seen - self._rows @ self._slopes.T)
        self._width = (self.patience + distance.sum(axis=0)) / (self.patience + len(self._seen))

    def _checked_features(self, features: ArrayLike | None) -> Vector:
        given = np.zeros(0) if features is None else np.asarray(features, dtype=np.float64)
        if given.shape != (self.features,):
            raise ValueError(f"features must have shape ({self.features},), got {given.shape}")
        if not np.isfinite(given).all():
            raise ValueError(f"features must be finite, got {given.tolist()}")
        return np.concatenate([[1.0], given])
