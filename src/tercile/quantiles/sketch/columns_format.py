"""How the state of a KLLColumns is stored: three arrays for safetensors, or bytes with a checksum.

- "meta" (int64): version, k, shift, count, weight of the sampler's pending row, random state, variance (its
  float64 bits), number of levels, then the size of each level;
- "ends" (3, channels) float32: minimum, maximum, the pending row;
- "items" (channels, items) float32: the levels side by side, lightest first.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercile.quantiles.sketch.envelope import open_envelope, seal

_MAGIC = b"TKLC"
_VERSION = 1
_MOST_LEVELS = 50
_BEFORE_SIZES = 8

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class State:
    """All that a sketch is made of."""

    k: int
    shift: int
    count: int
    pending_weight: int
    random: int
    variance: float
    ends: Matrix
    levels: list[Matrix]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The three arrays."""
        sizes = [level.shape[1] for level in self.levels]
        bits = struct.unpack("<Q", struct.pack("<d", self.variance))[0]
        head = [_VERSION, self.k, self.shift, self.count, self.pending_weight, self.random, bits, len(sizes)]
        meta = np.array(head + sizes, dtype=np.uint64).view(np.int64)
        return {"items": np.concatenate(self.levels, axis=1), "ends": self.ends, "meta": meta}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> State:
        """The state, once everything that later code relies on has been checked; else ValueError."""
        try:
            items, ends, meta = (arrays[name] for name in ("items", "ends", "meta"))
        except KeyError as error:
            raise ValueError(f"arrays must hold items, ends and meta; {error} is missing") from None
        if meta.ndim != 1 or meta.size < _BEFORE_SIZES or items.ndim != 2 or ends.shape != (3, len(items)):
            raise ValueError("arrays are damaged: the shapes of items, ends and meta do not fit")
        if items.dtype != np.float32 or ends.dtype != np.float32 or meta.dtype != np.int64:
            raise ValueError("arrays are damaged: items and ends must be float32, meta int64")
        numbers = [int(value) for value in meta.view(np.uint64)]
        version, k, shift, count, weight, random, bits, levels = numbers[:_BEFORE_SIZES]
        if version != _VERSION:
            raise ValueError(f"arrays have version {version}, not {_VERSION} or below; upgrade tercile")
        sizes = numbers[_BEFORE_SIZES:]
        fits = 1 <= levels <= _MOST_LEVELS and len(sizes) == levels and shift < levels and 8 <= k <= 65535
        fits = fits and sum(sizes) == items.shape[1] and not any(sizes[:shift]) and weight < 1 << shift
        if not fits or sum(size << level for level, size in enumerate(sizes)) + weight != count:
            raise ValueError("arrays are damaged: the sizes in meta do not fit")
        variance = struct.unpack("<d", struct.pack("<Q", bits))[0]
        kept = np.concatenate([items, ends[2][:, None]], axis=1) if weight else items
        within = (kept >= ends[0][:, None]) & (kept <= ends[1][:, None])
        if not within.all() or not (math.isfinite(variance) and variance >= 0.0):
            raise ValueError("arrays are damaged: values outside their own minimum and maximum")
        cut = [np.array(items[:, a:b]) for a, b in pairwise(np.cumsum([0, *sizes]))]
        return cls(k, shift, count, weight, random, variance, ends, cut)


def pack(arrays: dict[str, NDArray[Any]]) -> bytes:
    """The arrays as bytes, with a version and a checksum."""
    head = struct.pack("<QQ", arrays["ends"].shape[1], arrays["meta"].size)
    body = head + b"".join(arrays[name].tobytes() for name in ("meta", "ends", "items"))
    return seal(_MAGIC, _VERSION, body)


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays that `pack` was given; ValueError if newer, truncated, damaged or something else."""
    body = open_envelope(_MAGIC, _VERSION, "KLLColumns", data)
    if len(body) < 16:
        raise ValueError("data is damaged: its sizes do not fit")
    channels, length = struct.unpack_from("<QQ", body)
    start = 16 + 8 * length
    floats = (len(body) - start) // 4
    if channels < 1 or floats < 3 * channels or start + 4 * floats != len(body) or floats % channels:
        raise ValueError("data is damaged: its sizes do not fit")
    values = np.frombuffer(body, np.float32, floats, start)
    return {
        "meta": np.frombuffer(body, np.int64, length, 16),
        "ends": values[: 3 * channels].reshape(3, channels),
        "items": values[3 * channels :].reshape(channels, floats // channels - 3),
    }
