"""Priors for private quantiles: fitted to public data, learned from releases, and wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tercile.papers import Check, Size, paper
from tercile.papers.flights import flights, rank_error
from tercile.quantiles.private import (
    Cauchy,
    Domain,
    Laplace,
    OnlinePriors,
    Prior,
    fit_priors,
    mixed,
    prediction_loss,
    private_quantiles,
)

PAPER = paper(
    "learned_private_quantiles", authors="Khodak, Amin, Dick, Vassilvitskii", year=2023, source="arXiv:2210.11222"
)
MEASURED_ON = (
    "nine private deciles of many small data sets, mean error in rank. Delays: arrival delays of each day (some 930 "
    "flights), epsilon 0.1, domain of +-10,000 minutes; January is public and the fit is tested on the rest of the "
    "year. Times: minutes in the air of a route in a month (100 flights or more), epsilon 0.5, domain of 10,000 "
    "minutes, learned online from releases alone with the miles of the route as the feature; the last two thirds count"
)
BASELINE = (
    "the same recursion with a uniform prior, with a Cauchy prior from a guess (0 +- 300 minutes; 150 +- 100), and "
    "for times with the route's last release as the prediction"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"days": 12, "routes": 5},
    "full": {"days": 110, "routes": 40, "seeds": "days, routes and noise"},
}
SEEDS = (0, 1, 2)
LEVELS = np.arange(1, 10) / 10
DELAYS, TIMES = Domain(-10_000, 10_000, 1), Domain(0, 10_000, 1)
DELAY_GUESS, TIME_GUESS = Cauchy(0.0, 300.0), Cauchy(150.0, 100.0)
#: A prediction that could not be more wrong, and how much of the guess is mixed in to survive it.
WRONG, SHARE = Laplace(5000.0, 1.0), 0.1
RULE = (
    Check("fitted_error", at_most="0.5 * uniform_error", quick_slack=0.3),
    Check("fitted_error", at_most="0.9 * guess_error", quick=False),
    Check("wrong_error", at_least="2 * wrong_robust_error", quick_slack=0.3),
    Check("wrong_robust_error", at_most="uniform_error", quick_slack=0.2),
    Check("wrong_robust_loss", at_most="guess_loss + 2.4"),
    Check("online_error", at_most="0.6 * time_uniform_error", quick=False),
    Check("online_error", at_most="0.9 * time_guess_error", quick=False),
    Check("online_error", at_most="time_last_release_error", quick=False),
)

Priors = Prior | Sequence[Prior | None] | None


def experiment(size: Size, seed: int) -> dict[str, float]:
    """Errors with each prior on the days and on the routes."""
    given = SIZES[size]
    return _delays(int(given["days"]), seed) | _times(int(given["routes"]), seed)


def _delays(count: int, seed: int) -> dict[str, float]:
    table = flights()
    delay, day = table["arrival_delay"].astype(np.float64), table["day"]
    rng = np.random.default_rng(seed)
    public = [delay[day == one] for one in range(31)]
    private = [delay[day == one] for one in rng.choice(np.arange(31, 365), count, replace=False)]
    priors: dict[str, Priors] = {
        "uniform": None,
        "guess": DELAY_GUESS,
        "fitted": fit_priors(public, LEVELS, DELAYS, other=DELAY_GUESS),
        "wrong": WRONG,
        "wrong_robust": mixed(WRONG, DELAY_GUESS, SHARE),
    }
    found = {}
    for name, prior in priors.items():
        errors = [
            _error(x, private_quantiles(x, LEVELS, DELAYS, epsilon=0.1, priors=prior, random_state=seed + 1000 * i))
            for i, x in enumerate(private)
        ]
        found[f"{name}_error"] = float(np.mean(errors))
    for name, one in (("guess", DELAY_GUESS), ("wrong_robust", mixed(WRONG, DELAY_GUESS, SHARE))):
        losses = [prediction_loss(x, 0.5, one, DELAYS, 0.1) for x in private[:20]]
        found[f"{name}_loss"] = float(np.mean(losses))
    return found


def _times(count: int, seed: int) -> dict[str, float]:
    table = flights()
    rng = np.random.default_rng(seed)
    month, route, time = table["day"] // 31, table["route"], table["air_time"].astype(np.float64)
    busy = np.flatnonzero(np.bincount(route) >= 1200)
    series = []
    for where in rng.choice(busy, count, replace=False):
        for when in range(12):
            x = time[(route == where) & (month == when)]
            if x.size >= 100:
                series.append((when, int(where), x))
    series.sort(key=lambda each: each[0])
    miles = table["miles"] / 1000.0
    learner = OnlinePriors(LEVELS, TIMES, features=1, location=150.0, scale=100.0, other=TIME_GUESS)
    last: dict[int, np.ndarray] = {}

    def last_release(where: int) -> Priors:
        return [mixed(Laplace(v, 10.0), TIME_GUESS) for v in last[where]] if where in last else TIME_GUESS

    def learn(where: int, released: np.ndarray) -> None:
        learner.learn(released, [miles[where]])

    ways: dict[str, tuple[Callable[[int], Priors], Callable[[int, np.ndarray], None] | None]] = {
        "time_uniform": (lambda where: None, None),
        "time_guess": (lambda where: TIME_GUESS, None),
        "time_last_release": (last_release, last.__setitem__),
        "online": (lambda where: learner.predict([miles[where]]), learn),
    }
    found = {}
    for name, (prior, after) in ways.items():
        errors = []
        for i, (_, where, x) in enumerate(series):
            released = private_quantiles(
                x, LEVELS, TIMES, epsilon=0.5, priors=prior(where), random_state=seed + 1000 * i
            )
            errors.append(_error(x, released))
            if after is not None:
                after(where, released)
        found[f"{name}_error"] = float(np.mean(errors[len(errors) // 3 :]))
    return found


def _error(x: np.ndarray, released: np.ndarray) -> float:
    return float(rank_error(np.sort(x), released, LEVELS).mean())
