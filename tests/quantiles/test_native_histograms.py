"""Prometheus' native histograms: bucket bounds to the last bit, spans and deltas, coarser schemas, quantiles."""

from __future__ import annotations

import contextlib
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tercile.quantiles.sketch.histograms import Histogram, NativeHistogram, from_prometheus, to_prometheus
from tercile.quantiles.sketch.histograms.prometheus import bucket_bounds, bucket_numbers

SCHEMAS = range(-4, 9)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_value_is_in_its_bucket_and_bounds_belong_to_the_lower_one(schema: int) -> None:
    rng = np.random.default_rng(schema + 10)
    values = np.exp(rng.uniform(-700, 700, 3000))
    numbers = bucket_numbers(values, schema)
    low, high = bucket_bounds(numbers, schema)
    assert ((low < values) & (values <= high)).all()
    inner = np.isfinite(high)
    assert (bucket_numbers(high[inner], schema) == numbers[inner]).all()
    assert (bucket_numbers(np.nextafter(high[inner], np.inf), schema) == numbers[inner] + 1).all()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_bounds_are_powers_of_the_base(schema: int) -> None:
    numbers = np.arange(-40, 41)
    _, upper = bucket_bounds(numbers, schema)
    for number, bound in zip(numbers.tolist(), upper):
        wanted = 2.0 ** (number * 2.0**-schema)
        assert math.isclose(bound, wanted, rel_tol=1e-15)
    assert bucket_bounds(np.array([0]), schema)[1][0] == 1.0


def test_the_layout_is_the_one_of_the_specification() -> None:
    # Schema 0: 1 is in bucket 0, (1, 2] in 1, (2, 4] in 2, (64, 128] in 7; gaps of up to two are written out.
    h = NativeHistogram.from_values([1.0, 1.5, 1.7, 3.0, 100.0, -0.3, 0.0], schema=0)
    assert h.positive_spans == ((0, 3), (4, 1))
    assert h.positive_deltas == (1, 1, -1, 0)
    assert h.negative_spans == ((-1, 1),)
    assert h.negative_deltas == (1,)
    assert (h.zero_count, h.count, h.sum) == (1, 7, pytest.approx(106.9))
    near = NativeHistogram.from_values([1.0, 8.0], schema=0)  # buckets 0 and 3: two empty ones between
    assert near.positive_spans == ((0, 4),)
    assert near.positive_deltas == (1, -1, 0, 1)
    far = NativeHistogram.from_values([1.0, 16.0], schema=0)
    assert far.positive_spans == ((0, 1), (3, 1))


values_of_all_sizes = some.lists(some.floats(-1e30, 1e30), min_size=1, max_size=60)


@given(values_of_all_sizes, some.sampled_from(list(SCHEMAS)))
def test_the_true_rank_of_every_value_lies_within_the_bounds(values: list[float], schema: int) -> None:
    native = NativeHistogram.from_values(values, schema)
    assert native.count == len(values)
    array = np.array(values)
    h = native.to_histogram()
    assert h.count == len(values)
    truth = (array[:, None] <= array).mean(axis=0)
    low, high = h.cdf_bounds(array)
    assert ((low <= truth + 1e-12) & (truth <= high + 1e-12)).all()
    for q in (0.0, 0.3, 0.5, 1.0):
        wanted = np.sort(array)[max(math.ceil(q * len(values) - 1e-9) - 1, 0)]
        low, high = h.quantile_bounds(q)
        assert low <= wanted <= high
        assert min(low, low * (1 + 1e-12)) <= native.quantile(q) <= max(high, high * (1 + 1e-12))


@given(values_of_all_sizes, some.sampled_from(list(SCHEMAS)))
def test_there_and_back_through_breaks_and_counts_is_the_same(values: list[float], schema: int) -> None:
    native = NativeHistogram.from_values(values, schema)
    again = NativeHistogram.from_histogram(native.to_histogram(), schema, total=native.sum)
    assert again == native


@given(values_of_all_sizes, some.integers(-4, 8), some.integers(-4, 8))
def test_coarser_is_what_counting_at_that_schema_gives(values: list[float], one: int, other: int) -> None:
    fine, coarse = max(one, other), min(one, other)
    counted = NativeHistogram.from_values(values, coarse)
    assert NativeHistogram.from_values(values, fine).coarser(coarse) == counted


@given(values_of_all_sizes, values_of_all_sizes, some.integers(-4, 8), some.integers(-4, 8))
def test_merging_is_counting_both_at_the_coarser_schema(a: list[float], b: list[float], one: int, other: int) -> None:
    merged = NativeHistogram.from_values(a, one) | NativeHistogram.from_values(b, other)
    wanted = NativeHistogram.from_values(a + b, min(one, other))
    assert merged.sum == pytest.approx(wanted.sum, rel=1e-9, abs=1e15)
    for sign in (1, -1):
        assert merged.buckets(sign) == wanted.buckets(sign)
    assert (merged.schema, merged.count, merged.zero_count) == (wanted.schema, wanted.count, wanted.zero_count)


def test_quantiles_of_a_lognormal_are_within_half_a_bucket_of_the_truth() -> None:
    values = np.random.default_rng(1).lognormal(3, 2, 20_000)
    q = np.array([0.01, 0.5, 0.9, 0.999])
    truth = np.quantile(values, q, method="inverted_cdf")
    for schema in (0, 3, 6):
        told = NativeHistogram.from_values(values, schema).quantile(q)
        assert (np.abs(np.log2(told / truth)) <= 2.0**-schema).all()
        mirrored = NativeHistogram.from_values(-values, schema).quantile(1 - q)
        assert np.allclose(-mirrored, told, rtol=0.02)
    one_bucket = NativeHistogram(0, positive_spans=((3, 1),), positive_deltas=(10,))  # (4, 8]: half-way is 4 * sqrt(2)
    assert one_bucket.quantile(0.5) == pytest.approx(4 * math.sqrt(2))


