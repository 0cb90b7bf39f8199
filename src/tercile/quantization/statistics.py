"""Statistics: what calibration saw of the inputs of one layer.

Sums only, so that two of them add up to the Statistics of both streams together: calibration can be cut over
batches, processes and machines, stopped and resumed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.linalg import blas

from tercile.quantiles.sketch import KLLColumns
from tercile.quantization.hadamard import rotate

SEED = 0  # of the quantile sketches: the same data gives the same Statistics


class Statistics:
    """Count, mean, second moment, extremes and quantiles of the `channels` inputs of a layer.

    Parameters
    ----------
    channels
        Number of inputs.
    second_moment
        Keep X'X, which is channels x channels float32. Without it only its diagonal is kept.
    sketch
        Keep a quantile sketch a channel, see `KLLColumns`, in the attribute of that name.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    >>> whole, left, right = Statistics(3), Statistics(3), Statistics(3)
    >>> whole.update(x), left.update(x[:40]), right.update(x[40:])
    (None, None, None)
    >>> bool(np.allclose((left | right).second_moment, whole.second_moment, rtol=1e-5))
    True
    """

    def __init__(self, channels: int, *, second_moment: bool = True, sketch: bool = False) -> None:
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.channels = channels
        self.count = 0
        self._sum = np.zeros(channels, dtype=np.float64)
        self._squares = np.zeros(channels, dtype=np.float64)
        self._products: np.ndarray | None = None
        if second_moment:
            self._products = np.zeros((channels, channels), dtype=np.float32, order="F")
        self.minimum = np.full(channels, np.inf, dtype=np.float32)
        self.maximum = np.full(channels, -np.inf, dtype=np.float32)
        self.sketch = KLLColumns(channels, random_state=SEED) if sketch else None

    def update(self, x: np.ndarray) -> None:
        """Adds rows of inputs, (n, channels), read as float32.

        Raises
        ------
        ValueError
            If the width differs or an input is not finite; nothing is added then.
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.channels:
            raise ValueError(f"x must be (n, {self.channels}), got {x.shape}")
        if not len(x):
            return
        if not np.isfinite(x).all():
            raise ValueError(
                "x holds NaN or infinity: the model overflows here; drop the input or use float32"
            )
        self.count += len(x)
        self._sum += x.sum(axis=0, dtype=np.float64)
        self._squares += np.einsum("ij,ij->j", x, x, dtype=np.float64)
        np.minimum(self.minimum, x.min(axis=0), out=self.minimum)
        np.maximum(self.maximum, x.max(axis=0), out=self.maximum)
        if self._products is not None:
            # x.T is in Fortran order as it stands; syrk fills the upper triangle only.
            self._products = blas.ssyrk(1.0, x.T, beta=1.0, c=self._products, overwrite_c=True)
        if self.sketch is not None:
            self.sketch.update(x)

    @property
    def mean(self) -> np.ndarray:
        """float64 (channels,); zeros when nothing was seen."""
        return self._sum / max(self.count, 1)

    @property
    def mean_square(self) -> np.ndarray:
        """float64 (channels,): the diagonal of the second moment."""
        return self._squares / max(self.count, 1)

    @property
    def second_moment(self) -> np.ndarray:
        """X'X / n, float32 (channels, channels), symmetric.

        Raises
        ------
        ValueError
            If it was not asked for.
        """
        if self._products is None:
            raise ValueError("these Statistics keep no second moment; make them with second_moment=True")
        # Below the diagonal are zeros.
        whole = self._products + self._products.T
        np.fill_diagonal(whole, np.diagonal(self._products))
        whole /= np.float32(max(self.count, 1))
        return whole

    @property
    def maximum_magnitude(self) -> np.ndarray:
        """float32 (channels,): largest absolute input."""
        largest = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        return largest if self.count else np.zeros_like(largest)

    def __or__(self, other: Statistics) -> Statistics:
        """The Statistics of both streams together."""
        mine, theirs = (self.channels, self._products is None, self.sketch is None), (
            other.channels, other._products is None, other.sketch is None)  # fmt: skip
        if mine != theirs:
            raise ValueError("only Statistics of the same channels that keep the same things can be merged")
        merged = Statistics(self.channels, second_moment=self._products is not None, sketch=False)
        merged.count = self.count + other.count
        merged._sum = self._sum + other._sum
        merged._squares = self._squares + other._squares
        if self._products is not None and other._products is not None:
            merged._products = np.asfortranarray(self._products + other._products)
        merged.minimum = np.minimum(self.minimum, other.minimum)
        merged.maximum = np.maximum(self.maximum, other.maximum)
        if self.sketch is not None and other.sketch is not None:
            merged.sketch = self.sketch | other.sketch
        return merged

    def scaled(self, factors: np.ndarray) -> Statistics:
        """The Statistics that the same inputs would have, each channel times a positive factor (channels,).

        Raises
        ------
        ValueError
            If a factor is not positive.

        Examples
        --------
        >>> seen = Statistics(2)
        >>> seen.update(np.float32([[1.0, -3.0]]))
        >>> seen.scaled(np.array([2.0, 10.0])).second_moment.tolist()
        [[4.0, -60.0], [-60.0, 900.0]]
        """
        factors = np.asarray(factors, dtype=np.float64)
        if factors.shape != (self.channels,) or not (np.isfinite(factors).all() and (factors > 0).all()):
            raise ValueError(f"factors must be {self.channels} positive numbers, got shape {factors.shape}")
        scaled = Statistics(self.channels, second_moment=False)
        scaled.count = self.count
        scaled._sum, scaled._squares = self._sum * factors, self._squares * factors**2
        narrow = factors.astype(np.float32)
        scaled.minimum, scaled.maximum = self.minimum * narrow, self.maximum * narrow
        if self._products is not None:
            scaled._products = np.asfortranarray(self._products * narrow * narrow[:, None])
        if self.sketch is not None:
            # A positive factor keeps the order of a channel's values, which is all that a sketch goes by.
            kept = self.sketch.to_arrays()
            kept["items"], kept["ends"] = kept["items"] * narrow[:, None], kept["ends"] * narrow
            scaled.sketch = KLLColumns.from_arrays(kept)
        return scaled

    def rotated(self) -> Statistics:
        """The Statistics of the same inputs, rotated as `hadamard.rotate` does it.

        Extremes of rotated inputs can't be known from those of the inputs: they are bounds here.

        Raises
        ------
        ValueError
            If these keep no second moment, which the mean squares of rotated inputs follow from.

        Examples
        --------
        >>> seen, turned, x = Statistics(12), Statistics(12), np.eye(12, dtype=np.float32)[:3]
        >>> seen.update(x), turned.update(rotate(x))
        (None, None)
        >>> bool(np.allclose(seen.rotated().second_moment, turned.second_moment, atol=1e-6))
        True
        """
        turned = rotate(np.ascontiguousarray(rotate(self.second_moment).T))
        moved = Statistics(self.channels)
        moved.count = self.count
        moved._sum = rotate(self._sum[None] / max(self.count, 1))[0].astype(np.float64) * self.count
        moved._products = np.asfortranarray(np.triu(turned) * np.float32(self.count))
        moved._squares = np.diagonal(turned).astype(np.float64) * self.count
        if self.count:
            moved.maximum = np.abs(rotate(np.eye(self.channels))).T @ self.maximum_magnitude
            moved.minimum = -moved.maximum
        return moved

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for a safetensors file."""
        arrays: dict[str, np.ndarray] = {
            "count": np.array([self.count], dtype=np.int64),
            "sum": self._sum,
            "squares": self._squares,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        if self._products is not None:
            arrays["products"] = np.ascontiguousarray(np.triu(self._products))
        if self.sketch is not None:
            arrays["sketch"] = np.frombuffer(self.sketch.to_bytes(), dtype=np.uint8)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Statistics:
        """What `to_arrays` wrote.

        Raises
        ------
        ValueError
            If an array is missing or has the wrong shape.
        """
        missing = {"count", "sum", "squares", "minimum", "maximum"} - arrays.keys()
        if missing:
            raise ValueError(f"statistics lack {', '.join(sorted(missing))}; the file is damaged")
        channels = arrays["sum"].size
        loaded = cls(channels, second_moment="products" in arrays)
        for key, array in arrays.items():
            if key == "sketch":
                continue
            shape = {"count": (1,), "products": (channels, channels)}.get(key, (channels,))
            if array.shape != shape:
                raise ValueError(f"{key} has shape {array.shape}, not {shape}; the file is damaged")
        loaded.count = int(arrays["count"][0])
        loaded._sum = np.array(arrays["sum"], dtype=np.float64)
        loaded._squares = np.array(arrays["squares"], dtype=np.float64)
        loaded.minimum = np.array(arrays["minimum"], dtype=np.float32)
        loaded.maximum = np.array(arrays["maximum"], dtype=np.float32)
        if "products" in arrays:
            loaded._products = np.array(arrays["products"], dtype=np.float32, order="F")
        if "sketch" in arrays:
            loaded.sketch = KLLColumns.from_bytes(arrays["sketch"].tobytes())
            if loaded.sketch.channels != channels:
                raise ValueError(
                    f"sketch has {loaded.sketch.channels} channels, not {channels}; the file is damaged"
                )
        return loaded
