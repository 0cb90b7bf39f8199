"""Bytes of Apache DataSketches, read and written, with its own package on the other side."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tercile.quantiles.sketch import KLL, TDigest

peer = pytest.importorskip("datasketches")
KINDS = [("float64", "kll_doubles_sketch"), ("float32", "kll_floats_sketch")]
SIZES = [0, 1, 2, 7, 150, 599, 5_000, 300_000]
# Shares that no count of values is exactly: those may be rounded to either side. At 0 and 1 we give the exact ends.
Q = np.linspace(0.01, 0.99, 99) + 1 / 7919


def numbers(size: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(size).standard_normal(size).astype(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [8, 200, 1000])
@pytest.mark.parametrize(("dtype", "name"), KINDS)
def test_theirs_is_read_and_answers_the_same(dtype: str, name: str, k: int, size: int) -> None:
    theirs = getattr(peer, name)(k)
    theirs.update(numbers(size, dtype))
    ours = KLL.from_datasketches(theirs.serialize(), random_state=0)
    assert (ours.count, ours.k) == (theirs.n, k)
    if size:
        assert (ours.minimum, ours.maximum) == (theirs.get_min_value(), theirs.get_max_value())
        assert ours.quantile(Q).tolist() == list(theirs.get_quantiles(Q, inclusive=True))
        for point in (-1.0, 0.0, 0.3):
            assert ours.rank(point) == pytest.approx(theirs.get_rank(point, True), abs=1e-12)
    assert (ours.error_bound > 0) == (theirs.is_estimation_mode() if size else False)
    ours.update(np.arange(3.0))
    assert ours.count == size + 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [8, 200, 1000])
@pytest.mark.parametrize(("dtype", "name"), KINDS)
def test_ours_is_read_by_them_and_answers_the_same(dtype: str, name: str, k: int, size: int) -> None:
    ours = KLL(k, random_state=1)
    for piece in np.array_split(numbers(size, dtype), 3):
        ours.update(piece)
    theirs = getattr(peer, name).deserialize(ours.to_datasketches(dtype))
    assert (theirs.n, theirs.k, theirs.is_empty()) == (size, k, size == 0)
    if size:
        assert list(theirs.get_quantiles(Q, inclusive=True)) == ours.quantile(Q).tolist()
        assert theirs.get_rank(0.1, True) == pytest.approx(ours.rank(np.asarray(0.1, dtype)), abs=1e-12)
    more = getattr(peer, name)(k)  # and it goes on there like one of their own
    more.update(np.ones(1000, dtype))
    theirs.merge(more)
    theirs.update(np.zeros(5, dtype))
    assert theirs.n == size + 1005
    again = KLL.from_datasketches(theirs.serialize())
    assert again.count == size + 1005


def test_a_sketch_of_weights_and_one_of_single_values_go_through() -> None:
    weighted, slow = KLL(random_state=2), KLL(random_state=3)
    weighted.update(np.arange(500.0), weights=np.arange(1, 501) ** 2)
    for value in np.random.default_rng(0).standard_normal(30_000):
        slow._native.update(np.array([value]))
    for ours in (weighted, slow):
        theirs = peer.kll_doubles_sketch.deserialize(ours.to_datasketches())
        assert theirs.n == ours.count
        assert list(theirs.get_quantiles(Q, inclusive=True)) == ours.quantile(Q).tolist()


def test_a_value_too_large_for_float32_is_refused() -> None:
    sketch = KLL()
    sketch.update([1.0, 1e300])
    with pytest.raises(ValueError, match="does not fit into float32"):
        sketch.to_datasketches("float32")
    with pytest.raises(ValueError, match="dtype must be 'float64' or 'float32'"):
        sketch.to_datasketches("int8")
    sketch.update([np.inf])
    assert KLL.from_datasketches(sketch.to_datasketches()).maximum == np.inf


def test_truncated_and_hostile_bytes_are_refused_or_a_sketch_in_order() -> None:
    theirs = peer.kll_doubles_sketch(20)
    theirs.update(np.random.default_rng(0).standard_normal(3000))
    data = theirs.serialize()
    for cut in range(len(data)):
        with pytest.raises(ValueError, match=r"truncated|cut off|damaged"):
            KLL.from_datasketches(data[:cut])
    with pytest.raises(ValueError, match="no KLL sketch"):
        KLL.from_datasketches(peer.req_floats_sketch(12, True).serialize())
    with pytest.raises(TypeError, match="data must be bytes"):
        KLL.from_datasketches("text")
    rng, refused = np.random.default_rng(1), 0
    for _ in range(2000):
        broken = bytearray(data)
        for position in rng.integers(0, 100, 3):
            broken[position] = int(rng.integers(256))
        try:
            opened = KLL.from_datasketches(bytes(broken))
        except ValueError:
            refused += 1
            continue
        opened.update([1.0, 2.0])
        assert KLL.from_bytes(opened.to_bytes()).count == opened.count
    assert refused > 1500


@pytest.mark.parametrize("size", [0, 1, 2, 50, 10_000])
def test_digests_go_both_ways(size: int) -> None:
    values = numbers(size, "float64")
    theirs, ours = peer.tdigest_double(100), TDigest(100)
    theirs.update(values)
    ours.update(values)
    read = TDigest.from_datasketches(theirs.serialize())
    written = peer.tdigest_double.deserialize(ours.to_datasketches())
    assert read.count == size == written.get_total_weight()
    if size:
        for q in (0.001, 0.1, 0.5, 0.99):
            for mine, other in ((read, theirs), (ours, written)):
                value = mine.quantile(q)
                # Between two centroids the two libraries draw different lines.
                assert abs(other.get_rank(value) - q) < max(0.03, 1 / size)
        assert (read.minimum, read.maximum) == (values.min(), values.max())
        low, high = read.rank_bounds(0.0)
        assert low <= np.mean(values <= 0.0) <= high
    for cut in range(len(theirs.serialize())):
        with pytest.raises(ValueError, match=r"truncated|cut off|damaged"):
            TDigest.from_datasketches(theirs.serialize()[:cut])


def test_a_digest_of_broken_weights_cannot_be_written() -> None:
    digest = TDigest(100)
    digest.update([1.0, 2.0], weights=[0.5, 1.0])
    with pytest.raises(ValueError, match="whole weights"):
        digest.to_datasketches()


def test_the_layout_is_the_one_that_is_written_down() -> None:
    sketch = KLL(k=200)
    sketch.update([1.5])
    assert sketch.to_datasketches() == bytes([2, 2, 15, 4]) + struct.pack("<HBBd", 200, 8, 0, 1.5)