def test_what_breaks_the_layout_is_refused() -> None:
    for settings, message in [
        ({"schema": 9}, "schema must be -4 to 8, got 9"),
        ({"schema": 0, "zero_threshold": -1.0}, "zero_threshold must be finite"),
        ({"schema": 0, "zero_count": -1}, "zero_count must not be negative"),
        ({"schema": 0, "positive_spans": ((0, 2),), "positive_deltas": (1,)}, "one for each of the 2 buckets"),
        ({"schema": 0, "negative_spans": ((0, 2),), "negative_deltas": (1, -2)}, "never take a count below 0"),
        ({"schema": 0, "positive_spans": ((0, 1), (-3, 1)), "positive_deltas": (1, 0)}, "not negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            NativeHistogram(**settings)
    with pytest.raises(TypeError, match="schema must be an integer"):
        NativeHistogram(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="values must be finite, got inf"):
        NativeHistogram.from_values([1.0, math.inf])
    with pytest.raises(ValueError, match="is no bucket of schema 0"):
        NativeHistogram.from_histogram(Histogram([1.0, 3.0], [4]), schema=0)
    with pytest.raises(ValueError, match="whole numbers"):
        NativeHistogram.from_histogram(Histogram([1.0, 2.0], [0.5]), schema=0)
    with pytest.raises(ValueError, match="is empty"):
        NativeHistogram(3).to_histogram()
    with pytest.raises(ValueError, match="same zero_threshold"):
        NativeHistogram(3) | NativeHistogram(3, zero_threshold=0.1)
    with pytest.raises(ValueError, match="schema must be -4 to 3"):
        NativeHistogram(3).coarser(5)


@cache
def message_class() -> type:
    """`Histogram` of io.prometheus.client as far as native histograms go, from the protobuf package."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="io.prometheus.client", syntax="proto2")
    span = file.message_type.add(name="BucketSpan")
    span.field.add(name="offset", number=1, label=one, type=field.TYPE_SINT32)
    span.field.add(name="length", number=2, label=one, type=field.TYPE_UINT32)
    histogram = file.message_type.add(name="Histogram")
    for name, number, label, kind in [
        ("sample_count", 1, one, field.TYPE_UINT64),
        ("sample_sum", 2, one, field.TYPE_DOUBLE),
        ("sample_count_float", 4, one, field.TYPE_DOUBLE),
        ("schema", 5, one, field.TYPE_SINT32),
        ("zero_threshold", 6, one, field.TYPE_DOUBLE),
        ("zero_count", 7, one, field.TYPE_UINT64),
        ("negative_delta", 10, many, field.TYPE_SINT64),
        ("positive_delta", 13, many, field.TYPE_SINT64),
    ]:
        histogram.field.add(name=name, number=number, label=label, type=kind)
    for name, number in (("negative_span", 9), ("positive_span", 12)):
        kind = ".io.prometheus.client.BucketSpan"
        histogram.field.add(name=name, number=number, label=many, type=field.TYPE_MESSAGE, type_name=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("io.prometheus.client.Histogram"))


@given(values_of_all_sizes, some.integers(-4, 8))
def test_the_message_of_prometheus_has_the_bytes_that_protobuf_writes(values: list[float], schema: int) -> None:
    native = NativeHistogram.from_values([*values, 0.0], schema)
    theirs = message_class()(
        sample_count=native.count, sample_sum=native.sum, schema=schema, zero_threshold=native.zero_threshold,
        zero_count=native.zero_count, positive_delta=native.positive_deltas, negative_delta=native.negative_deltas,
    )  # fmt: skip
    for spans, field in ((native.positive_spans, theirs.positive_span), (native.negative_spans, theirs.negative_span)):
        for gap, length in spans:
            field.add(offset=gap, length=length)
    if not native.positive_spans and not native.negative_spans:
        theirs.positive_span.add(offset=0, length=0)
    assert to_prometheus(native) == theirs.SerializeToString()
    assert from_prometheus(theirs.SerializeToString()) == native


def test_hostile_messages_of_prometheus_are_refused() -> None:
    native = NativeHistogram.from_values([1.0, -3.0, 100.0, 0.0], schema=3)
    whole = to_prometheus(native)
    assert from_prometheus(whole + b"\x1a\x02\x08\x01") == native  # a classic bucket beside it
    rng = np.random.default_rng(2)
    for _ in range(3000):
        broken = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            broken[position] = int(rng.integers(256))
        with contextlib.suppress(ValueError):  # and nothing else
            from_prometheus(bytes(broken))
    for data, message in [
        (b"", "no native histogram"),
        (whole[:-1], "truncated|one for each"),
        (b"\x28\x28" + b"\x62\x04\x08\x00\x10\x00", "schema must be"),
        (b"\x28\x00\x62\x04\x08\x00\x10\x05", "one for each of the 5 buckets"),
        (whole + b"\x21" + bytes(8), "fractional counts"),
        (whole + b"\x08\x01", "1 values in all, but 4 in buckets"),
        (whole + b"\x60\x01", "a span is no message"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_prometheus(data)
    with pytest.raises(TypeError, match="data must be bytes"):
        from_prometheus("text")  # type: ignore[arg-type]
