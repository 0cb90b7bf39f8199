"""Expected error of quantizing and of pruning values of a known distribution, as signal to noise in decibels.

Kuzmin, Nagel, van Baalen, Behboodi and Blankevoort (2023), "Pruning vs Quantization: Which is Better?",
arXiv:2307.02973, compare the two at the same size: b bits a value against b of every 16 values kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: Where the density is looked at: enough for the kinks of 256 levels.
POINTS = 20_001


def snr(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite when there is no noise.

    Examples
    --------
    >>> round(snr(1.0, 0.01), 3)
    20.0
    """
    if signal < 0 or noise < 0 or (signal == 0 and noise == 0):
        raise ValueError(f"signal and noise must not be negative or both 0, got {signal} and {noise}")
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def quantization_snr(distribution: Any, bits: int, *, clip: float | None = None) -> float:
    """Of rounding to 2^bits even levels, the range being the best there is.

    Parameters
    ----------
    distribution
        What scipy.stats makes, symmetric about 0: anything with `pdf` and `ppf`.
    bits
        1 to 8. Levels are symmetric: +-1/2, +-3/2 ... steps.
    clip
        Values beyond are cut off first, as the largest weight of a tensor does; by default at the 1 - 1e-6 quantile.

    Examples
    --------
    >>> from scipy.stats import norm
    >>> round(quantization_snr(norm(), 4), 1)
    19.4
    """
    if isinstance(bits, bool) or bits not in range(1, 9):
        raise ValueError(f"bits must be a whole number from 1 to 8, got {bits!r}")
    x, mass = _halved(distribution, clip)
    signal, half = float(mass @ np.square(x)), 2 ** (bits - 1)
    best = math.inf
    # A coarse look over ranges, then finer ones about the best.
    ranges, width = np.geomspace(1 / 64, 1, 40) * x[-1], 1.2
    for _ in range(4):
        noises = []
        for top in ranges:
            step = top / half
            level = (np.clip(np.floor(x / step), 0, half - 1) + 0.5) * step
            noises.append(float(mass @ np.square(x - level)))
        at = int(np.argmin(noises))
        best = min(best, noises[at])
        ranges = np.geomspace(ranges[at] / width, min(ranges[at] * width, x[-1]), 15)
        width **= 0.3
    return snr(signal, best)


def pruning_snr(distribution: Any, kept: float, *, clip: float | None = None) -> float:
    """Of setting all but the share `kept` of values, the largest, to zero.

    Examples
    --------
    >>> from scipy.stats import norm
    >>> round(pruning_snr(norm(), 0.25), 1)
    5.6
    """
    if not 0 < kept <= 1:
        raise ValueError(f"kept must be above 0 and at most 1, got {kept}")
    x, mass = _halved(distribution, clip)
    share = np.cumsum(mass) / mass.sum()
    squares = mass * np.square(x)
    return snr(float(squares.sum()), float(squares[share <= 1 - kept].sum()))


def _halved(distribution: Any, clip: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Points above 0 and the mass at each, the mass beyond the clip at the clip."""
    end = float(distribution.ppf(1 - 1e-6)) if clip is None else float(clip)
    if not 0 < end < math.inf:
        raise ValueError(f"clip must be above 0 and finite, got {end}")
    x = np.linspace(0, end, POINTS)
    density = np.asarray(distribution.pdf(x), dtype=np.float64)
    mass = density * (x[1] - x[0])
    mass[[0, -1]] /= 2
    mass[-1] += max(0.0, 0.5 - float(mass.sum()))
    return x, mass
