"""What every bound asks of its arguments, in one place, so that each refusal reads the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Losses = NDArray[np.float64]


def checked_losses(losses: ArrayLike, name: str = "losses", dimensions: int = 1) -> Losses:
    """Losses as a float64 array with every value in [0, 1].

    Parameters
    ----------
    losses : array of numbers or booleans, with `dimensions` axes and at least one value.
    name : what an error calls them.

    Raises
    ------
    TypeError : not numbers.
    ValueError : wrong number of axes, empty, NaN, or outside [0, 1]; names the first such value and its
        index.

    >>> checked_losses([0, 1, 0.5]).tolist()
    [0.0, 1.0, 0.5]
    """
    array = np.asarray(losses)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers in [0, 1], got an array of {array.dtype}")
    if array.ndim != dimensions:
        shape = "(n,)" if dimensions == 1 else "(n, rungs)"
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty; at least one unit is needed")
    values = np.ascontiguousarray(array, dtype=np.float64)
    if not (values.min() >= 0.0 and values.max() <= 1.0):  # false for NaN too
        bad = np.argwhere(~((values >= 0.0) & (values <= 1.0)))[0]
        where = ", ".join(str(int(i)) for i in bad)
        raise ValueError(
            f"{name} must lie in [0, 1], got {float(values[tuple(bad)])} at index {where}; "
            "scale or clip the loss"
        )
    return values


def checked_fraction(value: Any, name: str) -> float:
    """A number strictly between 0 and 1; hints at percent when it looks like one.

    >>> checked_fraction(0.95, "confidence")
    0.95
    >>> checked_fraction(95, "confidence")
    Traceback (most recent call last):
    ValueError: confidence must be between 0 and 1, got 95; write 0.95
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number between 0 and 1, got {value!r}")
    number = float(value)
    if not 0.0 < number < 1.0:
        hint = f"; write {number / 100:g}" if 1.0 < number < 100.0 else " (both ends excluded)"
        raise ValueError(f"{name} must be between 0 and 1, got {value}{hint}")
    return number
