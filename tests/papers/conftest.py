"""A toy method whose numbers the tests can turn, so that the machinery is tried without a real experiment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tercile.papers import Check, Measured, Method, paper

RULE = (
    Check("error", at_most="0.9 * baseline_error", quick_slack=0.1),
    Check("accuracy", at_least="0.8", quick=False),
)


@pytest.fixture
def toy() -> Callable[..., Method]:
    """`toy(error=[...], accuracy=[...])`: one number a seed; the baseline's error is 1 for every seed."""

    def build(
        error: tuple[float, ...] = (0.5, 0.6, 0.7),
        accuracy: tuple[float, ...] = (0.9, 0.9, 0.9),
        rule: tuple[Check, ...] = RULE,
        slug: str = "range_estimation",
    ) -> Method:
        def experiment(size: str, seed: int) -> dict[str, Measured | float]:
            measured = Measured(
                error[seed], "relative error", lower=error[seed] - 0.1, upper=error[seed] + 0.1
            )
            return {
                "error": measured,
                "baseline_error": Measured(1.0, "relative error"),
                "accuracy": accuracy[seed],
            }

        sizes = {"quick": {"pictures": 10}, "full": {"pictures": 1000}}
        seeds = tuple(range(len(error)))
        return Method(paper(slug), "a toy", "another toy", sizes, seeds, rule, experiment)

    return build
