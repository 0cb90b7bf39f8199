"""What only one kind of sketch does: integers, strings with keys, relative error, digests, exact quantiles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tercile import _native
from tercile.quantiles.sketch import DDSketch, Exact, KLLIntegers, KLLStrings, TDigest, weighted_quantile


def last_digit(text: str) -> str:
    return text[-1]


def test_integers_that_doubles_cannot_tell_apart_stay_exact() -> None:
    sketch = KLLIntegers(random_state=0)
    values = 2**62 + np.arange(101)
    sketch.update(np.random.default_rng(0).permutation(values))
    assert [int(v) - 2**62 for v in sketch.quantile([0.0, 0.25, 0.5, 1.0])] == [0, 25, 50, 100]
    assert isinstance(sketch.quantile(0.5), int)
    assert sketch.rank(2**62 + 50) == 51 / 101
    assert (sketch.minimum, sketch.maximum) == (2**62, 2**62 + 100)
    assert KLLIntegers().minimum is None


def test_integers_rank_points_between_them_and_beyond_64_bits() -> None:
    sketch = KLLIntegers()
    sketch.update([-(2**63), -3, 0, 4, 2**63 - 1])
    assert sketch.rank([-1e300, -3.5, -3.0, 0.5, 1e300]).tolist() == [0.0, 0.2, 0.4, 0.6, 1.0]


def test_a_long_stream_of_integers_has_the_quantiles_of_its_values() -> None:
    values = np.random.default_rng(1).integers(-(10**9), 10**9, 500_000)
    sketch = KLLIntegers(random_state=3)
    sketch.update(values.astype(np.int32))
    found = np.searchsorted(np.sort(values), sketch.quantile([0.1, 0.5, 0.9])) / values.size
    assert abs(found - [0.1, 0.5, 0.9]).max() < sketch.error_bound


def test_strings_come_in_the_order_of_their_characters() -> None:
    words = ["ä", "z", "zebra", "", "Z", "\U0001f600", "é", "a\0b", "a"]
    sketch = KLLStrings()
    sketch.update(words)
    assert sketch.quantile(np.arange(1, 10) / 9).tolist() == sorted(words)
    assert sketch.rank("z") == sum(w <= "z" for w in words) / 9
    assert (sketch.minimum, sketch.maximum) == (min(words), max(words))


@pytest.mark.parametrize("key", [len, str.lower, last_digit, lambda s: -len(s), lambda s: float(len(s)) / 3])
def test_a_key_orders_strings_and_they_come_back_whole(key: object) -> None:
    words = ["pear", "Fig", "banana", "apple", "kiwi2", "fig", "x\0y"]
    sketch = KLLStrings(key=key)
    sketch.update(words)
    expected = sorted(words, key=lambda word: (key(word), word))
    assert sketch.quantile(np.arange(1, 8) / 7).tolist() == expected
    assert sketch.rank("Fig") == (expected.index("Fig") + 1) / 7


def test_a_sketch_with_a_key_asks_for_it_again() -> None:
    sketch = KLLStrings(key=last_digit, random_state=0)
    sketch.update([f"{i}{i % 7}" for i in range(5000)])
    with pytest.raises(ValueError, match="the sketch had a key: pass the same one as key"):
        KLLStrings.from_bytes(sketch.to_bytes())
    again = KLLStrings.from_bytes(sketch.to_bytes(), key=last_digit)
    assert again.quantile(0.5) == sketch.quantile(0.5)
    assert pickle.loads(pickle.dumps(sketch)).rank("3") == sketch.rank("3")
    with pytest.raises(ValueError, match="same key"):
        sketch.merge(KLLStrings())
    with pytest.raises(ValueError, match="had no key"):
        KLLStrings.from_bytes(KLLStrings().to_bytes(), key=len)
    assert (sketch | again).count == 10_000
    for key, error in [
        (lambda s: None, TypeError),
        (lambda s: float("nan"), ValueError),
        (lambda s: 2**70, ValueError),
    ]:
        with pytest.raises(error, match="key must"):
            KLLStrings(key=key).update(["a"])
    with pytest.raises(TypeError, match="key must be a function"):
        KLLStrings(key="len")


def test_arrow_strings_are_taken_with_offsets_and_give_what_a_list_gives() -> None:
    pa = pytest.importorskip("pyarrow")
    words = [f"w{i * 7919 % 10_007:05d}" for i in range(10_000)]
    made = []
    for array in (words, pa.array(words), pa.array(words, pa.large_string()), np.array(words)):
        sketch = KLLStrings(random_state=1)
        sketch.update(array)
        made.append(sketch.to_bytes())
    assert len(set(made)) == 1
    part = KLLStrings()
    part.update(pa.chunked_array([pa.array(words).slice(10, 5), pa.array(words).slice(100, 0)]))
    assert part.quantile(1.0) == max(words[10:15])
    with pytest.raises(TypeError, match="got a single string; put it in a list"):
        part.update("word")
    with pytest.raises(TypeError, match="values must be strings, got int at index 1"):
        part.update(["a", 3])
    with pytest.raises(ValueError, match="valid Unicode"):
        part.update(["\ud800"])


@pytest.mark.parametrize("accuracy", [0.0001, 0.003, 0.01, 0.2, 0.5])
def test_bins_are_nowhere_wider_than_the_accuracy_allows(accuracy: float) -> None:
    bins = _native.LogBins(accuracy)
    rng = np.random.default_rng(0)
    widest = (1 + accuracy) / (1 - accuracy)
    for bin in [0, 1, bins.highest - 1, *rng.integers(0, bins.highest, 3000)]:
        low, high = bins.edge(int(bin)), bins.edge(int(bin) + 1)
        assert 1.0 < high / low <= widest * (1 + 1e-12)
        assert bins.index(low * (1 + 1e-12)) == bin == bins.index(high * (1 - 1e-12)) or low < 2.3e-308


def test_relative_error_holds_over_the_whole_range_of_doubles_and_both_signs() -> None:
    rng = np.random.default_rng(2)
    values = np.exp(rng.uniform(-700, 700, 40_000)) * rng.choice([-1.0, 1.0], 40_000)
    values[:5] = [0.0, -0.0, 5e-324, np.finfo(float).max, -np.finfo(float).max]
    sketch = DDSketch(0.02)
    for piece in np.array_split(values, 7):
        sketch.update(piece)
    ordered = np.sort(values)
    q = np.linspace(0.0, 1.0, 4001)
    truth = ordered[np.maximum(np.ceil(q * values.size - 1e-9).astype(int) - 1, 0)]
    assert (abs(sketch.quantile(q) - truth) <= 0.02 * (1 + 1e-9) * abs(truth) + 1e-307).all()
    low, high = sketch.quantile_bounds(q)
    truth[abs(truth) < 2.3e-308] = 0.0  # what is that small counts as 0
    assert ((low <= truth) & (truth <= high)).all()
    assert len(sketch.to_bytes()) < 700_000


def test_relative_sketches_merge_to_the_bytes_of_one_stream() -> None:
    values = np.random.default_rng(3).lognormal(0, 3, 30_000)
    whole, merged = DDSketch(), DDSketch()
    whole.update(values)
    for piece in reversed(np.array_split(values, 13)):
        part = DDSketch()
        part.update(piece)
        merged.merge(part)
    assert merged.to_bytes() == whole.to_bytes()


def test_a_relative_rank_counts_equal_values_and_zeros_whole() -> None:
    sketch = DDSketch()
    sketch.update([0.0] * 6 + [1.0] * 3 + [5.0])
    assert sketch.rank([-1.0, 0.0, 5.0]).tolist() == [0.0, 0.6, 1.0]
    assert sketch.rank_bounds(0.0) == (0.6, 0.6)
    low, high = sketch.rank_bounds(1.0)
    assert low <= 0.9 <= high


def test_a_digest_stays_small_and_is_finest_at_its_ends() -> None:
    values = np.random.default_rng(4).standard_normal(1_000_000)
    digest = TDigest(200)
    for piece in np.array_split(values, 100):
        digest.update(piece)
    assert len(digest.centroids[0]) <= 400
    assert digest.centroids[1].sum() == 1_000_000
    ordered = np.sort(values)
    for q, most in [(0.5, 0.005), (0.99, 0.0006), (0.9999, 0.00001)]:
        assert abs(np.searchsorted(ordered, digest.quantile(q)) / values.size - q) < most


def test_a_digest_does_as_well_as_the_one_that_it_is_compatible_with() -> None:
    peer = pytest.importorskip("datasketches")
    values = np.random.default_rng(5).lognormal(0, 1, 200_000)
    ours, theirs = TDigest(200), peer.tdigest_double(200)
    ours.update(values)
    theirs.update(values)
    ordered, q = np.sort(values), np.linspace(0.001, 0.999, 999)

    def error(found: np.ndarray) -> float:
        return float(abs(np.searchsorted(ordered, found) / values.size - q).max())

    assert error(ours.quantile(q)) <= error(np.array([theirs.get_quantile(level) for level in q]))


def test_exact_quantiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(6)
    values, weights = rng.standard_normal(2000), rng.exponential(1, 2000)
    q = np.arange(65) / 64  # without rounding
    expected = np.quantile(values, q, weights=weights, method="inverted_cdf")
    assert weighted_quantile(values, q, weights).tolist() == expected.tolist()
    assert weighted_quantile(values, q).tolist() == np.quantile(values, q, method="inverted_cdf").tolist()
    exact = Exact()
    for v, w in zip(np.array_split(values, 9), np.array_split(weights, 9)):
        exact.update(v, w)
        exact.quantile(0.5)
    assert exact.quantile(q).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="empty"):
        weighted_quantile([], 0.5)


def test_a_share_that_rounds_up_still_means_the_value_it_says() -> None:
    values = np.arange(1.0, 101.0)
    assert 0.07 * 100 > 7
    for q, rank in [(0.07, 7), (0.14, 14), (0.28, 28), (0.29, 29), (0.56, 56), (0.57, 57)]:
        assert weighted_quantile(values, q) == rank


def test_sorting_by_digits_sorts_whatever_comes() -> None:
    # Through the sketch of integers, whose runs are sorted that way; k is so large that nothing is thrown away.
    rng = np.random.default_rng(7)
    cases = [
        rng.integers(-(2**63), 2**63 - 1, 5000),
        rng.integers(0, 3, 5000),
        np.where(rng.random(5000) < 0.5, -5, 2**40 + rng.integers(0, 1000, 5000)),
        (rng.integers(0, 4, 5000) << 60) + rng.integers(0, 2**20, 5000),
        np.arange(5000)[::-1],
        np.full(5000, -7),
    ]
    for values in cases:
        sketch = KLLIntegers(k=8, random_state=0)
        sketch.update(values)
        again = KLLIntegers.from_bytes(sketch.to_bytes())  # refuses levels that are out of order
        ranks = np.searchsorted(np.sort(values), again.quantile([0.2, 0.5, 0.8]), side="right") / values.size
        assert (ranks - [0.2, 0.5, 0.8] > -again.error_bound).all()
