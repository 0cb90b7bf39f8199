"""Strings for a sketch: as Arrow lays them out, or with the key that they are ordered by in front."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercile.quantiles.sketch.incoming import NanPolicy, check_policy

Key = Callable[[str], str | int | float]
Layout = tuple[NDArray[np.uint8], NDArray[np.int64]]
_END = b"\0\0"


def as_list(values: Any, nan_policy: NanPolicy) -> tuple[list[str], NDArray[np.bool_]]:
    """Any array of strings as a list of str, nulls refused or left out, and which of them were kept."""
    check_policy(nan_policy)
    if isinstance(values, str):
        raise TypeError("values must be a list or an array of strings, got a single string; put it in a list")
    if hasattr(values, "to_pylist"):
        listed = values.to_pylist()
    elif hasattr(values, "to_list"):
        listed = values.to_list()
    else:
        listed = np.asarray(values, dtype=object).reshape(-1).tolist()
    kept = np.array([value is not None for value in listed], dtype=np.bool_)
    if not kept.all():
        if nan_policy == "raise":
            at = listed.index(None)
            raise ValueError(f"values must not hold nulls, got one at index {at}; drop them, or say nan_policy='omit'")
        listed = [value for value in listed if value is not None]
    for at, value in enumerate(listed):
        if not isinstance(value, str):
            raise TypeError(f"values must be strings, got {type(value).__name__} at index {at}")
    return listed, kept


def arrow_layout(values: Any) -> list[Layout] | None:
    """The bytes and offsets of a pyarrow string array without nulls, where they lie; None for all else."""
    if type(values).__module__.partition(".")[0] != "pyarrow" or values.null_count:
        return None
    layouts = []
    for chunk in values.chunks if hasattr(values, "chunks") else [values]:
        kind = str(chunk.type)
        if kind not in ("string", "large_string"):
            return None
        _, offsets, data = chunk.buffers()
        stop = chunk.offset + len(chunk) + 1
        if offsets is None or len(chunk) == 0:
            continue
        where = np.frombuffer(offsets, np.int32 if kind == "string" else np.int64, stop)[chunk.offset :]
        content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
        layouts.append((content, np.ascontiguousarray(where, dtype=np.int64)))
    return layouts


def layout(items: Sequence[bytes]) -> Layout:
    """Bytes and offsets of a list."""
    offsets = np.zeros(len(items) + 1, dtype=np.int64)
    np.cumsum([len(item) for item in items], out=offsets[1:])
    return np.frombuffer(b"".join(items), np.uint8), offsets


def encode(value: str, key: Key | None) -> bytes:
    """Bytes that sort as (key(value), value) does; UTF-8 by itself sorts as str does.

    >>> sorted(["b", "A", "a"], key=lambda v: encode(v, str.lower))
    ['A', 'a', 'b']
    """
    try:
        plain = value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"values must be valid Unicode, got {value!r}") from error
    if key is None:
        return plain
    made = key(value)
    if isinstance(made, str):
        return b"s" + made.encode().replace(b"\0", b"\0\1") + _END + plain
    if isinstance(made, (int, np.integer)) and not isinstance(made, bool):
        if not -(2**63) <= made < 2**63:
            raise ValueError(f"key must give integers of 64 bits, got {made} for {value!r}")
        return b"i" + struct.pack(">Q", int(made) + 2**63) + plain
    if isinstance(made, (float, np.floating)):
        if made != made:
            raise ValueError(f"key must not give NaN, got it for {value!r}")
        bits = struct.unpack(">Q", struct.pack(">d", made))[0]
        return b"f" + struct.pack(">Q", bits ^ (2**64 - 1 if bits >> 63 else 2**63)) + plain
    raise TypeError(f"key must give a str, an int or a float, got {type(made).__name__} for {value!r}")


def decode(item: bytes, keyed: bool) -> str:
    """The string that `encode` was given; ValueError for bytes that it never gives."""
    if keyed:
        if item[:1] == b"s":
            item = item.partition(_END)[2]
        elif item[:1] in (b"i", b"f") and len(item) >= 9:
            item = item[9:]
        else:
            raise ValueError("the bytes of the sketch are damaged: a string without its key")
    return item.decode()
