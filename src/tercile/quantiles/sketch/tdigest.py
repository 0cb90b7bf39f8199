"""The t-digest (Dunning and Ertl 2019), with the span of every centroid, so that its answers have bounds.

How it works is told at the top of native/tdigest.cpp. It is here to read, merge and write digests of others; for a
stated rank error take `KLL`, for a stated error of the value `DDSketch`.
"""

from __future__ import annotations

import struct
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native
from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.any_sketch import RealSketch
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.incoming import MOST_COUNT
from tercile.quantiles.sketch.questions import Floats

_KIND, _VERSION = b"TTDG", 1
_MEAN, _WEIGHT, _LOW, _HIGH = range(4)
_FAMILY, _EMPTY, _SINGLE = 20, 1, 2


class TDigest(RealSketch):
    """A mergeable summary by centroids, finest at both ends.

    Parameters
    ----------
    compression : 10 to 65535; up to about twice as many centroids are kept. At 200 the median of smooth data is off by
        some 0.1% of the count, the 0.9999-quantile by some 0.001%.

    An estimate interpolates between centroids; nothing can be promised for it, as data may lie anyhow between them.
    The bounds (`quantile_bounds`, `rank_bounds`, `error_bound`) hold always: they come from the least and largest value
    in each centroid.

    >>> import numpy as np
    >>> digest = TDigest()
    >>> digest.update(np.arange(100_000))
    >>> abs(digest.quantile(0.999) - 99_900) < 20
    True
    >>> low, high = digest.rank_bounds(50_000)
    >>> bool(low <= 0.50001 <= high)
    True
    """

    _same = ("compression",)
    __slots__ = ("_native",)

    def __init__(self, compression: float = 200) -> None:
        if isinstance(compression, bool) or not isinstance(compression, (int, float, np.integer, np.floating)):
            raise TypeError(f"compression must be a number, got {compression!r}")
        if not 10 <= compression <= 65535:
            raise ValueError(f"compression must be 10 to 65535, got {compression}")
        self._native = _native.TDigest(float(compression))

    @property
    def compression(self) -> float:
        """The accuracy parameter it was made with."""
        return float(self._native.compression)

    @property
    def count(self) -> float:
        """How much weight went in: the number of values where no weights were given."""
        return float(self._native.total)

    @property
    def minimum(self) -> float:
        """The least value seen, exactly; NaN when empty."""
        return float(self._rows()[:, _LOW].min()) if self.count else float("nan")

    @property
    def maximum(self) -> float:
        """The largest value seen, exactly; NaN when empty."""
        return float(self._rows()[:, _HIGH].max()) if self.count else float("nan")

    @property
    def centroids(self) -> tuple[Floats, Floats]:
        """Means in ascending order, and weights."""
        rows = self._rows()
        return rows[:, _MEAN].copy(), rows[:, _WEIGHT].copy()

    @property
    def error_bound(self) -> float:
        """How far a rank may be off at most, as a share of the count: the width of the widest `rank_bounds`."""
        if self.count == 0.0:
            return 0.0
        rows = self._rows()
        # Uncertain at x is what starts at or below x and ends above it: most at one of the starts.
        points = rows[:, _LOW]
        low, high = self.rank_bounds(points)
        return float((high - low).max())

    def _feed(self, values: Floats, weights: Floats | None) -> None:
        self._native.update(values, weights)

    def _merge(self, other: Self) -> None:
        self._native.merge(other._native)

    def copy(self) -> Self:
        """A digest that goes on independently."""
        return self._wrap(self._native.copy())

    def quantile(self, q: ArrayLike) -> Any:
        """An estimate of the q-quantile: between the centroids on both sides, by where their middles are.

        Parameters
        ----------
        q : number or array in [0, 1]; 0 and 1 give the exact minimum and maximum.

        Returns
        -------
        float, or array of the shape of q.

        Raises
        ------
        ValueError : q outside [0, 1], or the digest is empty.
        """
        levels = questions.as_levels(q)
        weight, value = self._knots()
        target = levels * weight[-1]
        at = np.clip(np.searchsorted(weight, target, side="left"), 1, weight.size - 1)
        found = _between(target, weight[at - 1], weight[at], value[at - 1], value[at])
        found = np.clip(found, *self._quantile_bounds(levels))
        return questions.as_answer(found)

    def rank(self, x: ArrayLike) -> Any:
        """An estimate of the share of weight at or below x, in the shape of x; ValueError when x is NaN."""
        points = questions.as_points(x)
        weight, value = self._knots()
        at = np.clip(np.searchsorted(value, points, side="right"), 1, value.size - 1)
        found = _between(points, value[at - 1], value[at], weight[at - 1], weight[at]) / weight[-1]
        return questions.as_answer(np.clip(found, *self._rank_bounds(points)))

    def to_bytes(self) -> bytes:
        """The whole state with a version and a checksum: 32 bytes a centroid."""
        body = struct.pack("<d", self.compression) + self._rows().astype("<f8").tobytes()
        return seal(_KIND, _VERSION, body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError : another sketch or none at all, a newer version, truncated or damaged.
        """
        body = open_envelope(_KIND, _VERSION, "TDigest", data)
        if len(body) % 32 != 8:
            raise ValueError("the bytes of the sketch are damaged: no whole number of centroids")
        (compression,) = struct.unpack_from("<d", body)
        return cls._of(compression, np.frombuffer(body, "<f8", offset=8).reshape(-1, 4))

    def to_datasketches(self) -> bytes:
        """Bytes that `tdigest_double` of Apache DataSketches reads; it has no spans, and whole weights only.

        Raises
        ------
        ValueError : a weight or the compression is not whole.
        """
        rows, k = self._rows(), int(self.compression)
        if k != self.compression or (rows[:, _WEIGHT] % 1.0 != 0.0).any():
            raise ValueError("DataSketches knows whole weights and a whole compression only")
        if not rows.size:
            return struct.pack("<BBBHBH", 1, 1, _FAMILY, k, _EMPTY, 0)
        if self.count == 1.0:
            return struct.pack("<BBBHBHd", 1, 1, _FAMILY, k, _SINGLE, 0, rows[0, _MEAN])
        head = struct.pack("<BBBHBHII", 2, 1, _FAMILY, k, 0, 0, len(rows), 0)
        centroids = np.empty(len(rows), dtype=[("mean", "<f8"), ("weight", "<u8")])
        centroids["mean"], centroids["weight"] = rows[:, _MEAN], rows[:, _WEIGHT]
        return head + struct.pack("<dd", self.minimum, self.maximum) + centroids.tobytes()

    @classmethod
    def from_datasketches(cls, data: bytes) -> Self:
        """A digest from the bytes of a `tdigest_double` of Apache DataSketches.

        Where a centroid of theirs came from is not told, so the bounds of the digest are wide: from its minimum to its
        maximum, but for centroids of weight 1.

        Raises
        ------
        ValueError : no such digest, truncated or damaged.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, got {type(data).__name__}")
        data = bytes(data)
        if len(data) < 8 or data[1:3] != bytes((1, _FAMILY)):
            raise ValueError("data is no tdigest_double of DataSketches, or its start is cut off")
        _, _, _, k, flags, _ = struct.unpack_from("<BBBHBH", data)
        if flags & (_EMPTY | _SINGLE):
            if len(data) != (8 if flags & _EMPTY else 16):
                raise ValueError("data is truncated or damaged: its length does not fit")
            mean = np.frombuffer(data, "<f8", offset=8)
            return cls._of(float(k), np.stack([mean, np.ones_like(mean), mean, mean], axis=1))
        if len(data) < 32:
            raise ValueError("data is truncated")
        size, buffered, low, high = struct.unpack_from("<IIdd", data, 8)
        if len(data) != 32 + 16 * size + 8 * buffered:
            raise ValueError("data is truncated or damaged: its length does not fit its centroids")
        centroids = np.frombuffer(data, [("mean", "<f8"), ("weight", "<u8")], size, 32)
        waiting = np.frombuffer(data, "<f8", buffered, 32 + 16 * size)
        mean, weight = centroids["mean"], centroids["weight"].astype(np.float64)
        single = weight == 1.0
        rows = np.stack([mean, weight, np.where(single, mean, low), np.where(single, mean, high)], axis=1)
        digest = cls._of(float(k), rows)
        digest.update(waiting)
        return digest

    def __repr__(self) -> str:
        return f"TDigest(compression={self.compression:g}, count={self.count:g})"

    @classmethod
    def _wrap(cls, native: Any) -> Self:
        digest = cls.__new__(cls)
        digest._native = native
        return digest

    @classmethod
    def _of(cls, compression: float, rows: NDArray[Any]) -> Self:
        """A digest of these centroids, once everything that later code relies on has been checked."""
        if not 10 <= compression <= 65535:
            raise ValueError("data is damaged: the compression is out of range")
        mean, weight, low, high = rows.T
        inside = (low <= mean) & (mean <= high) & (weight > 0.0) & (weight <= MOST_COUNT)
        if not inside.all() or (np.diff(mean) < 0.0).any() or weight.sum() > MOST_COUNT:
            raise ValueError("data is damaged: its centroids are out of order or outside their spans")
        digest = cls(compression)
        digest._native.put(np.ascontiguousarray(rows, dtype=np.float64))
        return digest

    def _rows(self) -> Floats:
        rows: Floats = np.asarray(self._native.rows()).reshape(-1, 4)
        return rows

    def _filled(self) -> Floats:
        if self.count == 0.0:
            raise ValueError("the sketch is empty; update it first")
        return self._rows()

    def _knots(self) -> tuple[Floats, Floats]:
        """Weights and values that estimates lie between, both ascending.

        A centroid of one value is a step: from the first weight above what comes before it to its last. Of others
        half lies below the mean.
        """
        rows = self._filled()
        end = np.cumsum(rows[:, _WEIGHT])
        start = np.concatenate(([0.0], end[:-1]))
        step = rows[:, _LOW] == rows[:, _HIGH]
        middle = start + rows[:, _WEIGHT] / 2.0
        first = np.where(step, np.nextafter(start, np.inf), middle)
        last = np.where(step, end, middle)
        weight = np.stack([first, last], axis=1).reshape(-1)
        value = np.repeat(rows[:, _MEAN], 2)
        low, high = rows[:, _LOW].min(), rows[:, _HIGH].max()
        return np.concatenate(([0.0], weight, [end[-1]])), np.concatenate(([low], value, [high]))

    def _quantile_bounds(self, levels: Floats) -> tuple[Floats, Floats]:
        return questions.least_reaching(levels, *self._side(_LOW)), questions.least_reaching(levels, *self._side(_HIGH))

    def _rank_bounds(self, points: Floats) -> tuple[Floats, Floats]:
        low = questions.share_at_or_below(points, *self._side(_HIGH))
        return low, questions.share_at_or_below(points, *self._side(_LOW))

    def _side(self, side: int) -> tuple[Floats, Floats]:
        """One end of every span in order, and the weight of all spans up to and including each."""
        rows = self._filled()
        order = np.argsort(rows[:, side], kind="stable")
        return rows[order, side], np.cumsum(rows[order, _WEIGHT])


def _between(x: Floats, x0: Floats, x1: Floats, y0: Floats, y1: Floats) -> Floats:
    """Linear from (x0, y0) to (x1, y1); where an end is infinite or both are one, the nearer end."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        part = np.where(x1 > x0, (x - x0) / (x1 - x0), np.where(x >= x1, 1.0, 0.0))
        part = np.clip(np.where(np.isnan(part), 0.0, part), 0.0, 1.0)
        inner: Floats = y0 * (1.0 - part) + y1 * part
    found: Floats = np.where(part <= 0.0, y0, np.where(part >= 1.0, y1, np.where(np.isfinite(inner), inner, y0)))
    return found
