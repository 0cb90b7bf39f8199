"""Private means, centres and quantiles beside what leaving out a few records would change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tercile.papers import Check, Size, paper
from tercile.papers.flights import flights
from tercile.quantiles.private import (
    LogUniform,
    private_quantiles,
    removal_effect,
    subset_optimal_center,
    subset_optimal_mean,
    subset_optimal_quantile,
)

PAPER = paper("subset_optimal_dp", authors="Dick, Kulesza, Sun, Suresh", year=2023, source="arXiv:2303.01262")
MEASURED_ON = (
    "mean, median and 90% quantile of 10,000 records at epsilon 1 in a domain of +-1,000,000: median error over "
    "repeats, each with fresh data; Pareto (index 1.5), Student t (2), lognormal (sigma 2), normal near and far off, "
    "rare coins, and arrival delays of flights; beside the effect of leaving out the 40 worst records"
)
BASELINE = (
    "Laplace noise for the width of the domain; and clipping to private quantiles with log-uniform priors for half "
    "the budget, then Laplace noise for their distance, at 1% a side, and at the best of four levels picked on the "
    "very numbers reported"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"records": 10_000, "repeats": 3},
    "full": {"records": 10_000, "repeats": 25, "seeds": "records and noise"},
}
SEEDS = (0, 1, 2)
WIDTH, EPSILON, WORST = 1e6, 1.0, 40
DOMAIN = (-WIDTH, WIDTH)
CLIPS = (0.002, 0.005, 0.01, 0.03)
#: Whole numbers, whose median no removal changes.
WHOLE = ("coins", "delays")
HEAVY = ("pareto", "student", "lognormal", "delays")
RULE = (
    Check("largest_share_of_benchmark", at_most="1", quick_slack=0.5),
    *(Check(f"{name}_error", at_most=f"0.05 * {name}_laplace_error", quick_slack=0.2) for name in HEAVY),
    *(Check(f"{name}_error", at_most=f"{name}_clipped_error", quick=False) for name in HEAVY),
    *(Check(f"{name}_error", at_most=f"1.5 * {name}_best_clipped_error", quick=False) for name in HEAVY),
    Check("laplace_share_of_benchmark", at_least="10"),
    Check("median_share_of_benchmark", at_most="1", quick_slack=0.5),
    Check("quantile_share_of_benchmark", at_most="1", quick_slack=0.5),
)

Answer = Callable[[np.ndarray, int], float]


def experiment(size: Size, seed: int) -> dict[str, float]:
    """Medians, over data sets drawn anew for each repeat, of every error and of the benchmark."""
    given = SIZES[size]
    errors: dict[str, list[float]] = {}
    for repeat in range(int(given["repeats"])):
        draw = 1000 * seed + repeat
        for name, x in data_sets(int(given["records"]), draw).items():
            for what, error in errors_of(x, draw, middle=name not in WHOLE).items():
                errors.setdefault(f"{name}_{what}", []).append(error)
    found = {name: float(np.median(each)) for name, each in errors.items()}
    names = sorted(name.removesuffix("_error") for name in found if f"{name.removesuffix('_error')}_benchmark" in found)
    for name in names:
        found[f"{name}_best_clipped_error"] = min(found.pop(f"{name}_clipped_{level}") for level in CLIPS)
    found["largest_share_of_benchmark"] = max(found[f"{name}_error"] / found[f"{name}_benchmark"] for name in names)
    found["laplace_share_of_benchmark"] = min(
        found[f"{name}_laplace_error"] / found[f"{name}_benchmark"] for name in names
    )
    for what in ("median", "quantile"):
        shares = [found.pop(f"{name}_{what}_share") for name in names if name not in WHOLE]
        found[f"{what}_share_of_benchmark"] = max(shares)
    return found


def errors_of(x: np.ndarray, seed: int, middle: bool) -> dict[str, float]:
    """What each mean is off by on one data set, and, on numbers that are not whole, the median and a quantile."""
    mean = float(x.mean())
    found = {
        "error": abs(subset_optimal_mean(x, DOMAIN, epsilon=EPSILON, random_state=seed) - mean),
        "laplace_error": abs(laplace_mean(x, seed) - mean),
        "benchmark": removal_effect(x, WORST),
    }
    found |= {f"clipped_{level}": abs(clipped_mean(level)(x, seed) - mean) for level in CLIPS}
    found["clipped_error"] = found["clipped_0.01"]
    if middle:
        half = subset_optimal_center(x, DOMAIN, power=1, epsilon=EPSILON, random_state=seed)
        found["median_share"] = abs(half - float(np.median(x))) / removal_effect(x, WORST, power=1)
        tenth, truth = subset_optimal_quantile(x, 0.9, DOMAIN, epsilon=EPSILON, random_state=seed), np.quantile(x, 0.9)
        effect = max(abs(np.quantile(part, 0.9) - truth) for part in ends(x))
        found["quantile_share"] = float(abs(tenth - truth) / effect)
    return found


def ends(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left without the WORST largest, and without the WORST smallest."""
    ordered = np.sort(x)
    return ordered[:-WORST], ordered[WORST:]


def data_sets(records: int, seed: int) -> dict[str, np.ndarray]:
    """Heavy tails, light tails, far from 0, mostly zeros, and real delays."""
    rng = np.random.default_rng(seed)
    delays = flights()["arrival_delay"].astype(np.float64)
    return {
        "pareto": rng.pareto(1.5, records),
        "student": rng.standard_t(2, records),
        "lognormal": rng.lognormal(0, 2, records),
        "normal": rng.normal(3, 1, records),
        "far": rng.normal(2e5, 5, records),
        "coins": (rng.random(records) < 0.02).astype(np.float64),
        "delays": rng.choice(delays, records, replace=False),
    }


def laplace_mean(x: np.ndarray, seed: int) -> float:
    """The mean with noise for the whole domain, as if the number of records were public."""
    noise = np.random.default_rng(seed).laplace(scale=2 * WIDTH / (x.size * EPSILON))
    return float(x.mean() + noise)


def clipped_mean(level: float) -> Answer:
    """The mean of what is clipped to private quantiles, with noise for their distance."""

    def answer(x: np.ndarray, seed: int) -> float:
        rng = np.random.default_rng(seed)
        prior = LogUniform(0.0, 1e-3, WIDTH)
        low, high = private_quantiles(
            x, [level, 1 - level], (-WIDTH, WIDTH), epsilon=EPSILON / 2, priors=prior, random_state=rng
        )
        return float(np.clip(x, low, high).mean() + rng.laplace(scale=(high - low) / (x.size * EPSILON / 2)))

    return answer
