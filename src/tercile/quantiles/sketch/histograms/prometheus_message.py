"""Native histograms as the `Histogram` message of Prometheus' protobuf exposition (io.prometheus.client).

The fields of a native histogram with integer counts are written and read; classic buckets, exemplars and times, which
may stand beside them, are passed over.
"""

from __future__ import annotations

import struct

from tercile.quantiles.sketch.histograms.prometheus import NativeHistogram, Spans
from tercile.quantiles.sketch.histograms.wire import BYTES, FIXED64, VARINT, as_bytes, fields, tag, varint, varints

_COUNT, _SUM, _SCHEMA, _THRESHOLD, _ZEROS = 1, 2, 5, 6, 7
_NEGATIVE_SPAN, _NEGATIVE_DELTA, _POSITIVE_SPAN, _POSITIVE_DELTA = 9, 10, 12, 13
_FLOATS = (4, 8, 11, 14)
_OFFSET, _LENGTH = 1, 2


def to_prometheus(native: NativeHistogram) -> bytes:
    """The bytes of the message.

    Examples
    --------
    >>> from_prometheus(to_prometheus(NativeHistogram.from_values([1.0, 3.0], schema=0))).buckets(1)
    {0: 1, 2: 1}
    """
    parts = [
        tag(_COUNT, VARINT) + varint(native.count),
        tag(_SUM, FIXED64) + struct.pack("<d", native.sum),
        tag(_SCHEMA, VARINT) + varint(_zigzag(native.schema)),
        tag(_THRESHOLD, FIXED64) + struct.pack("<d", native.zero_threshold),
        tag(_ZEROS, VARINT) + varint(native.zero_count),
    ]
    # A span of nothing tells a native histogram without buckets from a classic one.
    positive = native.positive_spans or (((0, 0),) if not native.negative_spans else ())
    for spans, span_field, deltas, delta_field in (
        (native.negative_spans, _NEGATIVE_SPAN, native.negative_deltas, _NEGATIVE_DELTA),
        (positive, _POSITIVE_SPAN, native.positive_deltas, _POSITIVE_DELTA),
    ):
        for gap, length in spans:
            inner = tag(_OFFSET, VARINT) + varint(_zigzag(gap)) + tag(_LENGTH, VARINT) + varint(length)
            parts.append(tag(span_field, BYTES) + varint(len(inner)) + inner)
        parts += [tag(delta_field, VARINT) + varint(_zigzag(delta)) for delta in deltas]
    return b"".join(parts)


def from_prometheus(data: bytes) -> NativeHistogram:
    """A native histogram from the bytes of the message.

    Raises
    ------
    ValueError : truncated or damaged, no native histogram, or one with fractional counts.
    """
    numbers: dict[int, float] = {_SUM: 0.0, _THRESHOLD: 0.0, _ZEROS: 0, _COUNT: 0}
    spans: dict[int, list[tuple[int, int]]] = {_NEGATIVE_SPAN: [], _POSITIVE_SPAN: []}
    deltas: dict[int, list[int]] = {_NEGATIVE_DELTA: [], _POSITIVE_DELTA: []}
    for field, kind, value in fields(as_bytes(data)):
        if field in (_SUM, _THRESHOLD):
            _expect(kind == FIXED64, "a sum or a threshold is no double")
            (numbers[field],) = struct.unpack("<d", value)
        elif field in (_COUNT, _ZEROS, _SCHEMA):
            _expect(kind == VARINT, "a count or the schema is no integer")
            (number,) = varints(value)
            numbers[field] = _unzigzag(number & (2**32 - 1)) if field == _SCHEMA else number
        elif field in spans:
            _expect(kind == BYTES, "a span is no message")
            spans[field].append(_span(value))
        elif field in deltas:
            _expect(kind in (VARINT, BYTES), "a delta is no integer")
            deltas[field] += [_unzigzag(number) for number in varints(value)]
        elif field in _FLOATS:
            raise ValueError("data holds fractional counts, which are not read here")
    if _SCHEMA not in numbers or not any((*spans.values(), numbers[_ZEROS], numbers[_THRESHOLD])):
        raise ValueError("data is no native histogram: it has no schema or no spans; perhaps it is a classic one")
    native = NativeHistogram(
        int(numbers[_SCHEMA]), numbers[_THRESHOLD], int(numbers[_ZEROS]), numbers[_SUM],
        _filled(spans[_POSITIVE_SPAN]), tuple(deltas[_POSITIVE_DELTA]),
        _filled(spans[_NEGATIVE_SPAN]), tuple(deltas[_NEGATIVE_DELTA]),
    )  # fmt: skip
    # NaN is counted, but in no bucket.
    _expect(numbers[_COUNT] >= native.count, f"{numbers[_COUNT]} values in all, but {native.count} in buckets")
    return native


def _span(data: bytes) -> tuple[int, int]:
    gap = length = 0
    for field, kind, value in fields(data):
        if field in (_OFFSET, _LENGTH):
            _expect(kind == VARINT, "a span is not made of integers")
            (number,) = varints(value)
            if field == _OFFSET:
                gap = _unzigzag(number & (2**32 - 1))
            else:
                length = number & (2**32 - 1)
    return gap, length


def _filled(spans: list[tuple[int, int]]) -> Spans:
    return () if spans == [(0, 0)] else tuple(spans)


def _expect(fine: bool, wrong: str) -> None:
    if not fine:
        raise ValueError(f"data is damaged: {wrong}")


def _zigzag(value: int) -> int:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)
