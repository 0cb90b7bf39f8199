"""Histograms: against the data that they summarise, scipy, the protobuf package and Prometheus' own rules."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from tercile.quantiles.sketch.histograms import (
    Histogram,
    common_bins,
    draw,
    earth_movers,
    earth_movers_bounds,
    from_message,
    intersection,
    intersection_distance,
    jeffreys,
    kolmogorov_smirnov,
    kolmogorov_smirnov_bounds,
    kullback_leibler,
    merge,
    minkowski,
    rebin,
    subset,
    to_message,
    trim,
)


def data_sets() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "normal": rng.standard_normal(2000),
        "heavy": rng.standard_t(2, 2000),
        "on the breaks": rng.integers(0, 11, 2000) * 1.0,
        "two lumps": np.concatenate([rng.normal(-5, 0.1, 500), rng.normal(5, 0.1, 500)]),
        "one value": np.full(7, 3.0),
    }


def breaks_of(values: np.ndarray, seed: int) -> np.ndarray:
    if (values == np.round(values)).all():
        return np.arange(-1.0, 13.0)
    inner = np.random.default_rng(seed).uniform(values.min(), values.max(), 30)
    return np.unique(np.concatenate([[values.min()], inner, [values.max()]]))


@pytest.mark.parametrize("closed", ["left", "right"])
def test_counting_agrees_with_the_definition_of_a_bin(closed: str) -> None:
    for name, values in data_sets().items():
        breaks = breaks_of(values, 1)
        h = Histogram.from_values(values, breaks, closed=closed)
        for i, (low, high) in enumerate(itertools.pairwise(breaks)):
            if closed == "right":
                inside = (values > low) & (values <= high) | (values == low) & (i == 0)
            else:
                inside = (values >= low) & (values < high) | (values == high) & (i == h.counts.size - 1)
            assert h.counts[i] == inside.sum(), name
        assert h.count == values.size
    assert (Histogram.from_values(values, breaks, closed="left").counts == np.histogram(values, breaks)[0]).all()


@pytest.mark.parametrize("closed", ["left", "right"])
def test_the_true_cdf_quantiles_and_mean_lie_within_the_bounds(closed: str) -> None:
    for name, values in data_sets().items():
        h = Histogram.from_values(values, breaks_of(values, 2), closed=closed)
        points = np.concatenate([h.breaks, h.mids, values[:100], [h.breaks[0] - 1, h.breaks[-1] + 1]])
        truth = (values[:, None] <= points).mean(axis=0)
        low, high = h.cdf_bounds(points)
        assert (low <= truth + 1e-12).all(), name
        assert (truth <= high + 1e-12).all(), name
        assert (high - low).max() <= h.cdf_error + 1e-12, name
        if closed == "right":  # what a break parts is known exactly
            low, high = h.cdf_bounds(h.breaks[1:])
            assert (low == high).all(), name
        q = np.linspace(0, 1, 57)
        wanted = np.sort(values)[np.maximum(np.ceil(q * values.size - 1e-9).astype(int) - 1, 0)]
        low, high = h.quantile_bounds(q)
        assert ((low <= wanted) & (wanted <= high)).all(), name
        assert ((low <= h.quantile(q)) & (h.quantile(q) <= high)).all(), name
        low, high = h.mean_bounds()
        assert low <= values.mean() <= high, name
        assert low <= h.mean() <= high, name


def test_no_narrower_bounds_can_hold_for_all_data_with_these_counts() -> None:
    # The data sets at both ends of the bins reach the bounds: the error measures of R are the distance between them.
    h = Histogram([0.0, 1.0, 2.0, 4.0, 8.0], [5, 0, 2, 3])
    lower, upper = np.repeat(h.breaks[:-1], h.counts), np.repeat(h.breaks[1:], h.counts)
    assert h.cdf_error == pytest.approx(stats.ks_2samp(lower, upper).statistic)
    assert h.area_error == pytest.approx(stats.wasserstein_distance(lower, upper) / 8.0)
    for x in (0.5, 1.5, 3.0, 6.0):
        assert h.cdf_bounds(x) == ((upper <= x).mean(), (lower <= x).mean())
    assert h.mean_bounds() == (lower.mean(), upper.mean())


def test_the_even_cdf_and_quantile_are_each_others_inverse() -> None:
    h = Histogram.from_values(data_sets()["normal"], 50)
    q = np.linspace(0.01, 0.99, 99)
    assert np.allclose(h.cdf(h.quantile(q)), q)
    uniform = Histogram([0.0, 10.0], [4])
    assert uniform.quantile([0.0, 0.25, 1.0]).tolist() == [0.0, 2.5, 10.0]


def test_a_thousand_shards_merged_are_the_histogram_of_one_pass() -> None:
    values = np.random.default_rng(3).lognormal(size=50_000)
    breaks = np.geomspace(values.min(), values.max() * 1.001, 200)
    shards = [Histogram.from_values(part, breaks, name="x") for part in np.array_split(values, 1000)]
    assert merge(shards, name="x") == Histogram.from_values(values, breaks, name="x")
    together = shards[0]
    for shard in shards[1:]:
        together = together | shard
    assert together == merge(shards, name="x")


def test_coarser_bins_count_what_counting_anew_counts() -> None:
    values = data_sets()["heavy"]
    breaks = breaks_of(values, 4)
    h = Histogram.from_values(values, breaks)
    coarse = breaks[[0, 3, 4, 17, -1]]
    assert rebin(h, coarse) == Histogram.from_values(values, coarse)
    for bins in (1, 2, 7, h.counts.size):
        fewer = rebin(h, bins)
        assert fewer == Histogram.from_values(values, fewer.breaks)
        assert fewer.counts.size <= bins
        assert fewer.cdf_error >= h.cdf_error
    # As the R package's own tests have it: nine bins, two at a time; three cells.
    nine = Histogram(np.arange(10.0), [1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert rebin(nine, 5).breaks.tolist() == [0, 2, 4, 6, 8, 9]
    assert rebin(nine, 5).counts.tolist() == [2, 1, 0, 0, 0]
    assert rebin(nine, 3).counts.tolist() == [3, 0, 0]


def test_a_part_counts_what_lies_in_it_and_trimming_takes_only_empty_bins() -> None:
    values = data_sets()["two lumps"]
    h = Histogram.from_values(values, np.linspace(-10, 10, 81))
    part = subset(h, -5.0, 5.0)
    assert part == Histogram(h.breaks[20:61], h.counts[20:60])
    assert subset(h, low=0.0).count == (values > 0).sum()
    trimmed = trim(h)
    assert trimmed.count == h.count
    assert trimmed.counts[0] > 0
    assert trimmed.counts[-1] > 0
    assert trim(h, right=False).breaks[-1] == 10.0
    assert trim(h, left=False).breaks[0] == -10.0
    empty = Histogram([0, 1, 2], [0, 0])
    assert trim(empty) is empty


def pairs() -> list[tuple[np.ndarray, np.ndarray, Histogram, Histogram]]:
    rng = np.random.default_rng(5)
    found = []
    for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 3.0), (6.0, 0.2)):
        a, b = rng.standard_normal(700), rng.normal(shift, scale, 400)
        breaks = np.unique(np.concatenate([[-12.0, 12.0], rng.uniform(-8, 8, 25)]))
        found.append((a, b, Histogram.from_values(a, breaks), Histogram.from_values(b, breaks)))
    return found


def test_distances_of_distribution_functions_agree_with_scipy_and_bound_those_of_the_data() -> None:
    for a, b, one, other in pairs():
        # Each bin's values spread evenly, finely enough for scipy.
        spread = [
            np.concatenate([np.linspace(lo, hi, 2000, endpoint=False) for lo, hi in zip(h.breaks[:-1], h.breaks[1:])])
            for h in (one, other)
        ]
        weights = [np.repeat(h.counts, 2000) for h in (one, other)]
        area = stats.wasserstein_distance(*spread, *weights)
        assert earth_movers(one, other) == pytest.approx(area, rel=1e-3, abs=1e-6)
        upper_ends = [np.repeat(h.breaks[1:], h.counts) for h in (one, other)]
        assert kolmogorov_smirnov(one, other) == pytest.approx(stats.ks_2samp(*upper_ends).statistic)

        low, high = kolmogorov_smirnov_bounds(one, other)
        assert low - 1e-12 <= stats.ks_2samp(a, b).statistic <= high + 1e-12
        low, high = earth_movers_bounds(one, other)
        assert low - 1e-12 <= stats.wasserstein_distance(a, b) <= high + 1e-12
        assert earth_movers(one, one) == kolmogorov_smirnov(one, one) == 0.0
        assert earth_movers(one, other) == pytest.approx(earth_movers(other, one))


def test_distances_bin_by_bin_agree_with_scipy_and_their_definition() -> None:
    for _, _, one, other in pairs():
        for p in (1, 2, 3.5):
            theirs = np.linalg.norm(one.counts - other.counts, ord=p)
            assert minkowski(one, other, p) == pytest.approx(theirs)
        shared = sum(min(x, y) for x, y in zip(one.counts.tolist(), other.counts.tolist()))
        assert intersection(one, other).count == shared
        assert intersection_distance(one, other) == pytest.approx(1 - shared / other.count)
        assert jeffreys(one, other) == pytest.approx(2 * stats_js(one, other))
        assert kullback_leibler(one, other) == pytest.approx(stats.entropy(one.counts, other.counts))
    assert kullback_leibler(Histogram([0, 1, 2], [1, 1]), Histogram([0, 1, 2], [1, 0])) == math.inf


def stats_js(one: Histogram, other: Histogram) -> float:
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(one.counts, other.counts) ** 2)


def test_histograms_of_different_bins_meet_at_the_breaks_that_they_share() -> None:
    values = data_sets()["on the breaks"]
    one = Histogram.from_values(values, np.arange(-1.0, 12.0, 1.0))
    other = Histogram.from_values(values, np.arange(-1.0, 12.0, 2.0))
    a, b = common_bins(one, other)
    assert a == b == other
    with pytest.raises(ValueError, match=r"same breaks, got 12 bins and 6 bins; bring them .* common_bins"):
        kolmogorov_smirnov(one, other)
    with pytest.raises(ValueError, match="outside the breaks that both share"):
        common_bins(one, Histogram([3.0, 4.0], [1]))
    with pytest.raises(ValueError, match="share two or more"):
        common_bins(one, Histogram([0.5, 1.5], [1]))
    with pytest.raises(ValueError, match="closed on one side"):
        one | Histogram.from_values(values, one.breaks, closed="left")


@cache
def message_class() -> type:
    """The message of the R package's inst/proto/histogram.proto, from the protobuf package."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="histogram.proto", package="HistogramTools", syntax="proto2")
    message = file.message_type.add(name="HistogramState")
    message.field.add(name="breaks", number=1, label=field.LABEL_REPEATED, type=field.TYPE_DOUBLE)
    message.field.add(name="counts", number=2, label=field.LABEL_REPEATED, type=field.TYPE_INT32)
    message.field.add(name="name", number=3, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("HistogramTools.HistogramState"))


