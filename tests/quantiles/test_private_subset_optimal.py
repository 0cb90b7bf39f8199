"""Means, centres and quantiles whose error fits the data: edits by brute force, and errors against the standard."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tercile.quantiles.private import (
    Domain,
    removal_effect,
    subset_optimal_center,
    subset_optimal_mean,
    subset_optimal_quantile,
)
from tercile.quantiles.private.power_sums import PowerSums

EDGE = 6


def slope(records: tuple[int, ...], y: int, power: int) -> int:
    return sum((1 if y > x else -1 if y < x else 0) * abs(y - x) ** power for x in records)


def edits_needed(records: list[int], y: int, power: int, most: int) -> int:
    """The fewest records to drop or to add, anywhere from 0 to the edge, for the centre to reach y or beyond."""
    for edits in range(most + 1):
        for dropped in range(min(edits, len(records)) + 1):
            for kept in combinations(records, len(records) - dropped):
                for added in combinations_with_replacement(range(EDGE + 1), edits - dropped):
                    if slope(kept + added, y, power) <= 0:
                        return edits
    return most + 1


@given(st.lists(st.integers(0, EDGE), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_reach_of_the_centre_is_the_brute_force_over_all_edits(records: list[int], power: int) -> None:
    most = 3
    found = PowerSums(np.sort(records).astype(np.int64), power).upper_edges(EDGE, most)
    reachable = [edits_needed(records, y, power, most) for y in range(EDGE + 1)]
    for edits, edge in enumerate(found.tolist()):
        assert edge == max(y for y in range(EDGE + 1) if reachable[y] <= edits)
    assert found.size == most + 1 or found[-1] == EDGE


def test_powers_of_large_cells_do_not_overflow() -> None:
    cells = np.array([0, 2**53 - 5, 2**53 - 1])
    sums = PowerSums(cells, 7)
    y = 2**52
    assert sums.between(y, 0, 3) == sum((y - int(x)) ** 7 for x in cells)


@pytest.mark.parametrize("power", [1, 2, 3, 6])
def test_with_all_the_budget_there_is_the_centre_is_the_minimiser(power: int) -> None:
    x = np.random.default_rng(0).gamma(2.0, size=3000)
    best = minimize_scalar(lambda y: (np.abs(x - y) ** power).sum(), bounds=(0, 20), method="bounded").x
    found = subset_optimal_center(x, (0, 1000), power=power, epsilon=500.0, random_state=1)
    assert found == pytest.approx(best, abs=0.03)


@pytest.mark.parametrize("accounting", [{"epsilon": 1.0}, {"rho": 0.125}])
def test_width_of_the_domain_hardly_matters(accounting: dict[str, float]) -> None:
    x = np.random.default_rng(1).normal(3, 2, 5000)
    errors = [
        np.median([abs(subset_optimal_mean(x, (-w, w), random_state=s, **accounting) - x.mean()) for s in range(9)])
        for w in (30.0, 3e7)
    ]
    assert errors[1] < 4 * errors[0] + 0.01 and errors[1] < 0.05


@pytest.mark.parametrize("name", ["pareto", "cauchy", "outlier", "normal"])
def test_error_is_that_of_leaving_out_a_few_records(name: str) -> None:
    rng = np.random.default_rng(2)
    x = {
        "pareto": rng.pareto(1.5, 5000),
        "cauchy": rng.standard_cauchy(5000),
        "outlier": np.append(rng.normal(size=4999), 1e6),
        "normal": rng.normal(size=5000),
    }[name]
    domain = (-1e7, 1e7)
    errors = [abs(subset_optimal_mean(x, domain, epsilon=1.0, random_state=s) - x.mean()) for s in range(15)]
    # 40 is a few times log(width) / (share of epsilon): what finding the range has to cost.
    assert np.median(errors) <= removal_effect(x, 40)
    # One record that is most of the mean cannot be kept by any private answer.
    assert name == "outlier" or np.median(errors) < 0.01 * 2e7 / 5000


def test_quantile_needs_no_idea_of_the_scale() -> None:
    x = np.random.default_rng(3).normal(5, 1e-3, 5000)
    found = [subset_optimal_quantile(x, 0.75, (-1e5, 1e5), epsilon=1.0, random_state=s) for s in range(15)]
    ranks = np.searchsorted(np.sort(x), found) / 5000
    assert np.abs(np.median(ranks) - 0.75) < 0.02


def test_few_records_and_coarse_steps_still_give_an_answer_inside() -> None:
    for x in ([2.0], [0.0, 10.0], [5.0] * 3):
        for power in (1, 2, 4):
            found = subset_optimal_center(x, Domain(0, 10, 1), power=power, epsilon=2.0, random_state=0)
            assert 0 <= found <= 10


def test_removal_effect_is_the_worst_of_all_subsets() -> None:
    rng = np.random.default_rng(4)
    for power, of in ((1, np.median), (2, np.mean)):
        x = rng.exponential(size=9)
        worst = max(abs(of(np.delete(x, list(gone))) - of(x)) for k in range(3) for gone in combinations(range(9), k))
        assert removal_effect(x, 2, power) == pytest.approx(worst)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": []}, ValueError, "values is empty"),
        ({"values": [np.nan]}, ValueError, r"values\[0\] is NaN"),
        ({"domain": (3, 0)}, ValueError, "lower must be below upper"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be above 0"),
        ({"power": 0}, ValueError, "power must be a whole number from 1 to 8, got 0"),
        ({"power": 1.5}, ValueError, "power must be a whole number from 1 to 8, got 1.5"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict, error: type[Exception], message: str) -> None:
    given = {"values": [1.0, 2.0], "domain": (0, 3), "epsilon": 1.0, "power": 2} | change
    with pytest.raises(error, match=message):
        subset_optimal_center(**given)
    with pytest.raises(ValueError, match="q must be from 0 to 1"):
        subset_optimal_quantile([1.0], 2, (0, 3), epsilon=1.0)
    with pytest.raises(ValueError, match="count must be at least 0 and below 1"):
        removal_effect([1.0], 1)
