"""A regression a task under one budget a user: influence, noise, and what weights do for small tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tercile.quantiles.private import private_task_regression, user_weights
from tercile.quantiles.private.multitask import _Pairs
from tercile.quantiles.private.randomness import Randomness


def made(users: int = 3000, tasks: int = 30, seed: int = 0) -> dict[str, Any]:
    """Users in some five of many tasks, whose sizes fall as 1/rank^1.3; every task has its own coefficients."""
    rng = np.random.default_rng(seed)
    chance = 1.0 / np.arange(1, tasks + 1) ** 1.3
    user = np.repeat(np.arange(users), 5)
    task = rng.choice(tasks, user.size, p=chance / chance.sum())
    x = np.column_stack([np.ones(user.size), rng.uniform(-1, 1, user.size)])
    truth = rng.normal([0.3, 0.0], [0.2, 0.2], (tasks, 2))
    y = np.einsum("ij,ij->i", x, truth[task]) + rng.normal(0, 0.1, user.size)
    return {"features": x, "target": y, "user": user, "task": task, "truth": truth, "tasks": tasks}


def fitted(data: dict[str, Any], **settings: Any) -> np.ndarray:
    given = {name: data[name] for name in ("features", "target", "user", "task", "tasks")}
    settings = {"rho": 0.5, "ridge": 3.0, "random_state": 0} | settings
    return private_task_regression(**given, feature_bound=1.5, target_bound=1.5, **settings).coefficients


def test_every_users_influence_is_one_whatever_the_weights() -> None:
    rng = np.random.default_rng(1)
    user, task = rng.integers(0, 50, 1000), rng.integers(0, 8, 1000)
    weights = user_weights(user, task, rng.uniform(0.01, 5, 8))
    for one in range(50):
        mine = user == one
        assert (np.bincount(task[mine], weights[mine]) ** 2).sum() == pytest.approx(1.0)


def test_one_user_moves_the_rounded_sums_by_no_more_than_the_sensitivity() -> None:
    data = made(users=200, tasks=12, seed=2)
    weights = user_weights(data["user"], data["task"], np.arange(1.0, 13.0))
    statistics = np.column_stack([np.ones(1000), data["features"][:, 1]]) / np.sqrt(2)

    def sums(kept: np.ndarray) -> tuple[np.ndarray, float]:
        pairs = _Pairs(data["user"][kept], data["task"][kept], 12)
        noisy, spread = pairs.noisy_sums(statistics[kept], weights[kept], 0.5, Randomness(3))
        return noisy, spread

    everyone = np.ones(1000, dtype=bool)
    for one in range(20):
        # The same seed draws the same noise: the difference is the user's part alone.
        difference = np.linalg.norm(sums(everyone)[0] - sums(data["user"] != one)[0])
        # spread^2 = sensitivity^2 / (2 rho), so at rho = 1/2 the spread is the sensitivity.
        assert difference <= sums(everyone)[1] + 1e-9


def test_with_all_the_budget_there_is_it_is_weighted_least_squares() -> None:
    data = made(users=1000, tasks=4)
    found = fitted(data, rho=1e5, exponent=0.0, ridge=0.0)
    weights = user_weights(data["user"], data["task"], np.ones(4))
    for task in range(4):
        rows = data["task"] == task
        x, y, w = data["features"][rows], data["target"][rows], weights[rows]
        wanted = np.linalg.solve((x * w[:, None]).T @ x, (x * w[:, None]).T @ y)
        assert found[task] == pytest.approx(wanted, abs=2e-3)


def test_small_tasks_gain_from_weights_by_size_and_the_whole_does_not_lose() -> None:
    small, whole = [], []
    for seed in range(6):
        data = made(seed=seed)
        size = np.bincount(data["task"], minlength=30)
        for exponent in (0.0, 0.5):
            error = ((fitted(data, exponent=exponent, random_state=seed) - data["truth"]) ** 2).sum(axis=1)
            small.append(error[15:].mean())
            whole.append((error * size).sum() / size.sum())
    assert np.mean(small[1::2]) < 0.8 * np.mean(small[::2])
    assert np.mean(whole[1::2]) < np.mean(whole[::2])


def test_a_task_without_examples_gets_what_all_have_in_common() -> None:
    data = made(users=2000, tasks=3)
    data["tasks"] = 4
    found = fitted(data, rho=5.0)
    assert np.abs(found[3]).max() < 1.0 and found[3][0] == pytest.approx(found[:3, 0].mean(), abs=0.3)


def test_without_a_ridge_and_with_next_to_no_budget_there_is_still_an_answer() -> None:
    assert np.isfinite(fitted(made(users=20, tasks=5), rho=1e-3, ridge=0.0)).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": np.ones(3)}, ValueError, "features must have 2 axes"),
        ({"features": np.ones((0, 2)), "target": [], "user": [], "task": []}, ValueError, "features is empty"),
        ({"features": [["a"]] * 3}, TypeError, "features must be numbers"),
        ({"target": [1.0, np.nan, 0.0]}, ValueError, "target holds NaN"),
        ({"target": [1.0]}, ValueError, r"target must have shape \(3,\)"),
        ({"user": [0.5, 1.0, 2.0]}, TypeError, "user must be whole numbers"),
        ({"task": [0, 1, 5]}, ValueError, "task must be from 0 to tasks - 1 = 1, got 0 to 5"),
        ({"tasks": 0}, ValueError, "tasks must be a whole number"),
        ({"rho": 0.0}, ValueError, "rho must be above 0"),
        ({"rho": 1e-12}, ValueError, "rho is too small for 2 tasks"),
        ({"feature_bound": -1.0}, ValueError, "feature_bound must be above 0"),
        ({"exponent": -0.5}, ValueError, "exponent must be 0 to 2"),
        ({"ridge": np.inf}, ValueError, "ridge must be at least 0"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict, error: type[Exception], message: str) -> None:
    given = {
        "features": np.ones((3, 1)), "target": [1.0, 0.0, 1.0], "user": [0, 1, 1], "task": [0, 1, 1], "tasks": 2,
        "feature_bound": 1.0, "target_bound": 1.0, "rho": 1.0,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        private_task_regression(**(given | change))
