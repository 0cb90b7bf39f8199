"""Where values may lie, and the whole numbers that stand for them.

A domain [lower, upper] is cut into steps, and each step into cells; all of this room computes on cell numbers,
which are integers below 2^54. A value is clipped to the domain, rounded to the nearest step, and put into a cell
of that step at random. The last part breaks ties: sixty flights that were all five minutes late get sixty
different places within "five", in an order that says nothing, so that any quantile among them can be hit. Going
back, a cell is the step that it belongs to.

All of this happens to each record by itself, whatever the others are; so neighbouring data sets stay neighbours,
and whatever rounding does to a record is no concern of privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.private.randomness import Integers, Randomness

_MOST_STEPS = 1 << 40
_MOST_CELLS = 1 << 53


@dataclass(frozen=True)
class Domain:
    """An interval that is known beforehand, *not* read off the data, to hold (nearly) all values.

    Parameters
    ----------
    lower, upper
        Finite, `lower < upper`. Values outside are clipped to them. Wide is cheap: the error grows with the
        logarithm of the width.
    step
        What values are rounded to, counted from `lower`: 1 for whole numbers. By default 2^-40 of the width.

    Raises
    ------
    ValueError
        Bounds are reversed, equal or not finite; the step is not positive, wider than the domain, or leaves more
        than 2^40 steps.

    Examples
    --------
    >>> Domain(-10, 10)
    Domain(lower=-10.0, upper=10.0, step=None)
    >>> Domain(10, -10)
    Traceback (most recent call last):
    ValueError: lower must be below upper, got 10.0 and -10.0; did you mean Domain(-10.0, 10.0)?
    """

    lower: float
    upper: float
    step: float | None = None
    steps: int = field(init=False, repr=False)
    cells_per_step: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _finite(getattr(self, name), name))
        if self.lower > self.upper:
            raise ValueError(
                f"lower must be below upper, got {self.lower} and {self.upper}; did you mean "
                f"Domain({self.upper}, {self.lower})?"
            )
        if self.lower == self.upper:
            raise ValueError(f"lower must be below upper, got {self.lower} twice")
        width = self.upper - self.lower
        if not math.isfinite(width):
            raise ValueError(f"upper - lower must be finite, got {self.lower} and {self.upper}")
        if self.step is None:
            steps = _MOST_STEPS
        else:
            step = _finite(self.step, "step")
            if not 0.0 < step <= width:
                raise ValueError(f"step must be above 0 and at most upper - lower = {width}, got {step}")
            if width / step > _MOST_STEPS:
                raise ValueError(f"step must be at least {width / _MOST_STEPS:.3g}, 2^-40 of the width, got {step}")
            object.__setattr__(self, "step", step)
            steps = math.floor(width / step + 1e-9)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "cells_per_step", 1 << ((_MOST_CELLS // (steps + 1)).bit_length() - 1))

    @property
    def width_of_step(self) -> float:
        """The distance between two steps."""
        return (self.upper - self.lower) / self.steps if self.step is None else self.step

    @property
    def cells(self) -> int:
        """How many cells there are; they are numbered from 0."""
        return (self.steps + 1) * self.cells_per_step

    def cells_of(self, values: NDArray[np.float64], randomness: Randomness) -> Integers:
        """Each value's cell, (n,) int64 in no order: clipped, rounded to a step, at random within it."""
        step = self._steps_of(values)
        within = (randomness.words(values.size) & np.uint64(self.cells_per_step - 1)).astype(np.int64)
        return step * self.cells_per_step + within

    def values_of(self, cells: ArrayLike) -> NDArray[np.float64]:
        """The value that cells stand for: their step's."""
        step = np.asarray(cells, dtype=np.int64) // self.cells_per_step
        return np.clip(self.lower + step * self.width_of_step, self.lower, self.upper)

    def centers_of(self, values: NDArray[np.float64]) -> Integers:
        """The cell in the middle of each value's step: for sums, where ties need not be broken."""
        return self._steps_of(values) * self.cells_per_step + self.cells_per_step // 2

    def points_of(self, cells: ArrayLike) -> NDArray[np.float64]:
        """Where cells lie, between steps: for answers that are no value of the data, such as means."""
        place = np.asarray(cells, dtype=np.int64) / self.cells_per_step - 0.5
        return np.clip(self.lower + place * self.width_of_step, self.lower, self.upper)

    def _steps_of(self, values: NDArray[np.float64]) -> Integers:
        clipped = np.clip(values, self.lower, self.upper)
        step = np.rint((clipped - self.lower) / self.width_of_step).astype(np.int64)
        return np.clip(step, 0, self.steps)

    def position(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where values lie in units of cells, as fractions: for priors, which are public."""
        inside = (np.clip(values, self.lower, self.upper) - self.lower) / self.width_of_step + 0.5
        return np.clip(inside * self.cells_per_step, 0, self.cells)


def domain_from(domain: Any) -> Domain:
    """A `Domain`, made from a pair (lower, upper) where it is not one yet."""
    if isinstance(domain, Domain):
        return domain
    try:
        lower, upper = domain
    except (TypeError, ValueError):
        raise TypeError(f"domain must be a Domain or a pair (lower, upper), got {domain!r}") from None
    return Domain(lower, upper)


def checked_values(values: ArrayLike, name: str = "values") -> NDArray[np.float64]:
    """Numbers as (n,) float64, at least one of them and all finite.

    Raises
    ------
    TypeError
        Not numbers.
    ValueError
        More than one axis, empty, NaN or infinite; says which and where. An error tells something of the data,
        so on data that matter clean them first, by a rule that looks at one record at a time.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got an array of {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty; at least one is needed")
    numbers = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        what = "NaN" if np.isnan(numbers[bad[0]]) else "infinite"
        raise ValueError(f"{name}[{bad[0]}] is {what}; drop such records, or replace them by a finite value")
    return numbers


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}; choose a bound that no value can pass")
    return float(value)
