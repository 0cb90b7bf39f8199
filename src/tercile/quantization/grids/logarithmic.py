"""Grids on [0, 1] for what softmax gives out: most values tiny, a few near 1, and these few decide.

A level is a power of a base, which a runtime multiplies by with a shift and, where the base is no whole power of two,
a small table. Zero is one of the codes. A code is the nearest level, which loses no more than the nearest exponent.
"""

from __future__ import annotations

import math

import numpy as np

from tercile.quantization.grids.grid import Grid
from tercile.quantization.grids.integer import whole_number

#: Denominator of the exponents of adaptive grids: prime, so that every numerator gives a table of its own.
PARTS = 37


def logarithmic(bits: int) -> Grid:
    """Zero and 2^-k, k = 0 ... 2^bits - 2.

    Examples
    --------
    >>> logarithmic(2).levels.tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    bits = whole_number(bits, "bits of a logarithmic grid", 2, 6)
    return Grid(f"log{bits}", (*(2.0**-k for k in range((1 << bits) - 1)), 0.0))


def logarithmic_sqrt(bits: int) -> Grid:
    """Zero and 2^(-k/2), k = 0 ... 2^bits - 2: twice as fine as `logarithmic`, and half as deep.

    Examples
    --------
    >>> [round(float(v), 3) for v in logarithmic_sqrt(2).levels]
    [0.0, 0.5, 0.707, 1.0]
    """
    bits = whole_number(bits, "bits of a logarithmic grid", 2, 7)
    return Grid(f"logsqrt{bits}", (*(2.0 ** (-k / 2) for k in range((1 << bits) - 1)), 0.0))


def adaptive_logarithmic(bits: int, numerator: int) -> Grid:
    """Zero and 2^(-k * numerator / 37) to the precision of a table: a base that is chosen to fit the data.

    A level is a shift by the whole part of the exponent times an entry of a table for the rest, as a runtime computes
    it: the entries are multiples of 1 / (2^(bits + 1) - 2).

    Parameters
    ----------
    bits
        2 to 6.
    numerator
        1 to 74: bases from 1.02 to 4; 37 is base 2.

    Source
    ------
    "AdaLog: Post-Training Quantization for Vision Transformers with Adaptive Logarithm Quantizer"; there zero comes
    on top of 2^bits levels, here it is one of the codes.

    Examples
    --------
    >>> adaptive_logarithmic(3, 37).levels.tolist() == logarithmic(3).levels.tolist()
    True
    """
    bits = whole_number(bits, "bits of an adaptive logarithmic grid", 2, 6)
    numerator = whole_number(numerator, "numerator", 1, 2 * PARTS)
    unit = (1 << (bits + 1)) - 2
    values = []
    for code in range((1 << bits) - 1):
        shift, rest = divmod(code * numerator, PARTS)
        values.append(math.ldexp(round(2 ** (-rest / PARTS) * unit) / unit, -shift))
    return Grid(f"adalog{bits}q{numerator}", (*values, 0.0))


def shifted_logarithmic(bits: int, thousandths: int) -> Grid:
    """2^e - shift for whole exponents e that even steps between log2(shift) and log2(1 + shift) round to.

    The shift makes room for zero, and even steps in the exponent use the codes where the values are.

    Parameters
    ----------
    bits
        2 to 6.
    thousandths
        The shift in thousandths, 1 to 1000. A small one reaches far down, a large one is nearly even.

    Source
    ------
    "I&S-ViT: An Inclusive & Stable Method for Pushing the Limit of Post-Training ViTs Quantization": the
    shift-uniform-log2 quantizer.

    Examples
    --------
    >>> [round(v, 3) for v in shifted_logarithmic(3, 50).table]
    [0.013, 0.013, 0.075, 0.2, 0.2, 0.45, 0.45, 0.95]
    """
    bits = whole_number(bits, "bits of a shifted logarithmic grid", 2, 6)
    thousandths = whole_number(thousandths, "thousandths of the shift", 1, 1000)
    shift = thousandths / 1000
    exponents = np.round(np.linspace(math.log2(shift), math.log2(1 + shift), 1 << bits))
    return Grid(f"shiftlog{bits}s{thousandths}", tuple(float(2.0**e - shift) for e in exponents))


def tangent(bits: int, low: int, high: int | None = None) -> Grid:
    """Even steps of a tangent over [0, 1]: levels lie close together near 0 and near 1, and far apart between.

    With angles a and b, level i is x where tan((a + b) x - a) is the i-th of 2^bits even steps from -tan(a) to tan(b).

    Parameters
    ----------
    bits
        2 to 8.
    low, high
        The angles a and b in hundredths of a right angle, 1 to 99, b = a unless it is given. The larger an angle, the
        more levels lie at its end: a at 0, b at 1.

    Source
    ------
    The idea is that of Yang, Gong, Lin, Wu, Sun, Gu (2024), "DopQ-ViT: Towards Distribution-Friendly and
    Outlier-Aware Post-Training Quantization for Vision Transformers", arXiv:2408.03291; the formula is ours.

    Examples
    --------
    >>> [round(float(v), 3) for v in tangent(3, 80).levels]
    [0.0, 0.045, 0.133, 0.335, 0.665, 0.867, 0.955, 1.0]
    >>> [round(float(v), 3) for v in tangent(3, 90, 40).levels]
    [0.0, 0.014, 0.035, 0.067, 0.125, 0.247, 0.559, 1.0]
    """
    bits = whole_number(bits, "bits of a tangent grid", 2, 8)
    low = whole_number(low, "low angle in hundredths of a right angle", 1, 99)
    high = low if high is None else whole_number(high, "high angle in hundredths of a right angle", 1, 99)
    a, b = low / 100 * math.pi / 2, high / 100 * math.pi / 2
    steps = np.linspace(-math.tan(a), math.tan(b), 1 << bits)
    levels = (a + np.arctan(steps)) / (a + b)
    levels[0], levels[-1] = 0.0, 1.0
    name = f"tan{bits}a{low}" if high == low else f"tan{bits}a{low}b{high}"
    return Grid(name, tuple(float(v) for v in levels))