@given(
    some.lists(some.floats(-1e300, 1e300), min_size=2, max_size=30, unique=True),
    some.lists(some.integers(0, 2**31 - 1), min_size=29, max_size=29),
    some.none() | some.text(max_size=20).filter(lambda t: "\ud800" not in t),
)
def test_the_message_has_the_bytes_that_protobuf_writes(
    breaks: list[float], counts: list[int], name: str | None
) -> None:
    breaks = sorted({b + 0.0 for b in breaks})
    if len(breaks) < 2:
        return
    counts = counts[: len(breaks) - 1]
    message = message_class()(breaks=breaks, counts=counts, name=name)
    h = Histogram(np.array(breaks), np.array(counts), name=name)
    assert to_message(h) == message.SerializeToString()
    assert from_message(message.SerializeToString()) == h
    assert message_class().FromString(to_message(h)) == message


def test_packed_numbers_and_unknown_fields_are_read_as_protobuf_reads_them() -> None:
    packed = b"\x0a\x18" + struct.pack("<3d", 0.0, 1.0, 2.0) + b"\x12\x03\xac\x02\x07"
    unknown = b"\x20\x05" + b"\x2d\x00\x00\x00\x00" + b"\x32\x02hi" + b"\x39" + bytes(8)
    h = from_message(packed + unknown + b"\x1a\x01a\x1a\x01b")
    assert h == Histogram([0.0, 1.0, 2.0], [300, 7], name="b")
    theirs = message_class().FromString(packed + unknown + b"\x1a\x01a\x1a\x01b")
    assert (list(theirs.breaks), list(theirs.counts), theirs.name) == ([0, 1, 2], [300, 7], "b")


