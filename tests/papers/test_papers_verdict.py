from __future__ import annotations

import itertools

import pytest

from tercile.papers import Check, Method, judge, run_method
from tercile.papers.run import not_here


def test_the_verdict_follows_the_numbers_for_every_pattern_of_passing() -> None:
    """Two checks on two seeds: the verdict is counted by hand from the sixteen patterns."""
    rule = (Check("a", at_most="1"), Check("b", at_least="1"))
    for a0, a1, b0, b1 in itertools.product((True, False), repeat=4):
        seeds = [{"a": 0.0 if a else 2.0, "b": 2.0 if b else 0.0} for a, b in ((a0, b0), (a1, b1))]
        checks_that_hold = (a0 and a1) + (b0 and b1)
        assert judge(rule, seeds).verdict == {2: "holds", 1: "partly", 0: "not here"}[checks_that_hold]


def test_flipping_the_numbers_flips_the_verdict(toy) -> None:
    assert run_method(toy(error=(0.5, 0.6, 0.7))).verdict == "holds"
    assert run_method(toy(error=(1.5, 1.6, 1.7))).verdict == "partly"
    assert run_method(toy(error=(1.5, 1.6, 1.7), accuracy=(0.1, 0.1, 0.1))).verdict == "not here"


def test_one_failing_seed_is_enough_to_fail_a_check(toy) -> None:
    judged = run_method(toy(error=(0.5, 0.6, 0.95)))
    assert judged.verdict == "partly"
    assert judged.reason == (
        "1 of 2 checks pass on all 3 seeds; not: error <= 0.9 * baseline_error on 2 of 3 seeds"
    )


def test_a_value_on_its_limit_passes() -> None:
    assert judge((Check("a", at_most="b"),), [{"a": 0.1 + 0.2, "b": 0.1 + 0.2}]).verdict == "holds"


def test_a_rule_that_judges_something_unmeasured_is_refused(toy) -> None:
    method: Method = toy(rule=(Check("speed", at_least="1"),))
    with pytest.raises(ValueError, match="judges speed, which was not measured"):
        run_method(method)


def test_a_rule_or_a_run_must_be_there() -> None:
    with pytest.raises(ValueError, match="rule must hold"):
        judge((), [{"a": 1.0}])
    with pytest.raises(ValueError, match="runs must hold"):
        judge((Check("a", at_most="1"),), [])


def test_a_paper_that_cannot_be_measured_here_needs_a_reason() -> None:
    from tercile.papers import paper

    evidence = not_here(paper("iqn", not_here="needs fifty-seven games"))
    assert (evidence.verdict, evidence.reason) == ("not here", "needs fifty-seven games")
    with pytest.raises(ValueError, match="declares no reason"):
        not_here(paper("iqn"))
