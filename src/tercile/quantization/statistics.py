"""Statistics: what calibration saw of the inputs of one layer.

Sums only, so that two of them add up to the Statistics of both streams together: calibration can be cut over batches,
processes and machines, stopped and resumed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.linalg import blas



class Statistics:
    """Count, mean, second moment, extremes and quantiles of the `channels` inputs of a layer.

    Parameters
    ----------
    channels
        Number of inputs.
    second_moment
        Keep X'X, which is channels x channels float32. Without it only its diagonal is kept.
    sketch
        Keep a quantile sketch a channel.

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
        self._products = np.zeros((channels, channels), dtype=np.float32, order="F") if second_moment else None
        self.minimum = np.full(channels, np.inf, dtype=np.float32)
        self.maximum = np.full(channels, -np.inf, dtype=np.float32)
        self.sketch = None
        if sketch:
            from tercile.quantiles.sketch import ChannelSketch

            self.sketch = ChannelSketch(channels)

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
            raise ValueError("x holds NaN or infinity: the model overflows on this input; drop it or use float32")
        self.count += len(x)
        self._sum += x.sum(axis=0, dtype=np.float64)
        self._squares += np.einsum("ij,ij->j", x, x, dtype=np.float64)
        np.minimum(self.minimum, x.min(axis=0), out=self.minimum)
        np.maximum(self.maximum, x.max(axis=0), out=self.maximum)
        if self._products is not None:
            # x.T is in Fortran order as it stands; syrk fills the upper triangle only.
            blas.ssyrk(1.0, x.T, beta=1.0, c=self._products, overwrite_c=True)
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
        upper = np.triu(self._products) / np.float32(max(self.count, 1))
        return upper + np.triu(upper, 1).T

    @property
    def maximum_magnitude(self) -> np.ndarray:
        """float32 (channels,): largest absolute input."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum)) if self.count else np.zeros_like(self.maximum)

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
        if self._products is not None:
            merged._products = np.asfortranarray(self._products + other._products)
        merged.minimum = np.minimum(self.minimum, other.minimum)
        merged.maximum = np.maximum(self.maximum, other.maximum)
        if self.sketch is not None:
            merged.sketch = self.sketch | other.sketch
        return merged

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for a safetensors file."""
        arrays = {
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
        channels = len(arrays["sum"])
        loaded = cls(channels, second_moment="products" in arrays)
        for key in ("sum", "squares", "minimum", "maximum"):
            if arrays[key].shape != (channels,):
                raise ValueError(f"{key} has shape {arrays[key].shape}, expected ({channels},); the file is damaged")
        loaded.count = int(arrays["count"][0])
        loaded._sum, loaded._squares = np.array(arrays["sum"]), np.array(arrays["squares"])
        loaded.minimum, loaded.maximum = np.array(arrays["minimum"]), np.array(arrays["maximum"])
        if "products" in arrays:
            if arrays["products"].shape != (channels, channels):
                raise ValueError(f"products have shape {arrays['products'].shape}; the file is damaged")
            loaded._products = np.asfortranarray(arrays["products"])
        if "sketch" in arrays:
            from tercile.quantiles.sketch import ChannelSketch

            loaded.sketch = ChannelSketch.from_bytes(arrays["sketch"].tobytes())
        return loaded
