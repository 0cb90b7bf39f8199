"""The protobuf message of the R package HistogramTools, so that both read the same bytes.

message HistogramState { repeated double breaks = 1; repeated int32 counts = 2; optional string name = 3; }

Three fields are written and read here by hand; wire.py tells how.
"""

from __future__ import annotations

import struct

import numpy as np

from tercile.quantiles.sketch.histograms.histogram import Closed, Histogram
from tercile.quantiles.sketch.histograms.wire import BYTES, FIXED64, VARINT, as_bytes, fields, tag, varint, varints

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
    parts = [tag(_BREAKS, FIXED64) + struct.pack("<d", value) for value in histogram.breaks]
    parts += [tag(_COUNTS, VARINT) + varint(int(value)) for value in counts]
    if histogram.name is not None:
        text = histogram.name.encode()
        parts.append(tag(_NAME, BYTES) + varint(len(text)) + text)
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
    breaks: list[float] = []
    counts: list[int] = []
    name: str | None = None
    for field, kind, value in fields(as_bytes(data)):
        if field == _BREAKS:
            if kind not in (FIXED64, BYTES) or len(value) % 8:
                raise ValueError("data is damaged: breaks are no doubles")
            breaks += struct.unpack(f"<{len(value) // 8}d", value)
        elif field == _COUNTS:
            if kind not in (VARINT, BYTES):
                raise ValueError("data is damaged: counts are no integers")
            counts += _int32s(value)
        elif field == _NAME:
            if kind != BYTES:
                raise ValueError("data is damaged: the name is no text")
            try:
                name = value.decode()
            except UnicodeDecodeError:
                raise ValueError("data is damaged: the name is not UTF-8") from None
    try:
        return Histogram(np.array(breaks), np.array(counts, dtype=np.int64), closed, name)
    except ValueError as error:
        raise ValueError(f"data is no histogram: {error}") from None


def _int32s(data: bytes) -> list[int]:
    """Of more than 32 bits the lower ones count, as protobuf reads them."""
    low = [value & (2**32 - 1) for value in varints(data)]
    return [value - 2**32 if value >= 2**31 else value for value in low]
