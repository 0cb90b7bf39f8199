"""The KLL sketch: quantiles of a stream of any length in a few kilobytes (Karnin, Lang and Liberty 2016).

How it works is told at the top of native/kll.cpp. Here: what goes in and out, and the file format.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native

_MAGIC = b"TKLL"
_VERSION = 1
_MOST_WEIGHT = 2**53
# Two-sided 99% for a sub-Gaussian error of variance 1: 2 exp(-x^2 / 2) = 0.01.
SUB_GAUSSIAN_99 = math.sqrt(2.0 * math.log(2.0 / 0.01))


class KLL:
    """A mergeable summary of numbers that answers quantiles and ranks with a stated error.

    Parameters
    ----------
    k : 8 to 65535, items kept at the top level. At k=200 a rank is off by under 2% of the count, in about 6
        kB; the error falls as 1/k.
    random_state : int, or None for a fresh seed. The same seed and the same calls give the same bytes.

    >>> import numpy as np
    >>> sketch = KLL(random_state=0)
    >>> sketch.update(np.arange(100_000))
    >>> sketch.count, abs(sketch.quantile(0.5) - 50_000) < sketch.error_bound * 100_000
    (100000, True)
    """

    __slots__ = ("_native",)

    def __init__(self, k: int = 200, *, random_state: int | None = None) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"k must be an integer, got {k!r}")
        if not 8 <= k <= 65535:
            raise ValueError(f"k must be 8 to 65535, got {k}")
        self._native = _native.Kll(int(k), _seed(random_state))

    @property
    def k(self) -> int:
        """The accuracy parameter it was made with."""
        return int(self._native.k)

    @property
    def count(self) -> int:
        """How many values (or how much weight) went in."""
        return int(self._native.count)

    @property
    def minimum(self) -> float:
        """The least value seen, exactly; NaN when empty."""
        return float(self._native.minimum)

    @property
    def maximum(self) -> float:
        """The largest value seen, exactly; NaN when empty."""
        return float(self._native.maximum)

    @property
    def error_bound(self) -> float:
        """How far a rank may be off, as a share of the count, with probability 99% for any one question.

        Not a formula in k but added up from the coins that this very sketch has tossed: 0 as long as nothing
        was thrown away. It holds for every stream and order that does not depend on the seed.
        """
        count = self.count
        return min(1.0, SUB_GAUSSIAN_99 * math.sqrt(self._native.variance) / count) if count else 0.0

    def update(self, values: ArrayLike, weights: ArrayLike | None = None) -> None:
        """Put values in.

        Parameters
        ----------
        values : numbers of any shape; float32 and float64 are read where they lie. Infinities are values
        like others. weights : positive integers of the same shape: as if the value came that many times.

        Raises
        ------
        ValueError, TypeError : NaN (named by its index), weights that are not positive integers; nothing was
            put in.

        Cost: reading the values once, in the long run.
        """
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"values must be numbers, got an array of {array.dtype}")
        if array.dtype not in (np.float32, np.float64) or weights is not None:
            array = array.astype(np.float64)
        flat = np.ascontiguousarray(array).reshape(-1)
        if weights is None:
            if self.count + flat.size > _MOST_WEIGHT:
                raise ValueError(f"values would take the count past {_MOST_WEIGHT}")
            nan = self._native.update(flat)
            if nan >= 0:
                raise ValueError(f"values must not hold NaN, got one at index {nan}; drop them first")
            return
        weight = np.asarray(weights)
        if weight.dtype.kind not in "iu":
            raise TypeError(f"weights must be integers, got an array of {weight.dtype}")
        if weight.shape != array.shape:
            raise ValueError(f"weights must have the shape of values {array.shape}, got {weight.shape}")
        if flat.size and weight.min() < 1:
            raise ValueError(f"weights must be positive, got {weight.min()}")
        if self.count + math.fsum(weight.reshape(-1).astype(np.float64)) > _MOST_WEIGHT:
            raise ValueError(f"weights must not take the count past {_MOST_WEIGHT}")
        if np.isnan(flat).any():
            raise ValueError(
                f"values must not hold NaN, got one at index {int(np.isnan(flat).argmax())}; drop them"
            )
        self._native.update_weighted(flat, np.ascontiguousarray(weight.reshape(-1), dtype=np.int64))

    def merge(self, other: KLL) -> KLL:
        """Put in all that another sketch of the same k has seen; returns self. The other is left as it was.

        Raises
        ------
        TypeError, ValueError : not a KLL, or of another k.
        """
        if not isinstance(other, KLL):
            raise TypeError(f"can only merge a KLL, got {type(other).__name__}")
        if other.k != self.k:
            raise ValueError(f"both sketches must have the same k, got {self.k} and {other.k}")
        if self.count + other.count > _MOST_WEIGHT:
            raise ValueError(f"merging would take the count past {_MOST_WEIGHT}")
        self._native.merge(other._native)
        return self

    def __or__(self, other: KLL) -> KLL:
        """A new sketch of what both have seen."""
        return self.copy().merge(other)

    def copy(self) -> KLL:
        """A sketch that goes on independently, in the same state of the random numbers."""
        return self._wrap(self._native.copy())

    def quantile(self, q: ArrayLike) -> Any:
        """The least value kept whose rank is at least q; 0 and 1 give the exact minimum and maximum.

        Parameters
        ----------
        q : number or array in [0, 1].

        Returns
        -------
        float, or array of the shape of q.

        Raises
        ------
        ValueError : q outside [0, 1], or the sketch is empty.
        """
        levels = np.asarray(q, dtype=np.float64)
        if not ((levels >= 0.0) & (levels <= 1.0)).all():
            raise ValueError(f"q must lie in [0, 1], got {q!r}")
        values, cumulative = self._view()
        index = np.minimum(np.searchsorted(cumulative, levels * cumulative[-1], side="left"), values.size - 1)
        found = np.where(levels <= 0.0, self.minimum, np.where(levels >= 1.0, self.maximum, values[index]))
        return float(found) if found.ndim == 0 else found

    def rank(self, x: ArrayLike) -> Any:
        """The share of values at or below x, in the shape of x; ValueError when empty or x is NaN."""
        points = np.asarray(x, dtype=np.float64)
        if np.isnan(points).any():
            raise ValueError("x must not be NaN")
        values, cumulative = self._view()
        padded = np.concatenate(([0.0], cumulative))
        share = padded[np.searchsorted(values, points, side="right")] / cumulative[-1]
        share = np.where(points < self.minimum, 0.0, np.where(points >= self.maximum, 1.0, share))
        return float(share) if share.ndim == 0 else share

    def cdf(self, points: ArrayLike) -> NDArray[np.float64]:
        """`rank` at each of the points, as an array."""
        return np.atleast_1d(np.asarray(self.rank(points), dtype=np.float64))

    def to_bytes(self) -> bytes:
        """The whole state, the random numbers included, with a version and a checksum."""
        body: bytes = self._native.save()
        return _MAGIC + struct.pack("<BI", _VERSION, zlib.crc32(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> KLL:
        """Read what `to_bytes` wrote, by this or an older version.

        Raises
        ------
        ValueError : not a sketch, a newer version, truncated or damaged.
        """
        data = bytes(data)
        if len(data) < 9 or data[:4] != _MAGIC:
            raise ValueError("data is no KLL sketch, or its start is cut off")
        version, checksum = struct.unpack_from("<BI", data, 4)
        if version != _VERSION:
            raise ValueError(f"data has format version {version}, not {_VERSION} or below; upgrade tercile")
        body = data[9:]
        if zlib.crc32(body) != checksum:
            raise ValueError("data is truncated or damaged: its checksum does not match")
        return cls._wrap(_native.Kll.load(body))

    def __reduce__(self) -> tuple[Any, ...]:
        return KLL.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"KLL(k={self.k}, count={self.count}, error_bound={self.error_bound:.4g})"

    @classmethod
    def _wrap(cls, native: Any) -> KLL:
        sketch = cls.__new__(cls)
        sketch._native = native
        return sketch

    def _view(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.count == 0:
            raise ValueError("the sketch is empty; update it first")
        values, cumulative = self._native.view()
        return np.asarray(values), np.asarray(cumulative)


def _seed(random_state: int | None) -> int:
    if random_state is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise TypeError(f"random_state must be an integer or None, got {random_state!r}")
    return int(random_state) % 2**64
