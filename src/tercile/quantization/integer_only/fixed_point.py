"""Multiplying an integer by a real number with integers alone: a whole multiplier and a shift.

A sum of products stands for `sum * input scale * weight scale`; as the next value's code it is
`sum * input scale * weight scale / output scale`. The factor is known before anything runs, and is kept as

    factor = multiplier / 2^shift,    multiplier with its highest bit set,

so that the product is a multiplication, an addition of half a unit and a shift. Krishnamoorthi (2018),
arXiv:1806.08342, takes this form of inference from gemmlowp, which rounds halves away from zero; here they go up, which
is one instruction fewer and as exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Bits of a multiplier where products are taken in 64 bits, and where they have to stay within 32.
WIDE, NARROW = 31, 15


@dataclass(frozen=True)
class FixedPoint:
    """Real factors as integers, one or one a channel.

    Attributes
    ----------
    multiplier, shift
        int32 (n,): the factor is multiplier / 2^shift.
    """

    multiplier: np.ndarray
    shift: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """float64 (n,): what the integers stand for."""
        return np.ldexp(self.multiplier.astype(np.float64), -self.shift)


def fixed_point(factors: np.ndarray, bits: int = WIDE) -> FixedPoint:
    """Nearest fixed-point form of factors.

    Parameters
    ----------
    factors
        float (n,), positive and finite.
    bits
        Bits of the multiplier.

    Raises
    ------
    ValueError
        If a factor is not positive, or beyond what shifts of 1 to 62 can say.

    Examples
    --------
    >>> fixed_point(np.array([0.75]), bits=4)
    FixedPoint(multiplier=array([12], dtype=int32), shift=array([4], dtype=int32))
    """
    given = np.atleast_1d(np.asarray(factors, dtype=np.float64))
    if not np.isfinite(given).all() or (given <= 0).any():
        raise ValueError(f"factors must be positive and finite, got {given.min()} to {given.max()}")
    multiplier, shift = np.zeros(given.shape, np.int64), np.zeros(given.shape, np.int64)
    for index, factor in enumerate(given):
        fraction, exponent = math.frexp(factor)  # fraction in [0.5, 1)
        whole = round(fraction * 2**bits)
        if whole == 2**bits:
            whole, exponent = whole // 2, exponent + 1
        multiplier[index], shift[index] = whole, bits - exponent
    # What is too small for the widest shift is all but zero: fewer bits of it are enough.
    over = np.maximum(shift - 62, 0)
    multiplier, shift = multiplier >> np.minimum(over, 62), shift - over
    if (shift < 1).any():
        raise ValueError(f"factor {given.max():.3g} is too large for a fixed point of {bits} bits")
    return FixedPoint(multiplier.astype(np.int32), shift.astype(np.int32))


def multiply(values: np.ndarray, factor: FixedPoint) -> np.ndarray:
    """Integers times factors, rounded to the nearest integer, halves up; int64, channels last.

    Examples
    --------
    >>> multiply(np.array([[3], [2]]), fixed_point(np.array([0.75]))).tolist()
    [[2], [2]]
    """
    product = values.astype(np.int64) * factor.multiplier
    rounded: np.ndarray = (product + (np.int64(1) << (factor.shift.astype(np.int64) - 1))) >> factor.shift
    return rounded
