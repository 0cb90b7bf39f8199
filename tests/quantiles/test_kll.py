"""What only the KLL of single streams does: long streams, weights, merging many, other dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tercile.quantiles.sketch import KLL, KLLColumns


def test_a_long_stream_is_sampled_and_its_ranks_stay_within_the_bound() -> None:
    size, missed = 1_000_000, 0
    for seed in range(20):
        sketch = KLL(random_state=seed)
        values = np.random.default_rng(seed).permutation(size).astype(np.float64)
        for piece in np.array_split(values, [7, 100_003, 100_004, 700_000]):
            sketch.update(piece)
        assert sketch.count == size
        assert (sketch.minimum, sketch.maximum) == (0.0, size - 1.0)
        assert sketch.error_bound < 0.025
        points = np.array([1000, 250_000, 500_000, 990_000])
        missed += int((np.abs(sketch.rank(points) - (points + 1) / size) > sketch.error_bound).sum())
    assert missed <= 4 * stats.binom.ppf(0.999, 20, 0.01)


def test_ranks_are_right_on_average() -> None:
    # 300 independent sketches of one stream: the mean error must vanish as one over the root of 300.
    values = np.arange(30_000.0)
    errors = []
    for seed in range(300):
        sketch = KLL(k=32, random_state=seed)
        sketch.update(values)
        errors.append(sketch.rank(9_999.0) - 1 / 3)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(300)
    assert np.std(errors) > 0


def test_a_weight_counts_like_so_many_copies() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal(3000), rng.integers(1, 5000, 3000)
    order = np.argsort(values)
    truth = np.cumsum(weights[order]) / weights.sum()
    missed = 0
    for seed in range(30):
        sketch = KLL(random_state=seed)
        sketch.update(values, weights)
        assert sketch.count == weights.sum()
        for share in (0.1, 0.5, 0.9):
            at = int(np.searchsorted(truth, share))
            missed += abs(sketch.rank(values[order][at]) - truth[at]) > sketch.error_bound
    assert missed <= 3 * stats.binom.ppf(0.999, 30, 0.01)


def test_small_weights_are_exact() -> None:
    sketch = KLL()
    sketch.update([1.0, 2.0, 3.0], weights=[1, 5, 2])
    assert [sketch.rank(v) for v in (0.5, 1, 2, 3)] == [0, 1 / 8, 6 / 8, 1.0]
    assert sketch.quantile([0.125, 0.126, 0.75, 0.76]).tolist() == [1.0, 2.0, 2.0, 3.0]


def test_merging_a_thousand_small_sketches_is_as_good_as_one_stream() -> None:
    values = np.random.default_rng(1).permutation(200_000) * 1.0
    merged = KLL(random_state=0)
    for i, piece in enumerate(np.array_split(values, 1000)):
        part = KLL(random_state=i + 1)
        part.update(piece)
        merged.merge(part)
    assert merged.count == values.size
    points = np.arange(10_000, 200_000, 10_000)
    assert np.abs(merged.rank(points) - (points + 1) / values.size).max() < 0.03
    assert merged.error_bound < 0.03


@pytest.mark.parametrize(
    "sizes", [(10, 1_000_000), (1_000_000, 10), (300_000, 1_000_000), (1_000_000, 999_999)]
)
def test_sketches_of_very_different_age_merge(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    values = rng.permutation(sum(sizes)) * 1.0
    parts = []
    for seed, piece in enumerate(np.split(values, [sizes[0]])):
        parts.append(KLL(random_state=seed))
        parts[-1].update(piece)
    merged = parts[0] | parts[1]
    assert merged.count == values.size
    assert KLL.from_bytes(merged.to_bytes()).count == values.size
    points = np.linspace(0.05, 0.95, 19) * values.size
    assert np.abs(merged.rank(points) - points / values.size).max() < 1.5 * merged.error_bound


def test_float32_integers_and_strided_views_are_taken_as_their_values() -> None:
    values = np.arange(200)
    made = []
    for array in (values, values.astype(np.float32), np.repeat(values, 2)[::2] * 1.0, values.reshape(20, 10)):
        sketch = KLL(random_state=3)
        sketch.update(array)
        made.append(sketch.to_bytes())
    assert made[0] == made[1] == made[2] == made[3]


def test_bad_weights_are_refused_and_nothing_goes_in() -> None:
    sketch = KLL()
    for weights, error, message in [
        ([1, 0, 2], ValueError, "weights must be positive, got 0"),
        ([1, -4, 2], ValueError, "weights must be positive, got -4"),
        ([1, 2], ValueError, "weights must have the shape of values"),
        ([0.5, 1.0, 2.0], TypeError, "weights must be integers"),
        ([2**53, 2**53, 1], ValueError, "weights must not take the count past"),
    ]:
        with pytest.raises(error, match=message):
            sketch.update([1.0, 2.0, 3.0], weights=weights)
    with pytest.raises(ValueError, match="NaN, got one at index 1"):
        sketch.update([1.0, np.nan, 3.0], weights=[1, 1, 1])
    assert sketch.count == 0


def test_hostile_bytes_with_a_right_checksum_never_get_in() -> None:
    import struct
    import zlib

    sketch = KLL(random_state=0)
    sketch.update(np.arange(50_000.0))
    body = sketch.to_bytes()[9:]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        broken = bytearray(body)
        for position in rng.integers(0, 100, 3):  # the header and the sizes
            broken[position] = int(rng.integers(256))
        data = b"TKLL" + struct.pack("<BI", 1, zlib.crc32(bytes(broken))) + bytes(broken)
        try:
            opened = KLL.from_bytes(data)
        except ValueError:
            refused += 1
            continue
        opened.update([1.0, 2.0])  # whatever was let in is a sketch in order
        assert opened.count == 50_002
    assert refused > 1500


def test_channels_each_get_the_quantiles_of_their_own_column() -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((30_000, 40)) * np.arange(1, 41) + np.arange(40)).astype(np.float32)
    sketch = KLLColumns(40, random_state=0)
    for piece in np.array_split(rows, 13):
        sketch.update(piece)
    q = np.array([0.01, 0.5, 0.99])
    found, ordered = sketch.quantile(q), np.sort(rows, axis=0)
    assert found.shape == (3, 40)
    for channel in range(40):
        rank = np.searchsorted(ordered[:, channel], found[:, channel]) / len(rows)
        assert np.abs(rank - q).max() < 1.5 * sketch.error_bound
    assert (sketch.minimum == rows.min(axis=0)).all()
    assert (sketch.maximum == rows.max(axis=0)).all()
    assert sketch.nbytes < 3.5 * 128 * 40 * 4


def test_channels_go_through_safetensors(tmp_path) -> None:
    from safetensors.numpy import load_file, save_file

    sketch = KLLColumns(7, random_state=1)
    sketch.update(np.random.default_rng(0).standard_normal((5000, 7)))
    save_file(sketch.to_arrays(), tmp_path / "sketch.safetensors")
    again = KLLColumns.from_arrays(load_file(tmp_path / "sketch.safetensors"))
    assert again.to_bytes() == sketch.to_bytes()
    for damage in ("sizes", "values"):
        arrays = sketch.to_arrays()
        if damage == "sizes":
            arrays["meta"][-1] += 1
        else:
            arrays["items"][0, 0] = np.inf
        with pytest.raises(ValueError, match="arrays are damaged"):
            KLLColumns.from_arrays(arrays)


def test_rows_of_the_wrong_width_or_with_nan_are_refused_whole() -> None:
    sketch = KLLColumns(3)
    with pytest.raises(ValueError, match=r"rows must have shape \(n, 3\), got \(4, 2\)"):
        sketch.update(np.zeros((4, 2)))
    rows = np.zeros((4, 3))
    rows[2, 1] = np.nan
    with pytest.raises(ValueError, match="got one at row 2, channel 1"):
        sketch.update(rows)
    with pytest.raises(ValueError, match="same channels, got 3 and 2"):
        sketch.merge(KLLColumns(2))
    assert sketch.count == 0
