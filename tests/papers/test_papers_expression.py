from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercile.papers import Check, Expression, Measured

QUANTITIES = {"a": 3.0, "b": 0.25, "error_4bit": 7.0}


@pytest.mark.parametrize(
    "text",
    [
        "0.9 * a",
        "a",
        "-a + +b",
        "(a - b) / (a + b)",
        "min(a, b, 2) * 1e-3",
        "max(a, min(b, error_4bit)) - 1",
        " 2 ",
    ],
)
def test_arithmetic_has_the_value_that_python_gives_it(text: str) -> None:
    by_python = eval(text.strip(), {"__builtins__": {}}, {**QUANTITIES, "min": min, "max": max})
    assert Expression(text).value(QUANTITIES) == by_python


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "a.real",
        "a.__class__",
        "a[0]",
        "[a]",
        "(a, b)",
        "{a}",
        "'a'",
        "a ** 9",
        "a // b",
        "a % b",
        "a @ b",
        "a << 2",
        "a | b",
        "~a",
        "not a",
        "a < b",
        "a and b",
        "a if b else a",
        "lambda: a",
        "(a := 3)",
        "[x for x in a]",
        "f'{a}'",
        "True",
        "None",
        "...",
        "1j",
        "1e999",
        "abs(a)",
        "min(a)",
        "min()",
        "min(*a)",
        "min(a, b, key=a)",
        "max(a, b)(b)",
        "min",
        "open('x')",
        "a; b",
        "a = b",
        "import os",
        "await a",
        "a b",
        "",
        "   ",
        "(" * 150,
        "(" * 90 + "a" + ")" * 90,
        "-" * 199 + "a" * 2,
        "a\x00",
    ],
)
def test_everything_else_is_refused_when_it_is_written(text: str) -> None:
    if text.startswith("((") and "a" in text:  # deep, but only brackets around a name: allowed and harmless
        assert Expression(text).value(QUANTITIES) == 3.0
        return
    with pytest.raises(ValueError, match="expression"):
        Expression(text)


@given(st.text(max_size=60))
def test_any_text_is_either_arithmetic_or_a_value_error(text: str) -> None:
    try:
        expression = Expression(text)
    except ValueError:
        return
    assert expression.names is not None


def test_a_limit_without_a_finite_value_is_refused() -> None:
    for text in ("1 / (a - 3)", "1e308 * 10 * a", "0 * (1e308 * 10)"):
        with pytest.raises(ValueError, match="no finite value"):
            Expression(text).value(QUANTITIES)


def test_a_name_that_was_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match=r"names c, which was not measured; measured were a, b, error_4bit"):
        Expression("a * c").value(QUANTITIES)


def test_a_check_needs_one_limit_and_a_usable_name() -> None:
    for wrong in ({"at_most": "1", "at_least": "0"}, {}):
        with pytest.raises(ValueError, match="exactly one"):
            Check("error", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quantity must be a name"):
        Check("max", at_most="1")
    with pytest.raises(ValueError, match="quick_slack"):
        Check("error", at_most="1", quick_slack=1.5)


def test_slack_moves_a_limit_outwards_on_both_kinds_of_check_also_below_zero() -> None:
    most, least = Check("x", at_most="-10"), Check("x", at_least="-10")
    assert not most.passes({"x": -9.5}) and most.passes({"x": -9.5}, slack=0.1)
    assert not least.passes({"x": -10.5}) and least.passes({"x": -10.5}, slack=0.1)
    assert most.passes({"x": -10.5}) and not most.passes({"x": -10.5}, slack=-0.1)


def test_a_measured_number_must_be_finite_and_within_its_interval() -> None:
    with pytest.raises(ValueError, match="finite"):
        Measured(math.nan)
    with pytest.raises(ValueError, match="between lower and upper"):
        Measured(1.0, lower=2.0)
    with pytest.raises(TypeError, match="must be a number"):
        Measured("much")  # type: ignore[arg-type]
