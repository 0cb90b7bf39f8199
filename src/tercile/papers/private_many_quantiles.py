"""Many private quantiles: by recursion and through the density, from one quantile to a thousand."""

from __future__ import annotations

import numpy as np
from scipy import stats

from tercile.papers import Check, Size, paper
from tercile.papers.flights import flights, rank_error
from tercile.quantiles.private import Domain, private_histogram, private_quantile, private_quantiles

PAPER = paper("private_many_quantiles", authors="Lalanne, Garivier, Gribonval", year=2023, source="arXiv:2302.06943")
MEASURED_ON = (
    "m evenly spaced quantiles of a distribution, from 10,000 draws at epsilon 0.1 in all: the largest error in rank "
    "under the distribution; draws from Beta(2, 5), and from the minutes in the air of 327,346 flights in a domain of "
    "0 to 1,000"
)
BASELINE = (
    "each route is the other's baseline; and m single quantiles by the exponential mechanism, an mth of the budget each"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"draws": 10_000, "repeats": 2, "quantiles": "4, 16, 1024"},
    "full": {"draws": 10_000, "repeats": 24, "quantiles": "1, 4, 16, 64, 256, 1024", "seeds": "draws and noise"},
}
SEEDS = (0, 1, 2)
EPSILON = 0.1
RULE = (
    Check("beta_recursive_4", at_most="beta_density_4", quick=False),
    Check("flights_recursive_4", at_most="0.8 * flights_density_4", quick_slack=0.3),
    Check("beta_density_1024", at_most="0.8 * beta_recursive_1024", quick_slack=0.2),
    Check("flights_density_1024", at_most="0.8 * flights_recursive_1024", quick_slack=0.2),
    Check("beta_recursive_16", at_most="0.7 * beta_single_16", quick_slack=0.3),
    Check("flights_recursive_16", at_most="0.7 * flights_single_16", quick_slack=0.3),
)


def experiment(size: Size, seed: int) -> dict[str, float]:
    """Mean over repeats of the worst error, for every number of quantiles, route and distribution."""
    given = SIZES[size]
    rng = np.random.default_rng(seed)
    in_the_air = np.sort(flights()["air_time"].astype(np.float64))
    found: dict[str, list[float]] = {}
    for repeat in range(int(given["repeats"])):
        draws = int(given["draws"])
        for name, x, domain in (
            ("beta", rng.beta(2, 5, draws), Domain(0, 1)),
            ("flights", rng.choice(in_the_air, draws, replace=False), Domain(0, 1000, 1)),
        ):

            def worst(answers: np.ndarray, q: np.ndarray, name: str = name) -> float:
                if name == "beta":
                    return float(np.abs(stats.beta.cdf(answers, 2, 5) - q).max())
                return float(rank_error(in_the_air, answers, q).max())

            density = private_histogram(x, domain, epsilon=EPSILON, random_state=repeat)
            for m in (int(each) for each in str(given["quantiles"]).split(", ")):
                q = np.arange(1, m + 1) / (m + 1)
                recursive = private_quantiles(x, q, domain, epsilon=EPSILON, random_state=repeat)
                found.setdefault(f"{name}_recursive_{m}", []).append(worst(recursive, q))
                found.setdefault(f"{name}_density_{m}", []).append(worst(density.quantile(q), q))
                if m == 16:
                    single = [private_quantile(x, p, domain, epsilon=EPSILON / m, random_state=repeat) for p in q]
                    found.setdefault(f"{name}_single_{m}", []).append(worst(np.array(single), q))
    return {name: float(np.mean(errors)) for name, errors in found.items()}
