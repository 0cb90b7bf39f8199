"""Statistics of streams, compared with numpy on the whole data in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercile.quantization.statistics import Statistics


def data(rows=300, channels=7, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_t(3, size=(rows, channels)) * random.uniform(0.1, 20, channels)).astype(
        np.float32
    )


def filled(x, **more):
    statistics = Statistics(x.shape[1], **more)
    statistics.update(x)
    return statistics


def assert_describes(statistics, x):
    x = x.astype(np.float64)
    size = (x**2).sum(axis=0) ** 0.5
    assert statistics.count == len(x)
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(statistics.mean_square, (x**2).mean(axis=0), rtol=1e-5)
    difference = np.abs(statistics.second_moment - x.T @ x / len(x))
    assert (difference <= 1e-5 * np.outer(size, size) / len(x)).all()
    np.testing.assert_array_equal(statistics.second_moment, statistics.second_moment.T)
    np.testing.assert_array_equal(statistics.minimum, x.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, x.max(axis=0))
    np.testing.assert_array_equal(statistics.maximum_magnitude, np.abs(x).max(axis=0))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 9))
def test_pieces_add_up_to_the_whole_as_updates_and_as_merges_in_any_order(sizes, channels):
    x = data(sum(sizes) + 2, channels)
    pieces = np.split(x, np.cumsum(sizes))
    stream = Statistics(channels)
    for piece in pieces:
        stream.update(piece)
    assert_describes(stream, x)
    merged = Statistics(channels)
    for piece in reversed(pieces):
        merged = filled(piece) | merged
    assert_describes(merged, x)


def test_merging_changes_neither_part():
    left, right = filled(data(seed=1)), filled(data(seed=2))
    before = left.to_arrays()
    merged = left | right
    merged.update(data(seed=3))
    for key, array in left.to_arrays().items():
        np.testing.assert_array_equal(array, before[key])
    assert_describes(right, data(seed=2))


@pytest.mark.parametrize("layout", ["fortran", "strided", "float64", "float16", "read-only"])
def test_inputs_of_any_layout_and_type_are_read_alike(layout):
    x = data().astype(np.float16).astype(np.float32)
    given = {
        "fortran": lambda: np.asfortranarray(x),
        "strided": lambda: np.repeat(x, 2, axis=1)[:, ::2],
        "float64": lambda: x.astype(np.float64),
        "float16": lambda: x.astype(np.float16),
        "read-only": lambda: np.frombuffer(x.tobytes(), dtype=np.float32).reshape(x.shape),
    }[layout]()
    np.testing.assert_array_equal(filled(given).second_moment, filled(x).second_moment)


def test_one_channel_and_one_row_work():
    assert_describes(filled(np.float32([[3.0]])), np.float32([[3.0]]))
    again = Statistics.from_arrays(filled(np.float32([[3.0]])).to_arrays())
    again.update(np.float32([[1.0]]))
    assert_describes(again, np.float32([[3.0], [1.0]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_refused_and_nothing_is_added(bad):
    statistics = filled(data())
    poisoned = data(seed=1)
    poisoned[5, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        statistics.update(poisoned)
    assert_describes(statistics, data())


def test_what_was_written_is_read_back_and_goes_on():
    first, second = data(seed=1), data(seed=2)
    arrays = filled(first).to_arrays()
    for array in arrays.values():
        array.flags.writeable = False
    loaded = Statistics.from_arrays(arrays)
    np.testing.assert_array_equal(loaded.second_moment, filled(first).second_moment)
    loaded.update(second)
    both = filled(first)
    both.update(second)
    for key, array in both.to_arrays().items():
        np.testing.assert_array_equal(loaded.to_arrays()[key], array)


def test_damaged_arrays_are_refused():
    arrays = filled(data()).to_arrays()
    for key in ("count", "sum", "squares", "minimum", "maximum"):
        with pytest.raises(ValueError, match=f"lack {key}"):
            Statistics.from_arrays({name: array for name, array in arrays.items() if name != key})
    other = filled(data(channels=3), sketch=True).to_arrays()["sketch"]
    with pytest.raises(ValueError, match="sketch has 3 channels, not 7"):
        Statistics.from_arrays(arrays | {"sketch": other})
    for key in ("squares", "products", "minimum"):
        with pytest.raises(ValueError, match=f"{key} has shape .* damaged"):
            Statistics.from_arrays(arrays | {key: arrays[key][:-1]})


def test_scaled_statistics_are_those_of_scaled_inputs():
    x, factors = data(), np.random.default_rng(0).uniform(0.1, 9, 7)
    scaled = filled(x).scaled(factors)
    expected = filled((x * factors).astype(np.float32))
    np.testing.assert_allclose(scaled.second_moment, expected.second_moment, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scaled.mean_square, expected.mean_square, rtol=1e-5)
    np.testing.assert_allclose(scaled.mean, expected.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scaled.minimum, expected.minimum, rtol=1e-6)
    np.testing.assert_allclose(scaled.maximum, expected.maximum, rtol=1e-6)
    with pytest.raises(ValueError, match="7 positive"):
        filled(x).scaled(-factors)


def test_quantiles_of_every_channel_are_within_the_sketch_s_bound():
    x = data(rows=5000)
    parts = [filled(part, sketch=True) for part in np.array_split(x, 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged | part
    stored = Statistics.from_arrays(merged.to_arrays())
    factors = np.linspace(0.5, 8, 7)
    for statistics, values in (
        (filled(x, sketch=True), x),
        (stored, x),
        (stored.scaled(factors), x * factors),
    ):
        assert statistics.sketch is not None and statistics.sketch.count == 5000
        for q in (0.01, 0.25, 0.5, 0.9, 0.999):
            rank = (values <= statistics.sketch.quantile(q)).mean(axis=0)
            assert np.abs(rank - q).max() <= 1.5 * statistics.sketch.error_bound + 1 / 5000


def test_sketches_of_the_same_data_are_the_same_bytes():
    first, second = (filled(data(rows=5000), sketch=True).to_arrays()["sketch"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_a_second_moment_all_else_is_the_same():
    light = filled(data(), second_moment=False)
    np.testing.assert_array_equal(light.mean_square, filled(data()).mean_square)
    with pytest.raises(ValueError, match="second_moment=True"):
        _ = light.second_moment
    assert "products" not in light.to_arrays()
    with pytest.raises(ValueError, match="only Statistics of the same channels"):
        _ = light | filled(data())


def test_an_empty_stream_has_zero_moments():
    empty = Statistics(3)
    empty.update(np.empty((0, 3), dtype=np.float32))
    assert empty.count == 0
    np.testing.assert_array_equal(empty.second_moment, np.zeros((3, 3)))
    np.testing.assert_array_equal(empty.maximum_magnitude, np.zeros(3))
    assert_describes(empty | filled(data(channels=3)), data(channels=3))


def test_a_long_stream_in_float32_stays_precise():
    statistics, exact = Statistics(2), np.zeros((2, 2))
    random = np.random.default_rng(0)
    for _ in range(2000):
        x = (random.normal(size=(64, 2)) + 3).astype(np.float32)
        statistics.update(x)
        exact += x.T.astype(np.float64) @ x
    np.testing.assert_allclose(statistics.second_moment, exact / statistics.count, rtol=2e-5)


def test_a_wrong_width_is_refused():
    with pytest.raises(ValueError, match=r"x must be \(n, 3\), got \(2, 4\)"):
        Statistics(3).update(np.zeros((2, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        Statistics(0)
