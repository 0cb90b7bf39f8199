"""Cross moment: how what a layer reads in the quantized network goes with what it read in the original."""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas


class CrossMoment:
    """X~'X / n of the inputs X~ that a layer reads now and the inputs X that it read originally, row by row the same.

    With the second moment of X~, kept by `Statistics`, it is all that a solver needs to aim at the original's outputs
    from inputs that earlier layers have changed already. A sum, as Statistics are: two of them add up.

    Parameters
    ----------
    channels
        Number of inputs.

    Examples
    --------
    >>> import numpy as np
    >>> now, before = np.float32([[1.0, 2.0], [0.0, 1.0]]), np.float32([[1.0, 1.0], [2.0, 1.0]])
    >>> cross = CrossMoment(2)
    >>> cross.update(now, before)
    >>> cross.value.tolist()
    [[0.5, 0.5], [2.0, 1.5]]
    """

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.channels = channels
        self.count = 0
        self._products = np.zeros((channels, channels), dtype=np.float32, order="F")
        self._sum = np.zeros(channels, dtype=np.float64)

    def update(self, now: np.ndarray, original: np.ndarray) -> None:
        """Adds rows of both, each (n, channels), read as float32. Costs n * channels^2.

        Raises
        ------
        ValueError
            If a width or the numbers of rows differ, or an input is not finite; nothing is added then.
        """
        rows = []
        for name, given in (("now", now), ("original", original)):
            x = np.ascontiguousarray(given, dtype=np.float32)
            if x.ndim != 2 or x.shape[1] != self.channels:
                raise ValueError(f"{name} must be (n, {self.channels}), got {x.shape}")
            if not np.isfinite(x).all():
                raise ValueError(f"{name} holds NaN or infinity: the model overflows here; drop the input")
            rows.append(x)
        if len(rows[0]) != len(rows[1]):
            raise ValueError(f"now has {len(rows[0])} rows, original {len(rows[1])}; they must be of the same examples")
        self.count += len(rows[0])
        self._sum += rows[1].sum(axis=0, dtype=np.float64)
        # Both transposes are in Fortran order as they stand, so nothing is copied.
        self._products = blas.sgemm(
            1.0, rows[0].T, rows[1].T, beta=1.0, c=self._products, trans_b=True, overwrite_c=True
        )

    @property
    def value(self) -> np.ndarray:
        """X~'X / n, float32 (channels now, channels originally)."""
        return np.ascontiguousarray(self._products) / np.float32(max(self.count, 1))

    @property
    def original_mean(self) -> np.ndarray:
        """Mean of the inputs that were read originally, float64 (channels,); zeros when nothing was seen."""
        return self._sum / max(self.count, 1)

    def __or__(self, other: CrossMoment) -> CrossMoment:
        """The cross moment of both streams together."""
        if self.channels != other.channels:
            raise ValueError(f"one cross moment is of {self.channels} channels, the other of {other.channels}")
        merged = CrossMoment(self.channels)
        merged.count = self.count + other.count
        merged._sum = self._sum + other._sum
        merged._products = np.asfortranarray(self._products + other._products)
        return merged
