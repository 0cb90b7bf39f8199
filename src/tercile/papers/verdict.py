"""From numbers to a verdict, by the rule that was fixed before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tercile.papers.declaration import Check

Verdict = Literal["holds", "partly", "not here"]
VERDICTS: tuple[Verdict, ...] = ("holds", "partly", "not here")


@dataclass(frozen=True)
class CheckResult:
    """What one check saw: value, limit and outcome for each seed."""

    check: Check
    values: tuple[float, ...]
    limits: tuple[float, ...]
    passed: tuple[bool, ...]

    @property
    def holds(self) -> bool:
        """Passed on every seed: one failing seed is enough to fail a check."""
        return all(self.passed)


@dataclass(frozen=True)
class Judgement:
    """A verdict, the reason for it in one sentence, and what each check saw."""

    verdict: Verdict
    reason: str
    checks: tuple[CheckResult, ...]


def judge(rule: Sequence[Check], runs: Sequence[dict[str, float]]) -> Judgement:
    """Apply a rule to the numbers of one run a seed.

    `holds` when every check passes on every seed, `partly` when some checks do, `not here` when none does.

    Parameters
    ----------
    rule
        At least one check.
    runs
        The measured quantities by name, one mapping a seed.

    Raises
    ------
    ValueError
        No checks, no runs, or a check that needs a quantity which was not measured.

    >>> rule = (Check("error", at_most="baseline"), Check("seconds", at_most="10"))
    >>> judge(rule, [{"error": 1.0, "baseline": 2.0, "seconds": 12.0}]).verdict
    'partly'
    """
    if not rule:
        raise ValueError("rule must hold at least one check")
    if not runs:
        raise ValueError("runs must hold at least one seed")
    results = []
    for check in rule:
        passed = tuple(check.passes(run) for run in runs)
        values = tuple(run[check.quantity] for run in runs)
        results.append(CheckResult(check, values, tuple(check.limit(run) for run in runs), passed))
    good = [result for result in results if result.holds]
    failed = [
        f"{result.check} on {sum(result.passed)} of {len(runs)}" for result in results if not result.holds
    ]
    seeds = "the seed" if len(runs) == 1 else f"all {len(runs)} seeds"
    if not failed:
        count = "the only check passes" if len(good) == 1 else f"all {len(good)} checks pass"
        return Judgement("holds", f"{count} on {seeds}", tuple(results))
    missed = "; ".join(failed) + (" seed" if len(runs) == 1 else " seeds")
    if good:
        return Judgement(
            "partly", f"{len(good)} of {len(results)} checks pass on {seeds}; not: {missed}", tuple(results)
        )
    return Judgement("not here", f"no check passes on {seeds}: {missed}", tuple(results))
