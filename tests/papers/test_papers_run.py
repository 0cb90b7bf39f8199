from __future__ import annotations

import types
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tercile.papers import Check, Measured, load_method, paper, run_method
from tercile.papers.method import Method, method_of
from tercile.papers.plot import plot_svg


def test_a_quick_run_takes_the_first_seed_and_its_own_size(toy) -> None:
    seen = []

    def experiment(size: str, seed: int) -> dict[str, Measured | float]:
        seen.append((size, seed))
        return {"error": 0.1, "baseline_error": 1.0, "accuracy": 1.0}

    method = replace(toy(), experiment=experiment)
    assert run_method(method, "quick").sizes == {"pictures": 10}
    assert run_method(method, "full").sizes == {"pictures": 1000}
    assert seen == [("quick", 0), ("full", 0), ("full", 1), ("full", 2)]


def test_progress_counts_the_seeds(toy) -> None:
    told = []
    run_method(toy(), progress=lambda done, total, what: told.append((done, total, what)))
    assert told == [(0, 3, "seed 0"), (1, 3, "seed 1"), (2, 3, "seed 2"), (3, 3, "done")]


def test_stopping_by_hand_passes_through(toy) -> None:
    def stopped(size: str, seed: int) -> dict[str, Measured | float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_method(replace(toy(), experiment=stopped))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({}, "must return a mapping"),
        (None, "must return a mapping"),
        ({"4bit": 1.0}, "measured '4bit'"),
        ({"max": 1.0}, "measured 'max'"),
        ({"error": float("nan")}, "range_estimation: the experiment's error: value must be finite"),
        ({"error": "low"}, "value must be a number"),
    ],
)
def test_numbers_that_cannot_be_judged_are_refused(toy, result: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        run_method(replace(toy(), experiment=lambda size, seed: result))


def test_seeds_must_measure_the_same_quantities_in_the_same_units(toy) -> None:
    def names(size: str, seed: int) -> dict[str, Measured | float]:
        return {"error": 0.1, "baseline_error": 1.0, "accuracy": 1.0, **({"extra": 1.0} if seed else {})}

    with pytest.raises(ValueError, match="seed 1 measured other quantities"):
        run_method(replace(toy(), experiment=names))

    def units(size: str, seed: int) -> dict[str, Measured | float]:
        return {"error": Measured(0.1, "%" if seed else ""), "baseline_error": 1.0, "accuracy": 1.0}

    with pytest.raises(ValueError, match="error has different units"):
        run_method(replace(toy(), experiment=units))


def _module(**declared: object) -> types.ModuleType:
    module = types.ModuleType("tercile.papers.iqn")
    complete = {
        "PAPER": paper("iqn"),
        "MEASURED_ON": "a toy",
        "BASELINE": "another",
        "SIZES": {"quick": {}, "full": {}},
        "SEEDS": (0,),
        "RULE": (Check("error", at_most="1"),),
        "experiment": lambda size, seed: {"error": 0.0},
    }
    for name, value in {**complete, **declared}.items():
        if value is not None:
            setattr(module, name, value)
    return module


def test_a_module_declares_a_method() -> None:
    method = method_of(_module())
    assert isinstance(method, Method) and run_method(method).verdict == "holds"


@pytest.mark.parametrize(
    "missing", ["PAPER", "MEASURED_ON", "BASELINE", "SIZES", "SEEDS", "RULE", "experiment"]
)
def test_what_a_module_forgets_to_declare_is_named(missing: str) -> None:
    with pytest.raises(ValueError, match=f"must declare {missing}"):
        method_of(_module(**{missing: None}))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"BASELINE": ""}, "baseline must say"),
        ({"SIZES": {"full": {}}}, "sizes must describe"),
        ({"SEEDS": (1, 1)}, "seeds must be"),
        ({"SEEDS": ()}, "seeds must be"),
        ({"RULE": (Check("error", at_most="1", quick=False),)}, "a quick run tests nothing"),
    ],
)
def test_an_incomplete_declaration_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        method_of(_module(**wrong))


def test_a_paper_not_measured_here_needs_no_experiment() -> None:
    reason = paper("iqn", not_here="too large")
    module = types.ModuleType("tercile.papers.iqn")
    module.PAPER = reason  # type: ignore[attr-defined]
    assert method_of(module) is reason


def test_a_method_without_an_experiment_is_not_run() -> None:
    with pytest.raises(ValueError, match="no paper 'nonsense'"):
        load_method("nonsense")
    with pytest.raises(ValueError, match="wise has no experiment yet"):
        load_method("wise")


def test_the_plot_is_an_svg_that_is_the_same_for_the_same_numbers(toy) -> None:
    evidence = run_method(toy())
    first = plot_svg(evidence)
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert plot_svg(evidence) == first
    assert plot_svg(run_method(toy(error=(0.1, 0.6, 0.7)))) != first


def test_equal_and_single_numbers_can_be_plotted(toy) -> None:
    rule = (Check("baseline_error", at_least="1"),)
    assert "<svg" in plot_svg(run_method(toy(error=(1.0,), accuracy=(0.0,), rule=rule)))
