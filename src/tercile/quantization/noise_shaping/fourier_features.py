"""Random Fourier features: cosines whose inner products estimate a kernel of the difference of two points.

Rahimi and Recht (2007), "Random Features for Large-Scale Kernel Machines".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class FourierFeatures:
    """x -> cos(x frequencies + phases), all in [-1, 1].

    Attributes
    ----------
    frequencies, phases
        float32 (dimension, m) and (m,).
    """

    frequencies: np.ndarray
    phases: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """float32 (n, m) of points (n, dimension); 2 / m times their inner products estimate the kernel."""
        points = np.asarray(points, dtype=np.float32)
        if points.ndim != 2 or points.shape[1] != len(self.frequencies):
            raise ValueError(f"points must be (n, {len(self.frequencies)}), got {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("points hold NaN or infinity; drop them")
        features: np.ndarray = np.cos(points @ self.frequencies + self.phases)
        return features


def gaussian_features(dimension: int, count: int, bandwidth: float, rng: np.random.Generator) -> FourierFeatures:
    """Features for the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Examples
    --------
    >>> features = gaussian_features(3, 20_000, 1.0, np.random.default_rng(0))
    >>> near = features(np.float32([[0, 0, 0], [1, 0, 0]]))
    >>> bool(abs(2 * (near[0] * near[1]).mean() - np.exp(-0.5)) < 0.02)
    True
    """
    if dimension < 1 or count < 1:
        raise ValueError(f"dimension and count must be at least 1, got {dimension} and {count}")
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth must be above 0 and finite, got {bandwidth}")
    return FourierFeatures(
        (rng.normal(size=(dimension, count)) / bandwidth).astype(np.float32),
        rng.uniform(0, 2 * np.pi, size=count).astype(np.float32),
    )
