"""Floats of 3 to 8 bits: a sign, an exponent and a mantissa, with subnormal numbers."""

from __future__ import annotations

import math

from tercile.quantization.grids.grid import Grid
from tercile.quantization.grids.integer import whole_number


def floating(exponent: int, mantissa: int) -> Grid:
    """The float format E<exponent>M<mantissa>; a code is the number's own bit pattern.

    Formats follow the OCP 8-bit and microscaling specifications: bias 2^(exponent-1) - 1, subnormals, no infinity and
    no NaN below 8 bits; E4M3 gives up one pattern of each sign to NaN (largest value 448), E5M2 keeps IEEE's infinity
    and NaN patterns, which are never written here.

    Parameters
    ----------
    exponent, mantissa
        Bits of each: exponent from 1 to 5, mantissa from 0 to 6, together 2 to 7.

    Examples
    --------
    >>> floating(2, 1).levels.tolist()
    [-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    exponent = whole_number(exponent, "exponent bits", 1, 5)
    mantissa = whole_number(mantissa, "mantissa bits", 0, 6)
    if not 2 <= exponent + mantissa <= 7:
        raise ValueError(f"no float grid E{exponent}M{mantissa}; exponent and mantissa together have 2 to 7 bits")
    bias = (1 << (exponent - 1)) - 1
    top = (1 << exponent) - 1

    def magnitude(pattern: int) -> float:
        e, m = pattern >> mantissa, pattern & ((1 << mantissa) - 1)
        if (exponent, mantissa) == (4, 3) and pattern == 0x7F:
            return math.nan
        if (exponent, mantissa) == (5, 2) and e == top:
            return math.nan
        fraction = m / (1 << mantissa)
        return math.ldexp(fraction, 1 - bias) if e == 0 else math.ldexp(1 + fraction, e - bias)

    positive = [magnitude(pattern) for pattern in range(1 << (exponent + mantissa))]
    return Grid(f"fp{1 + exponent + mantissa}-e{exponent}m{mantissa}", tuple(positive + [-v for v in positive]))
