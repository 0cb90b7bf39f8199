"""Attacks on every mechanism of tercile.quantiles.private, found by walking its public names.

A mechanism is a public function that can charge a budget. Each is run on two neighbouring data sets picked to make
its loss as large as can be; the epsilon that the outcomes prove has to stay below what is claimed, in both accountings,
and has to pass it when the same mechanism secretly spends several times as much.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tercile.quantiles import private as room
from tercile.quantiles.private import (
    BudgetExceeded,
    Domain,
    Laplace,
    PrivacyBudget,
    audited_epsilon,
    epsilon_from_rho,
    private_histogram,
    private_quantile,
    private_quantiles,
    private_task_regression,
    subset_optimal_center,
    subset_optimal_mean,
    subset_optimal_quantile,
)
from tercile.quantiles.private.exponential import draw_rank
from tercile.quantiles.private.prior import measure_of
from tercile.quantiles.private.randomness import Randomness

DELTA = 0.02


@dataclass(frozen=True)
class Attack:
    """How to run a mechanism down to one number, on which neighbours, and how much overspending must be seen."""

    run: Callable[..., float]
    data: Any
    neighbour: Any
    runs: int = 1500
    caught: float = 4.0
    claim: float = 0.6
    rho: float = 0.1


HIGH, HIGH_AND_ONE = [100.0] * 3, [100.0] * 3 + [90.0]
EVEN, UNEVEN = [0.0] * 100 + [100.0] * 100, [0.0] * 98 + [100.0] * 102
DOMAIN, QUARTILES = (0.0, 100.0), [0.25, 0.5, 0.75]


def users(count: int, extra: int) -> dict[str, np.ndarray]:
    """Users who say -1 to task 0, each, and `extra` who say 1."""
    target = np.append(np.full(count, -1.0), np.full(extra, 1.0))
    n = target.size
    return {"features": np.ones((n, 1)), "target": target, "user": np.arange(n), "task": np.zeros(n, dtype=int)}


ATTACKS = {
    "private_quantile": [
        Attack(lambda x, g, **c: private_quantile(x, 0.5, DOMAIN, random_state=g, **c), HIGH, HIGH_AND_ONE),
        Attack(lambda x, g, **c: private_quantile(x, 0.9, DOMAIN, random_state=g, **c), HIGH, HIGH_AND_ONE, caught=10),
        Attack(
            lambda x, g, **c: private_quantile(x, 0.5, DOMAIN, prior=Laplace(80.0, 5.0), random_state=g, **c),
            HIGH,
            HIGH_AND_ONE,
        ),
        Attack(lambda x, g, **c: private_quantile(x, 0.5, Domain(0, 100, 1), random_state=g, **c), HIGH, HIGH_AND_ONE),
    ],
    "private_quantiles": [
        Attack(
            lambda x, g, **c: float(private_quantiles(x, QUARTILES, DOMAIN, random_state=g, **c)[1]),
            HIGH,
            HIGH_AND_ONE,
            caught=10,
        ),
        Attack(
            lambda x, g, **c: float(private_quantiles(x, QUARTILES, DOMAIN, random_state=g, **c).sum()),
            HIGH,
            HIGH_AND_ONE,
            caught=12,
        ),
    ],
    "private_histogram": [
        Attack(
            lambda x, g, **c: float(private_histogram(x, DOMAIN, bins=4, random_state=g, **c).noisy[3]),
            HIGH,
            HIGH_AND_ONE,
            runs=500,
        ),
        Attack(
            lambda x, g, **c: float(private_histogram(x, DOMAIN, random_state=g, **c).edges.size),
            HIGH,
            HIGH_AND_ONE,
            runs=300,
            caught=0,
        ),
    ],
    "subset_optimal_mean": [
        Attack(
            lambda x, g, **c: subset_optimal_mean(x, DOMAIN, random_state=g, **c),
            EVEN,
            [*EVEN, 100.0],
            runs=300,
            claim=1.5,
            rho=0.3,
            caught=20,
        )
    ],
    "subset_optimal_center": [
        Attack(
            lambda x, g, **c: subset_optimal_center(x, DOMAIN, power=3, random_state=g, **c),
            EVEN,
            [*EVEN, 100.0],
            runs=300,
            claim=1.5,
            rho=0.3,
            caught=20,
        )
    ],
    "subset_optimal_quantile": [
        Attack(
            lambda x, g, **c: subset_optimal_quantile(x, 0.5, DOMAIN, random_state=g, **c),
            UNEVEN,
            [*UNEVEN, 90.0],
            runs=1000,
            caught=8,
        )
    ],
    "private_task_regression": [
        Attack(
            lambda x, g, **c: float(
                private_task_regression(
                    **x, tasks=1, feature_bound=1.0, target_bound=1.0, ridge=0.1, random_state=g, **c
                ).coefficients[0, 0]
            ),
            users(1, 0),
            users(1, 1),
            runs=500,
            caught=40,
        ),
        Attack(
            lambda x, g, **c: float(
                private_task_regression(**x, tasks=1, feature_bound=1.0, target_bound=1.0, random_state=g, **c).counts[
                    0
                ]
            ),
            users(1, 0),
            users(1, 1),
            runs=300,
            caught=0,
        ),
    ],
}

MECHANISMS = {
    name: inspect.signature(getattr(room, name)).parameters
    for name in room.__all__
    if inspect.isfunction(getattr(room, name)) and "budget" in inspect.signature(getattr(room, name)).parameters
}
EVERY = [pytest.param(name, attack, id=f"{name}-{i}") for name in ATTACKS for i, attack in enumerate(ATTACKS[name])]
PURE = [parameter for parameter in EVERY if "epsilon" in MECHANISMS.get(parameter.values[0], ())]


def test_every_mechanism_is_attacked() -> None:
    assert MECHANISMS.keys() == ATTACKS.keys(), "add the new mechanism to ATTACKS"


@pytest.mark.parametrize(("name", "attack"), PURE)
def test_the_attack_proves_no_more_than_the_claim(name: str, attack: Attack) -> None:
    found = audited_epsilon(
        lambda x, g: attack.run(x, g, epsilon=attack.claim), attack.data, attack.neighbour, runs=attack.runs
    )
    assert found <= attack.claim


@pytest.mark.parametrize(("name", "attack"), EVERY)
def test_nor_than_the_claim_in_concentrated_accounting(name: str, attack: Attack) -> None:
    found = audited_epsilon(
        lambda x, g: attack.run(x, g, rho=attack.rho), attack.data, attack.neighbour, runs=attack.runs, delta=DELTA
    )
    assert found <= epsilon_from_rho(attack.rho, DELTA)


@pytest.mark.parametrize(("name", "attack"), [each for each in EVERY if each.values[1].caught])
def test_the_attack_catches_a_mechanism_that_spends_more_than_it_says(name: str, attack: Attack) -> None:
    if "epsilon" in MECHANISMS[name]:
        cost, claim, delta = {"epsilon": attack.claim * attack.caught}, attack.claim, 0.0
    else:
        cost, claim, delta = {"rho": attack.rho * attack.caught}, epsilon_from_rho(attack.rho, DELTA), DELTA
    found = audited_epsilon(
        lambda x, g: attack.run(x, g, **cost), attack.data, attack.neighbour, runs=attack.runs, delta=delta
    )
    assert found > claim


def test_the_attack_catches_bounds_that_were_read_off_the_data() -> None:
    def broken(x: list[float], g: np.random.Generator) -> float:
        return private_quantile(x, 0.5, (min(x) - 1, max(x)), epsilon=0.5, random_state=g)

    assert audited_epsilon(broken, [100.0] * 3, [100.0] * 3 + [0.0], runs=1000) > 0.5


def test_the_attack_catches_a_score_with_a_quarter_of_its_sensitivity() -> None:
    def broken(x: list[float], g: np.random.Generator) -> float:
        cells = np.sort(Domain(*DOMAIN).cells_of(np.array(x), Randomness(g)))
        whole = (0, Domain(*DOMAIN).cells - 1)
        measure = measure_of(None, Domain(*DOMAIN))
        return float(draw_rank(cells, Fraction(cells.size, 2), Fraction(1, 8), 0.6, measure, whole, Randomness(g)))

    assert audited_epsilon(broken, HIGH, HIGH_AND_ONE, runs=1500) > 0.6


@pytest.mark.parametrize(("name", "attack"), EVERY)
def test_an_empty_purse_is_refused_and_left_as_it_was(name: str, attack: Attack) -> None:
    budget = PrivacyBudget(rho=0.05)
    with pytest.raises(BudgetExceeded, match=name):
        attack.run(attack.data, 0, rho=0.1, budget=budget)
    assert budget.history == ()
    attack.run(attack.data, 0, rho=0.05, budget=budget)
    assert budget.remaining == 0.0


@pytest.mark.parametrize(("name", "attack"), EVERY)
def test_a_seed_repeats_and_none_does_not(name: str, attack: Attack) -> None:
    assert attack.run(attack.data, 3, rho=0.1) == attack.run(attack.data, 3, rho=0.1)
    assert len({attack.run(attack.data, None, rho=1e-3) for _ in range(12)}) > 1 or not attack.caught


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_docstring_says_what_is_protected_and_what_it_costs(name: str) -> None:
    text = inspect.getdoc(getattr(room, name)) or ""
    for word in ("*Neighbours*", "*Sensitivity*", "*Accounting*"):
        assert word.lower() in text.lower(), f"{name} does not state {word}"


def test_the_bound_itself_is_a_bound() -> None:
    # Randomised response of known epsilon: the bound is above it in at most one in a thousand attacks.
    epsilon, rng = 1.0, np.random.default_rng(0)
    chance = np.exp(epsilon) / (1 + np.exp(epsilon))
    above = 0
    for _ in range(300):
        first, second = rng.random(400) < chance, rng.random(400) < 1 - chance
        above += room.epsilon_lower_bound(first, second, confidence=0.99) > epsilon
    assert above <= 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 5}, "runs must be"),
        ({"delta": 1.0}, "delta must be"),
        ({"confidence": 1.0}, "confidence must be"),
    ],
)
def test_bad_settings_of_an_attack_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audited_epsilon(lambda x, g: 0.0, [], [], **change)
    with pytest.raises(ValueError, match="at least 100 each"):
        room.epsilon_lower_bound([1.0], [1.0])
    with pytest.raises(ValueError, match="hold NaN"):
        room.epsilon_lower_bound(np.full(200, np.nan), np.zeros(200))
