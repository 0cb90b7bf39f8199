"""The checks on what a sketch is asked, and the answers from values in order with cumulative weights."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# 0.07 * 100 is 7.000000000000001 to a computer, and still the seventh of a hundred is meant.
_ROUNDED_DOWN = 1.0 - 4.0 * float(np.finfo(np.float64).eps)


def as_levels(q: ArrayLike) -> Floats:
    """q as an array; ValueError when one lies outside [0, 1]."""
    levels = np.asarray(q, dtype=np.float64)
    if not ((levels >= 0.0) & (levels <= 1.0)).all():
        raise ValueError(f"q must lie in [0, 1], got {q!r}")
    return levels


def as_points(x: ArrayLike) -> Floats:
    """x as an array; ValueError when one is NaN."""
    points = np.asarray(x, dtype=np.float64)
    if np.isnan(points).any():
        raise ValueError("x must not be NaN")
    return points


def as_answer(found: Any) -> Any:
    """A plain number for a question about one, the array otherwise."""
    return found.item() if found.ndim == 0 else found


def as_confidence(confidence: float) -> float:
    """A confidence that lies between 0 and 1."""
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float, np.integer, np.floating)):
        raise TypeError(f"confidence must be a number, got {confidence!r}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; write 0.95 for 95%")
    return float(confidence)


def as_seed(random_state: int | None) -> int:
    """A seed of 64 bits, a fresh one for None."""
    if random_state is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise TypeError(f"random_state must be an integer or None, got {random_state!r}")
    return int(random_state) % 2**64


def sub_gaussian(confidence: float) -> float:
    """How many standard deviations a sub-Gaussian error stays within, on both sides, at this confidence.

    >>> round(sub_gaussian(0.99), 3)
    3.255
    """
    return math.sqrt(2.0 * math.log(2.0 / (1.0 - confidence)))


def least_reaching(levels: Floats, values: NDArray[Any], cumulative: Floats) -> NDArray[Any]:
    """For each level the least of the ordered values whose cumulative share is at least the level."""
    index = np.searchsorted(cumulative, levels * cumulative[-1] * _ROUNDED_DOWN, side="left")
    return values[np.minimum(index, values.size - 1)]


def least_exceeding(levels: Floats, values: NDArray[Any], cumulative: Floats) -> NDArray[Any]:
    """For each level the least of the ordered values whose cumulative share is above the level, or the last."""
    index = np.searchsorted(cumulative, levels * cumulative[-1], side="right")
    return values[np.minimum(index, values.size - 1)]


def share_at_or_below(points: NDArray[Any], values: NDArray[Any], cumulative: Floats) -> Floats:
    """For each point the cumulative share of the ordered values at or below it."""
    padded = np.concatenate(([0.0], cumulative))
    share: Floats = padded[np.searchsorted(values, points, side="right")] / cumulative[-1]
    return share