def test_truncated_and_hostile_messages_are_refused() -> None:
    whole = to_message(Histogram([0.0, 1.0, 2.0], [300, 7], name="name"))
    for cut in range(len(whole)):
        try:
            from_message(whole[:cut])
        except ValueError:
            continue
        assert cut == len(whole) - 6  # just before the name: a whole message without one
    rng = np.random.default_rng(6)
    for _ in range(3000):
        broken = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            broken[position] = int(rng.integers(256))
        with contextlib.suppress(ValueError):  # and nothing else
            from_message(bytes(broken))
    for data, message in [
        (b"\x0b", "stored in a way that does not exist"),
        (b"\x02\x00", "no field 0"),
        (b"\x1a\xff\xff\xff\xff\x0f", "truncated"),
        (b"\x10" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x1a\x01\xff", "not UTF-8"),
        (b"\x0a\x03abc", "no doubles"),
        (b"\x08\x01", "no doubles"),
        (to_message(Histogram([0.0, 1.0], [3])) + b"\x10\x01", "counts must be one for each"),
        (b"\x09" + bytes(8) + b"\x09" + struct.pack("<d", 1.0) + b"\x10" + b"\xff" * 9 + b"\x01", "not negative"),
        (b"", "two or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_message(data)
    with pytest.raises(TypeError, match="data must be bytes"):
        from_message("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 2\\*\\*31 - 1 in the message, got 2147483648"):
        to_message(Histogram([0.0, 1.0], [2**31]))
    with pytest.raises(ValueError, match="whole numbers"):
        to_message(Histogram([0.0, 1.0], [0.5]))


def test_numpy_histograms_come_and_go() -> None:
    values = data_sets()["normal"]
    h = Histogram.from_numpy(*np.histogram(values, bins=17))
    assert h == Histogram.from_values(values, 17, closed="left")
    counts, edges = h.to_numpy()
    assert (counts == np.histogram(values, bins=17)[0]).all()
    assert (edges == np.histogram(values, bins=17)[1]).all()


def test_a_picture_shows_the_band_of_the_cdf(tmp_path: object) -> None:
    h = Histogram.from_values(data_sets()["normal"], 20, name="a name")
    figure = draw(h, tmp_path / "h.svg")
    band = figure.axes[1].collections[0].get_paths()[0].vertices
    for low, high, x in zip(*h.cdf_bounds(h.mids), h.mids):
        near = band[np.abs(band[:, 0] - x) <= h.widths.max()]
        assert near[:, 1].min() <= low + 1e-12
        assert near[:, 1].max() >= high - 1e-12
    text = (tmp_path / "h.svg").read_text()
    assert "<svg" in text
    assert len(draw(Histogram([1, 10, 100], [5, 6]), log=True).axes) == 2
    with pytest.raises(ValueError, match="log needs breaks above 0"):
        draw(h, log=True)
    with pytest.raises(ValueError, match="empty"):
        draw(Histogram([1, 2], [0]))


@pytest.mark.parametrize(
    ("breaks", "counts", "message"),
    [
        ([0.0], [], "two or more numbers"),
        ([0.0, 0.0], [1], "each above the one before"),
        ([0.0, math.inf], [1], "finite"),
        ([0.0, 1.0], [1, 2], "one for each of the 1 bins"),
        ([0.0, 1.0], [-1], "not negative, got -1"),
        ([0.0, 1.0], [math.nan], "finite and not negative"),
    ],
)
def test_what_is_no_histogram_is_refused(breaks: list[float], counts: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Histogram(breaks, counts)


def test_other_bad_input_is_named() -> None:
    h = Histogram([0.0, 1.0, 2.0], [1, 2])
    with pytest.raises(ValueError, match="closed must be"):
        Histogram([0.0, 1.0], [1], closed="both")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="counts must be numbers"):
        Histogram([0.0, 1.0], ["a"])
    with pytest.raises(ValueError, match="got a value of 5"):
        Histogram.from_values([0.5, 5.0], h.breaks)
    with pytest.raises(ValueError, match="NaN, got one at index 1"):
        Histogram.from_values([0.5, math.nan])
    with pytest.raises(ValueError, match="must not be empty"):
        Histogram.from_values([])
    with pytest.raises(ValueError, match="breaks must be at least 1 bin"):
        Histogram.from_values([1.0], 0)
    with pytest.raises(ValueError, match=r"got 1\.4; the nearest is 1"):
        rebin(h, [0.0, 1.4, 2.0])
    with pytest.raises(ValueError, match="must begin and end where the histogram does"):
        rebin(h, [0.0, 1.0])
    with pytest.raises(ValueError, match="breaks must be 1 to 2 bins"):
        rebin(h, 3)
    with pytest.raises(ValueError, match="each above the one before"):
        subset(h, 2.0, 0.0)
    with pytest.raises(ValueError, match="one or more"):
        merge([])
    with pytest.raises(ValueError, match="p must be finite"):
        minkowski(h, h, 0)
    with pytest.raises(ValueError, match="is empty"):
        Histogram([0.0, 1.0], [0]).quantile(0.5)
    with pytest.raises(ValueError, match="q must"):
        h.quantile(1.5)
    with pytest.raises(ValueError, match="x must not be NaN"):
        h.cdf_bounds(math.nan)
    with pytest.raises(ValueError, match="empty"):
        jeffreys(h, Histogram([0.0, 1.0, 2.0], [0, 0]))
