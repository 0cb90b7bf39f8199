"""Quantiles of every channel of a stream of rows: one KLL sketch a channel, in step with each other.

All channels see the same number of values, so their sketches have the same levels, the same sizes and the
same coins; a level is one (channels, items) matrix, and compacting is one sort along its rows. The scheme is
that of native/kll.cpp, with one shortcut: a level much longer than its capacity (a batch of rows has just
come in) is sorted once and every 2^j-th item goes j levels up, where plain KLL would sort j times. A rank is
then off by less than the weight 2^(h+j) of the items kept, with mean 0 over the random start: variance at
most a quarter of its square.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.sketch.columns_format import Matrix, State, pack, unpack
from tercile.quantiles.sketch.questions import as_confidence, as_seed, sub_gaussian

_SMALLEST = 8


class KLLColumns:
    """A KLL sketch for each column of a stream of (rows, channels) float32 arrays.

    Parameters
    ----------
    channels : how many columns.
    k : 8 to 65535, items kept at the top level of each channel. Memory: about `3 * k * channels` float32,
        which is 2.4 MB for 1,536 channels at k=128; ranks are then off by about 2% at most.
    random_state : int, or None for a fresh seed. The same seed and the same calls give the same arrays.

    From about `250 * k` rows on, rows are sampled: of each 2^s rows one, drawn uniformly under the seed and
    the same for all channels, stands for all. The error this brings is counted in `error_bound`. Minimum and
    maximum stay exact.

    >>> import numpy as np
    >>> sketch = KLLColumns(channels=3, random_state=0)
    >>> sketch.update(np.arange(30_000, dtype=np.float32).reshape(10_000, 3))
    >>> sketch.count, sketch.quantile([0.5]).shape, sketch.maximum.tolist()
    (10000, (1, 3), [29997.0, 29998.0, 29999.0])
    """

    def __init__(self, channels: int, k: int = 128, *, random_state: int | None = None) -> None:
        for name, value, least, most in (("channels", channels, 1, 2**31 - 1), ("k", k, 8, 65535)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}, got {value}")
        self.channels, self.k = int(channels), int(k)
        self.count = 0
        self.minimum = np.full(self.channels, np.nan, dtype=np.float32)
        self.maximum = np.full(self.channels, np.nan, dtype=np.float32)
        self._random = as_seed(random_state)
        self._variance = 0.0
        self._shift = 0
        self._pending = np.zeros(self.channels, dtype=np.float32)
        self._pending_weight = 0
        self._levels: list[Matrix] = [self._empty()]

    @property
    def error_bound(self) -> float:
        """How far a rank may be off, as a share of the count, with probability 99% for any one question."""
        return self._rank_error(0.99)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(level.nbytes for level in self._levels) + 3 * self.minimum.nbytes

    def update(self, rows: ArrayLike) -> None:
        """Put rows in.

        Parameters
        ----------
        rows : (n, channels) numbers, read as float32.

        Raises
        ------
        ValueError, TypeError : wrong shape, or NaN (the first is named); nothing was put in.

        Cost: a sort of the columns while the stream is short, then of the sampled rows only.
        """
        array = np.asarray(rows)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"rows must be numbers, got an array of {array.dtype}")
        if array.ndim != 2 or array.shape[1] != self.channels:
            raise ValueError(f"rows must have shape (n, {self.channels}), got {array.shape}")
        if array.shape[0] == 0:
            return
        array = array.astype(np.float32, copy=False)
        low, high = array.min(axis=0), array.max(axis=0)
        if np.isnan(low).any():
            row, channel = np.argwhere(np.isnan(array))[0]
            raise ValueError(f"rows must not hold NaN, got one at row {row}, channel {channel}; drop it")
        self._see(low, high, array.shape[0])
        self._absorb(array)

    def merge(self, other: KLLColumns) -> KLLColumns:
        """Put in all that another of the same channels and k has seen; returns self. The other is kept."""
        if not isinstance(other, KLLColumns):
            raise TypeError(f"can only merge a KLLColumns, got {type(other).__name__}")
        for name in ("channels", "k"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"both sketches must have the same {name}, got {ours} and {theirs}")
        if other.count == 0:
            return self
        levels, shift = list(other._levels), other._shift
        pending, weight = other._pending, other._pending_weight
        self._see(other.minimum, other.maximum, other.count)
        self._variance += other._variance
        while self._shift < shift:
            self._raise_shift()
        settled = self._shift
        for level in range(settled, len(levels)):
            self._push(level, levels[level])
        for level in range(shift, min(settled, len(levels))):
            for item in levels[level].T:
                self._sample(item, 1 << level)
        if weight:
            self._sample(pending, weight)
        self._compress()
        return self

    def __or__(self, other: KLLColumns) -> KLLColumns:
        """A new sketch of what both have seen."""
        return self.copy().merge(other)

    def copy(self) -> KLLColumns:
        """A sketch that goes on independently."""
        return self.from_arrays(self.to_arrays())

    def quantile(self, q: ArrayLike) -> NDArray[np.float32]:
        """Quantiles of every channel: (channels,) for a number, (len(q), channels) for an array of them.

        0 and 1 give the exact minimum and maximum. Raises ValueError for q outside [0, 1] or an empty sketch.
        """
        levels = np.asarray(q, dtype=np.float64)
        if levels.ndim > 1 or not ((levels >= 0.0) & (levels <= 1.0)).all():
            raise ValueError(f"q must be a number or a list of numbers in [0, 1], got {q!r}")
        values, cumulative = self._view()
        result = np.empty((levels.size, self.channels), dtype=np.float32)
        for i, level in enumerate(np.atleast_1d(levels)):
            index = np.minimum((cumulative < level * cumulative[:, -1:]).sum(axis=1), values.shape[1] - 1)
            result[i] = values[np.arange(self.channels), index]
            if level <= 0.0 or level >= 1.0:
                result[i] = self.minimum if level <= 0.0 else self.maximum
        return result[0] if levels.ndim == 0 else result

    def rank(self, x: ArrayLike) -> NDArray[np.float64]:
        """The share of each channel's values at or below x, a number or one for each channel: (channels,)."""
        points = np.broadcast_to(np.asarray(x, dtype=np.float32), (self.channels,))
        if np.isnan(points).any():
            raise ValueError("x must not be NaN")
        values, cumulative = self._view()
        below = (values <= points[:, None]).sum(axis=1)
        share = np.where(below > 0, cumulative[np.arange(self.channels), below - 1], 0.0) / cumulative[:, -1]
        exact: NDArray[np.float64] = np.where(points < self.minimum, 0.0, np.where(points >= self.maximum, 1.0, share))
        return exact

    def quantile_bounds(self, q: float, confidence: float = 0.99) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For each channel two values with its true q-quantile between them, at this confidence for any one."""
        error = self._rank_error(as_confidence(confidence))
        low = self.quantile(max(0.0, q - error))
        if error == 0.0:
            return low, low
        values, cumulative = self._view()
        index = (cumulative <= min(1.0, q + error) * cumulative[:, -1:]).sum(axis=1)
        past = np.arange(self.channels), np.minimum(index, values.shape[1] - 1)
        return low, np.where(index < values.shape[1], values[past], self.maximum)

    def rank_bounds(self, x: ArrayLike, confidence: float = 0.99) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each channel two shares with the true rank of x between them, at this confidence for any one."""
        share, error = self.rank(x), self._rank_error(as_confidence(confidence))
        points = np.asarray(x, dtype=np.float32)
        exact = (points < self.minimum) | (points >= self.maximum)
        low, high = np.maximum(share - error, 0.0), np.minimum(share + error, 1.0)
        return np.where(exact, share, low), np.where(exact, share, high)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """The same as `rank`, under the name that goes with `quantile`."""
        return self.rank(x)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The state as arrays that safetensors can store: "items", "ends" (float32), "meta" (int64)."""
        ends = np.stack([self.minimum, self.maximum, self._pending])
        weight, random = self._pending_weight, self._random
        state = State(self.k, self._shift, self.count, weight, random, self._variance, ends, self._levels)
        return state.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> KLLColumns:
        """Read what `to_arrays` gave. Raises ValueError for arrays that no sketch could have given."""
        state = State.from_arrays(arrays)
        sketch = cls(state.ends.shape[1], state.k, random_state=state.random)
        sketch.count, sketch._shift, sketch._levels = state.count, state.shift, state.levels
        sketch._pending_weight, sketch._variance = state.pending_weight, state.variance
        sketch.minimum, sketch.maximum, sketch._pending = (np.array(row) for row in state.ends)
        return sketch

    def to_bytes(self) -> bytes:
        """The whole state with a version and a checksum."""
        return pack(self.to_arrays())

    @classmethod
    def from_bytes(cls, data: bytes) -> KLLColumns:
        """Read what `to_bytes` wrote; ValueError if newer, truncated or damaged."""
        return cls.from_arrays(unpack(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return KLLColumns.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"KLLColumns(channels={self.channels}, k={self.k}, count={self.count})"

    def _rank_error(self, confidence: float) -> float:
        error = sub_gaussian(confidence) * math.sqrt(self._variance)
        return min(1.0, error / self.count) if self.count else 0.0

    def _empty(self) -> Matrix:
        return np.empty((self.channels, 0), dtype=np.float32)

    def _see(self, low: Matrix, high: Matrix, count: int) -> None:
        self.minimum = np.fmin(self.minimum, low)  # fmin: the NaN of an empty sketch gives way
        self.maximum = np.fmax(self.maximum, high)
        self.count += count

    def _draw(self, count: int) -> NDArray[np.uint64]:
        """The next `count` random numbers of SplitMix64."""
        steps = np.arange(1, count + 1, dtype=np.uint64)
        state = np.uint64(self._random)
        with np.errstate(over="ignore"):
            z = state + steps * np.uint64(0x9E3779B97F4A7C15)
            self._random = int(z[-1])
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed

    def _absorb(self, rows: Matrix) -> None:
        """Rows of weight 1: one of each 2^shift goes on to the bottom level."""
        block, n = 1 << self._shift, rows.shape[0]
        if block == 1:
            self._push(0, rows.T)
            self._compress()
            return
        first = 0
        if self._pending_weight:
            first = min(n, block - self._pending_weight)
            self._sample(rows[int(self._draw(1)[0] % np.uint64(first))], first)
        if 1 << self._shift != block:  # the full block made the sampler coarser
            self._absorb(rows[first:])
            return
        blocks = (n - first) // block
        if blocks:
            within = (self._draw(blocks) % np.uint64(block)).astype(np.int64)
            picks = first + block * np.arange(blocks) + within
            self._variance += blocks * 0.25 * block * block
            self._push(self._shift, rows[picks].T)
            first += blocks * block
        if first < n:
            left = n - first
            self._pending = rows[first + int(self._draw(1)[0] % np.uint64(left))].copy()
            self._pending_weight = left
        self._compress()

    def _sample(self, item: Matrix, weight: int) -> None:
        """One item of any weight through the sampler, split where a block ends."""
        while weight > 0:
            block = 1 << self._shift
            part = min(weight, block - self._pending_weight)
            self._pending_weight += part
            weight -= part
            if int(self._draw(1)[0]) % self._pending_weight < part:
                self._pending = np.array(item)
            if self._pending_weight == block:
                self._pending_weight = 0
                self._variance += 0.25 * block * block
                self._push(self._shift, self._pending[:, None])
                self._compress()

    def _push(self, level: int, items: Matrix) -> None:
        while len(self._levels) <= level:
            self._levels.append(self._empty())
        old = self._levels[level]
        joined = np.empty((self.channels, old.shape[1] + items.shape[1]), dtype=np.float32)
        joined[:, : old.shape[1]] = old
        # Incoming rows arrive transposed; in strips that fit the cache this costs half of one large copy.
        for first in range(0, items.shape[1], 64):
            strip = items[:, first : first + 64]
            joined[:, old.shape[1] + first : old.shape[1] + first + strip.shape[1]] = strip
        self._levels[level] = joined

    def _capacity(self, level: int) -> int:
        below = max(0, len(self._levels) - 1 - level)
        return max(_SMALLEST, math.ceil(self.k * (2.0 / 3.0) ** below))

    def _depth(self) -> int:
        return 2 + int(math.log(max(1.0, self.k / _SMALLEST)) / math.log(1.5))

    def _compress(self) -> None:
        level = self._shift
        while level < len(self._levels):
            size = self._levels[level].shape[1]
            if size > self._capacity(level):
                up = 1
                while size >> up > self._capacity(level + up):
                    up += 1
                self._compact(level, up)
            level += 1
        while len(self._levels) - self._shift > self._depth():
            self._raise_shift()

    def _compact(self, level: int, up: int) -> None:
        items = self._levels[level]
        stride = 1 << up
        whole = items.shape[1] // stride * stride
        if whole == 0:
            return
        self._levels[level] = items[:, whole:].copy()  # too few for a stride; their weight stays exact
        ordered = items[:, :whole]
        ordered.sort(axis=1)  # in place: no other sketch holds this matrix
        start = int(self._draw(1)[0] % np.uint64(stride))
        self._variance += 0.25 * float(1 << (level + up)) ** 2
        self._push(level + up, ordered[:, start::stride])

    def _raise_shift(self) -> None:
        if self._shift + 1 == len(self._levels):
            self._levels.append(self._empty())
        self._compact(self._shift, 1)
        left = self._levels[self._shift]
        self._levels[self._shift] = self._empty()
        self._shift += 1
        for item in left.T:
            self._sample(item, 1 << (self._shift - 1))

    def _view(self) -> tuple[Matrix, NDArray[np.float64]]:
        """(channels, items) values in order and the weight of all up to and including each."""
        if self.count == 0:
            raise ValueError("the sketch is empty; update it first")
        levels, weights = list(self._levels), [float(1 << h) for h in range(len(self._levels))]
        if self._pending_weight:
            levels.append(self._pending[:, None])
            weights.append(float(self._pending_weight))
        weight = np.repeat(weights, [level.shape[1] for level in levels])
        values = np.concatenate(levels, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        return np.take_along_axis(values, order, axis=1), np.cumsum(weight[order], axis=1)
