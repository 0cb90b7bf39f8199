"""Rows stored in another order: nothing is lost on the way, and rows that matter can be stored better for it."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme
from tercile.quantization.basis import into_basis, out_of_basis, row_order, row_place
from tercile.quantization.solvers import coordinate_descent, gptq, output_error, round_to_nearest, weigh_rows
from tercile.quantization.statistics import Statistics
from tercile.quantization.table_statistics import expected_reads
from tercile.quantization.training.scaled_rows import ScaledRows


def problem(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, Statistics]:
    rng = np.random.default_rng([rows, columns, seed])
    seen = Statistics(columns)
    seen.update(rng.normal(size=(3 * columns, columns)) * rng.exponential(size=columns))
    return rng.normal(size=(rows, columns)).astype(np.float32), seen


@pytest.mark.parametrize("rows", [1, 2, 3, 257, 30522])
def test_the_order_holds_every_row_once_and_has_no_pattern(rows: int) -> None:
    order, place = row_order(rows), row_place(rows)
    assert np.array_equal(np.sort(order), np.arange(rows)) and np.array_equal(order[place], np.arange(rows))
    if rows > 1000:
        for lag in (1, 2, 3, 6, 12):
            assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 / rows**0.5
        assert abs(np.corrcoef(order, np.arange(rows))[0, 1]) < 4 / rows**0.5


@pytest.mark.parametrize("spelling", ["int8-channel-mix", "int8-channel-rot-mix", "trellis4-g8-mix", "int8-t3x5-mix"])
def test_mixed_tensors_come_back_in_their_own_order(spelling: str) -> None:
    scheme, (x, seen) = Scheme.parse(spelling), problem(70, 40)
    assert scheme.spelling == spelling
    np.testing.assert_allclose(out_of_basis(into_basis(x, scheme), scheme), x, atol=1e-5)
    for stored in (round_to_nearest(x, None, scheme), gptq(x, seen, scheme)):
        again = QTensor.from_arrays("w", scheme, x.shape, stored.to_arrays("w"))
        assert np.array_equal(again.dequantize(), stored.dequantize())
        assert np.abs(stored.dequantize() - x).mean() < (0.02 if "int8" in spelling else 0.15)  # 1.1 in another order


def test_where_rows_are_rounded_alone_mixing_changes_nothing() -> None:
    x, seen = problem(33, 24)
    for spelling in ("int3-channel", "int4-g8-asym", "nf4-g12"):
        plain, mixed = (gptq(x, seen, Scheme.parse(each)) for each in (spelling, f"{spelling}-mix"))
        assert np.array_equal(plain.dequantize(), mixed.dequantize())


def test_descent_and_training_keep_the_order() -> None:
    x, seen = problem(64, 32)
    scheme = Scheme.parse("trellis2-channel-rot-mix")
    first = gptq(x, seen, scheme)
    better = coordinate_descent(x, first, seen)
    assert output_error(x, better, seen) < 1.02 * output_error(x, first, seen)
    trained = ScaledRows(better)
    np.testing.assert_allclose(trained().detach().numpy(), better.dequantize(), atol=1e-5)
    assert np.array_equal(trained.tensor().dequantize(), better.dequantize())


def test_rows_that_matter_are_stored_better_and_the_weighed_error_falls() -> None:
    x, seen = problem(600, 24)
    reads = 1.0 / np.arange(1, 601)  # as words are
    gains = []
    for spelling in ("trellis2-channel-rot", "trellis2-channel-rot-mix"):
        scheme = Scheme.parse(spelling)
        alike, weighed = gptq(x, seen, scheme), weigh_rows(gptq, x, seen, scheme, reads)
        assert weighed.nbytes == alike.nbytes
        gains.append(output_error(x, weighed, seen, reads) / output_error(x, alike, seen, reads))
        assert output_error(x, weighed, seen) < 1.5 * output_error(x, alike, seen)  # the others pay, but not much
    assert gains[1] < 0.6 and gains[1] < 0.8 * gains[0]


def test_even_weights_change_no_code() -> None:
    x, seen = problem(40, 16)
    for spelling in ("trellis2-channel-rot-mix", "pairs2-channel"):
        scheme = Scheme.parse(spelling)
        stored, plain = weigh_rows(gptq, x, seen, scheme, np.full(40, 7.0)), gptq(x, seen, scheme)
        assert np.array_equal(stored.words, plain.words) and np.array_equal(stored.dequantize(), plain.dequantize())


@pytest.mark.parametrize("bad", [np.ones(5), np.zeros(40), np.full(40, np.nan), -np.ones(40)])
def test_importance_that_does_not_fit_is_refused(bad: np.ndarray) -> None:
    x, seen = problem(40, 16)
    with pytest.raises(ValueError, match="importance must be one finite number a row"):
        weigh_rows(gptq, x, seen, Scheme.parse("trellis2-channel"), bad)
    with pytest.raises(ValueError, match="span rows"):
        weigh_rows(gptq, x, seen, Scheme.parse("trellis2-tensor"), np.ones(40))


def test_expected_reads_leave_room_for_what_was_not_read() -> None:
    rng = np.random.default_rng(0)
    truth = 1.0 / np.arange(1, 5001) ** 1.1
    truth /= truth.sum()
    counts = np.bincount(rng.choice(5000, size=8000, p=truth), minlength=5000)
    expected = expected_reads(counts, evenly=1e-9)
    unseen = counts == 0
    assert expected[unseen].sum() == pytest.approx(truth[unseen].sum(), rel=0.1)  # what Good and Turing promise
    assert expected.sum() == pytest.approx(1) and expected.min() > 0
    assert expected_reads(counts, evenly=0.3).min() >= 0.3 / 5000  # a table still serves other data
    assert np.allclose(expected_reads(np.zeros(4)), 0.25)
    for wrong in (np.array([-1, 2]), np.zeros((2, 2)), np.array([])):
        with pytest.raises(ValueError, match="counts"):
            expected_reads(wrong)
