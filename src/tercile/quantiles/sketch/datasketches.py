"""The byte format of the KLL sketches of Apache DataSketches, little-endian, as its C++ library writes it.

byte 0      preamble in ints: 2 when empty or of a single value, else 5
byte 1      version: 2 for a single value, else 1
byte 2      15, the family
byte 3      flags: 1 empty, 2 lowest level sorted, 4 single value
bytes 4-5   k        byte 6   8, the least capacity of a level        byte 7   0
when neither empty nor single:
bytes 8-15  count    bytes 16-17   least k merged in     byte 18   number of levels     byte 19   0
4 bytes a level: where its items start in an array as long as all capacities together, filled to its end
minimum, maximum, then the items, lightest level first (a single value is just that value)
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercile import _native
from tercile.quantiles.sketch.questions import sub_gaussian

_FAMILY, _LEAST_CAPACITY = 15, 8
_EMPTY, _SORTED, _SINGLE = 1, 2, 4
_MOST_LEVELS = 60


def write_kll(native: Any, dtype: Literal["float64", "float32"]) -> bytes:
    """The bytes of a native KLL of doubles; ValueError when a value does not fit into dtype."""
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype must be 'float64' or 'float32', got {dtype!r}")
    if native.count == 0:
        return struct.pack("<BBBBHBB", 2, 1, _FAMILY, _EMPTY, native.k, _LEAST_CAPACITY, 0)
    ends = _narrow(np.array([native.minimum, native.maximum]), dtype)
    if native.count == 1:
        head = struct.pack("<BBBBHBB", 2, 2, _FAMILY, _SINGLE, native.k, _LEAST_CAPACITY, 0)
        return head + ends[:1].tobytes()
    levels = _levels(native)
    capacity = _capacity(native.k, len(levels))
    if sum(map(len, levels)) > capacity:  # an older file of ours may hold more than theirs may
        native = native.copy()
        while sum(map(len, levels)) > capacity:
            native.shrink(native.items - 1)
            levels = _levels(native)
            capacity = _capacity(native.k, len(levels))
    starts = capacity - np.cumsum([len(level) for level in levels[::-1]])[::-1]
    # The lowest level in use is in no order, so it is sorted here for those who rely on the flag.
    items = [np.sort(_narrow(level, dtype)) for level in levels]
    head = struct.pack("<BBBBHBB", 5, 1, _FAMILY, _SORTED, native.k, _LEAST_CAPACITY, 0)
    head += struct.pack("<QHBB", native.count, native.k, len(levels), 0)
    return head + starts.astype("<u4").tobytes() + ends.tobytes() + b"".join(item.tobytes() for item in items)


def read_kll(data: bytes, seed: int) -> Any:
    """A native KLL of doubles from such bytes; ValueError when they are none, truncated or damaged."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    data = bytes(data)
    if len(data) < 8 or data[2] != _FAMILY:
        raise ValueError("data is no KLL sketch of DataSketches, or its start is cut off")
    ints, version, _, flags, k, least, _ = struct.unpack_from("<BBBBHBB", data)
    if (ints, version) not in ((2, 1), (2, 2), (5, 1)) or least != _LEAST_CAPACITY or k < 8:
        raise ValueError(
            f"data must be of version 1 or 2 with levels of {_LEAST_CAPACITY} or more and k of 8 or more, "
            f"got version {version}, {least} and {k}"
        )
    if flags & _EMPTY:
        if len(data) != 8:
            raise ValueError("data is damaged: an empty sketch is followed by something")
        return _native.Kll(k, seed)
    if flags & _SINGLE:
        items = _items(data, 8, 1)
        return _native.Kll.from_levels(k, seed, 0.0, items[0], items[0], [items])
    if len(data) < 20:
        raise ValueError("data is truncated")
    count, _, levels, _ = struct.unpack_from("<QHBB", data, 8)
    if not 1 <= levels <= _MOST_LEVELS or len(data) < 20 + 4 * levels:
        raise ValueError("data is truncated or damaged: its levels do not fit")
    starts = np.append(np.frombuffer(data, "<u4", levels, 20).astype(np.int64), _capacity(k, levels))
    sizes = np.diff(starts)
    if starts[0] < 0 or (sizes < 0).any():
        raise ValueError("data is damaged: its levels overlap")
    if sum(int(size) << level for level, size in enumerate(sizes)) != count:
        raise ValueError("data is damaged: its items do not add up to its count")
    values = _items(data, 20 + 4 * levels, 2 + int(sizes.sum()))
    cut = np.split(values[2:], np.cumsum(sizes)[:-1])
    # 99% of its ranks are within this share of the count, says DataSketches; nothing is lost at a single level.
    error = 2.296 / k**0.9021 * count / sub_gaussian(0.99) if levels > 1 else 0.0
    return _native.Kll.from_levels(k, seed, error**2, values[0], values[1], cut)


def _levels(native: Any) -> list[NDArray[np.float64]]:
    """Items by weight 1, 2, 4, ...; what waits in the sampler is broken up into its binary digits."""
    levels = [np.array(level) for level in native.levels()]
    for level in range(len(levels)):
        if native.pending_weight >> level & 1:
            levels[level] = np.append(levels[level], native.pending)
    while len(levels) > 1 and levels[-1].size == 0:
        levels.pop()
    return levels


def _narrow(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = values.astype(f"<{np.dtype(dtype).str[1:]}")
    if (np.isinf(narrow) & np.isfinite(values)).any():
        raise ValueError("a value does not fit into float32; write dtype='float64'")
    return narrow


def _items(data: bytes, start: int, count: int) -> NDArray[np.float64]:
    """The rest of the data as that many numbers: their width follows from its length."""
    width = (len(data) - start) / count
    if width not in (4, 8):
        raise ValueError("data is truncated or damaged: its length does not fit its items")
    items = np.frombuffer(data, "<f8" if width == 8 else "<f4", count, start).astype(np.float64)
    if np.isnan(items).any():
        raise ValueError("data is damaged: a value is NaN")
    return items


def _capacity(k: int, levels: int) -> int:
    """How many items all levels hold together: k (2/3)^depth, rounded, and 8 at least."""
    total = 0
    for depth in range(levels):
        exact = math.floor(k * Fraction(2, 3) ** depth + Fraction(1, 2))
        total += max(_LEAST_CAPACITY, exact)
    return total
