"""Allocation against all combinations, an integer programme, and itself shuffled."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from tercile.quantization.allocation import SensitivityTable, allocate, pareto_ladder


def table_of(nbytes, loss) -> SensitivityTable:
    rows, columns = np.shape(nbytes)
    return SensitivityTable(
        tuple(f"layer{i}" for i in range(rows)), tuple(f"scheme{j}" for j in range(columns)), nbytes, loss
    )


def brute_force(table: SensitivityTable, budget: int) -> tuple[float, int] | None:
    """Least (loss, bytes) over every combination."""
    best = None
    for choice in itertools.product(range(len(table.schemes)), repeat=len(table.layers)):
        size = sum(int(table.nbytes[layer, column]) for layer, column in enumerate(choice))
        loss = math.fsum(table.loss[layer, column] for layer, column in enumerate(choice))
        if size <= budget and math.isfinite(loss) and (best is None or (loss, size) < best):
            best = loss, size
    return best


@st.composite
def small_tables(draw) -> SensitivityTable:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    # Whole numbers of a small range, so that ties and dominated schemes are common and sums are exact.
    nbytes = draw(
        st.lists(
            st.lists(st.integers(0, 12), min_size=columns, max_size=columns), min_size=rows, max_size=rows
        )
    )
    one = st.one_of(st.integers(-3, 12).map(float), st.just(math.inf))
    loss = draw(st.lists(st.lists(one, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    for row in loss:
        if not any(map(math.isfinite, row)):
            row[draw(st.integers(0, columns - 1))] = 5.0
    return table_of(nbytes, loss)


def model_like(seed: int = 0, layers: int = 40) -> SensitivityTable:
    """Layers of few different shapes, losses that fall fourfold a bit and differ by layer."""
    random = np.random.default_rng(seed)
    weights = np.resize([384 * 384] * 4 + [384 * 1536] * 2, layers)
    bits = np.array([2.25, 2.5, 3.25, 3.5, 4.25, 4.5, 5.25, 6.25, 8.25, 16])
    loss = (
        np.exp(random.normal(size=(layers, 1))) * 4.0**-bits * np.exp(0.1 * random.normal(size=(layers, 10)))
    )
    return table_of((weights[:, None] * bits / 8).astype(np.int64), loss)


@settings(max_examples=300, deadline=None)
@given(small_tables(), st.integers(0, 50))
def test_the_optimum_equals_the_best_of_all_combinations(table, budget):
    expected = brute_force(table, budget)
    if expected is None:
        with pytest.raises(ValueError, match="budget_bytes"):
            allocate(table, budget)
        return
    found = allocate(table, budget)
    assert (found.loss, found.nbytes) == expected
    columns = [table.schemes.index(found.choices[layer]) for layer in table.layers]
    assert found.nbytes == sum(int(table.nbytes[row, column]) for row, column in enumerate(columns))
    assert found.loss == math.fsum(table.loss[row, column] for row, column in enumerate(columns))


@pytest.mark.parametrize("seed", range(4))
def test_a_table_of_model_size_gets_the_loss_that_an_integer_programme_finds(seed):
    table = model_like(seed)
    rows, columns = table.loss.shape
    budget = int(np.quantile(table.nbytes.sum(axis=0), 0.2 + 0.2 * seed))
    one_each = np.kron(np.eye(rows), np.ones(columns))
    answer = milp(
        table.loss.ravel() / table.loss.max() * 1e3,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(table.nbytes.reshape(1, -1), 0, budget),
        ],
        integrality=np.ones(rows * columns),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    found = allocate(table, budget)
    assert found.nbytes <= budget
    assert found.loss == pytest.approx(answer.fun * table.loss.max() / 1e3, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(small_tables(), st.integers(0, 50))
def test_a_dominated_scheme_is_never_chosen(table, budget):
    try:
        found = allocate(table, budget)
    except ValueError:
        return
    for row, layer in enumerate(table.layers):
        size, loss = (
            array[row, table.schemes.index(found.choices[layer])] for array in (table.nbytes, table.loss)
        )
        as_good = (table.nbytes[row] <= size) & (table.loss[row] <= loss)
        assert not (as_good & ((table.nbytes[row] < size) | (table.loss[row] < loss))).any()


def test_of_equal_schemes_the_first_is_chosen_each_time():
    table = table_of([[4, 4, 2], [4, 4, 2]], [[1.0, 1.0, 3.0], [1.0, 1.0, 3.0]])
    answers = {tuple(allocate(table, 6).choices.items()) for _ in range(5)}
    assert len(answers) == 1
    assert allocate(table, 8).choices == {"layer0": "scheme0", "layer1": "scheme0"}


def test_losses_of_any_magnitude_give_the_same_choice():
    table = model_like()
    budget = int(table.nbytes.sum(axis=0)[4])
    scaled = [
        allocate(table_of(table.nbytes, table.loss * factor), budget) for factor in (1.0, 2.0**-60, 2.0**60)
    ]
    assert scaled[0].choices == scaled[1].choices == scaled[2].choices


def test_a_budget_that_is_too_small_is_refused_with_the_least_that_would_do():
    table = table_of([[8, 4], [8, 5]], [[0.0, 1.0], [0.0, math.inf]])
    with pytest.raises(ValueError, match="less than 12 bytes"):
        allocate(table, 11)
    assert allocate(table, 12).nbytes == 12


@settings(max_examples=200, deadline=None)
@given(small_tables(), st.integers(1, 12))
def test_a_ladder_falls_in_size_and_not_in_loss_and_each_rung_is_an_optimum(table, rungs):
    ladder = pareto_ladder(table, rungs)
    assert 1 <= len(ladder) <= rungs
    sizes, losses = [rung.nbytes for rung in ladder], [rung.loss for rung in ladder]
    assert all(a > b for a, b in itertools.pairwise(sizes))
    assert all(a <= b for a, b in itertools.pairwise(losses))
    assert (losses[0], sizes[0]) == brute_force(table, 10**6)
    if rungs > 1:
        assert sizes[-1] == np.where(np.isfinite(table.loss), table.nbytes, 10**6).min(axis=1).sum()
    assert all((rung.loss, rung.nbytes) == brute_force(table, rung.nbytes) for rung in ladder)


def test_a_ladder_of_24_rungs_for_40_layers_and_10_schemes_takes_less_than_two_seconds():
    table = model_like()
    began = time.process_time()
    ladder = pareto_ladder(table, 24)
    assert time.process_time() - began < 2
    assert len(ladder) == 24
    steps = np.diff(np.log([rung.nbytes for rung in ladder]))
    assert steps.min() > 1.5 * steps.mean()  # negative numbers: no step is much longer than the mean


def test_a_puzzle_in_which_only_the_byte_counts_decide_still_ends_near_the_optimum():
    weights = np.random.default_rng(0).integers(10**5, 10**6, 40)
    nbytes = weights[:, None] * np.arange(1, 11)
    budget = int(nbytes.sum() / 10)
    began = time.process_time()
    found = allocate(table_of(nbytes, -nbytes.astype(float)), budget)
    assert time.process_time() - began < 5
    assert budget - 100 <= found.nbytes <= budget


def test_a_table_comes_back_from_json_to_the_last_bit():
    table = model_like(layers=3)
    loss = table.loss.copy()
    loss[1, 2] = math.inf
    back = SensitivityTable.from_json(table_of(table.nbytes, loss).to_json())
    assert (back.layers, back.schemes) == (table.layers, table.schemes)
    assert np.array_equal(back.loss, loss) and np.array_equal(back.nbytes, table.nbytes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("a", "a")}, "layers holds 'a' twice"),
        ({"schemes": ()}, "schemes must be"),
        ({"nbytes": [[1, 2]]}, "nbytes must be integers"),
        ({"nbytes": [[1.5, 2], [1, 2]]}, "nbytes must be integers"),
        ({"nbytes": [[1, -2], [1, 2]]}, "nbytes must not be negative"),
        ({"loss": [[0.0, math.nan], [0, 0]]}, "loss holds NaN"),
        ({"loss": [[math.inf, math.inf], [0, 0]]}, "layer 'a' has no scheme"),
    ],
)
def test_a_damaged_table_is_refused_by_name(change, message):
    good = {
        "layers": ("a", "b"),
        "schemes": ("x", "y"),
        "nbytes": [[1, 2], [1, 2]],
        "loss": [[0.0, 1], [0, 1]],
    }
    with pytest.raises(ValueError, match=message):
        SensitivityTable(**(good | change))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"layers": ["a"], "schemes": ["x"], "nbytes": [[1]], "loss": 3}']
)
def test_text_that_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match="not a sensitivity table"):
        SensitivityTable.from_json(text)


def test_a_ladder_needs_a_rung():
    with pytest.raises(ValueError, match="rungs must be at least 1"):
        pareto_ladder(model_like(layers=2), 0)
