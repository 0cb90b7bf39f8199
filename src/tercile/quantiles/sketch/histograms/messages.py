"""The protobuf message of the R package HistogramTools, so that both read the same bytes.

message HistogramState { repeated double breaks = 1; repeated int32 counts = 2; optional string name = 3; }

Three fields are written and read here by hand, in the wire format of protobuf: each field is a number whose last three
bits say how it is stored, and what is stored follows. proto2 writes repeated numbers one by one; a reader must take
them packed together as well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tercile.quantiles.sketch.histograms.histogram import Closed, Histogram

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BREAKS, _COUNTS, _NAME = 1, 2, 3
_MOST_COUNT = 2**31 - 1


def to_message(histogram: Histogram) -> bytes:
    """The histogram as the bytes of a `HistogramTools.HistogramState`.

    Raises
    ------
    ValueError : a count that is no whole number below 2^31, which is what the message holds.

    Examples
    --------
    >>> to_message(Histogram([0.0, 1.0], [300], name="x")).hex()
    '09000000000000000009000000000000f03f10ac021a0178'
    """
    counts = histogram.counts
    wrong = (counts != np.floor(counts)) | (counts > _MOST_COUNT)
    if wrong.any():
        raise ValueError(f"counts must be whole numbers of at most 2**31 - 1 in the message, got {counts[wrong][0]}")
    parts = [_tag(_BREAKS, _FIXED64) + struct.pack("<d", value) for value in histogram.breaks]
    parts += [_tag(_COUNTS, _VARINT) + _varint(int(value)) for value in counts]
    if histogram.name is not None:
        text = histogram.name.encode()
        parts.append(_tag(_NAME, _BYTES) + _varint(len(text)) + text)
    return b"".join(parts)


def from_message(data: bytes, *, closed: Closed = "right") -> Histogram:
    """A histogram from the bytes of a `HistogramTools.HistogramState`.

    Parameters
    ----------
    data : bytes. closed : which end of a bin belongs to it; the message does not say, R's default is "right".

    Raises
    ------
    ValueError : truncated, no such message, or not a histogram.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    breaks: list[float] = []
    counts: list[int] = []
    name: str | None = None
    for field, kind, value in _fields(bytes(data)):
        if field == _BREAKS:
            if kind not in (_FIXED64, _BYTES) or len(value) % 8:
                raise ValueError("data is damaged: breaks are no doubles")
            breaks += struct.unpack(f"<{len(value) // 8}d", value)
        elif field == _COUNTS:
            if kind not in (_VARINT, _BYTES):
                raise ValueError("data is damaged: counts are no integers")
            counts += _int32s(value)
        elif field == _NAME:
            if kind != _BYTES:
                raise ValueError("data is damaged: the name is no text")
            try:
                name = value.decode()
            except UnicodeDecodeError:
                raise ValueError("data is damaged: the name is not UTF-8") from None
    try:
        return Histogram(np.array(breaks), np.array(counts, dtype=np.int64), closed, name)
    except ValueError as error:
        raise ValueError(f"data is no histogram: {error}") from None


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("data is truncated")
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            if value >= 2**64:
                break
            return value, at + i + 1
    raise ValueError("data is damaged: a number of more than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(field, how it is stored, its bytes), fields that nobody knows among them."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            end = _read_varint(data, at)[1]
        elif kind == _BYTES:
            size, at = _read_varint(data, at)
            end = at + size
        elif kind in (_FIXED64, _FIXED32):
            end = at + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"data is damaged: field {field} is stored in a way that does not exist")
        if field == 0 or field >= 2**29:
            raise ValueError(f"data is damaged: there is no field {field}")
        if end > len(data):
            raise ValueError("data is truncated")
        yield field, kind, data[at:end]
        at = end


def _int32s(data: bytes) -> list[int]:
    """The integers in a stretch of varints; of more than 32 bits the lower ones count, as protobuf reads them."""
    found, at = [], 0
    while at < len(data):
        value, at = _read_varint(data, at)
        value &= 2**32 - 1
        found.append(value - 2**32 if value >= 2**31 else value)
    return found
