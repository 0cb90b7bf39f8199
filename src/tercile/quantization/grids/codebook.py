"""Grids given by a list of values: any codebook, and the ones that the field has names for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

from tercile.quantization.grids.grid import Grid
from tercile.quantization.grids.integer import whole_number


def codebook(values: Sequence[float]) -> Grid:
    """Any 2 to 256 distinct finite values; code i is the i-th smallest.

    Examples
    --------
    >>> codebook([1, -1, 0.25]).spelling
    'cb[-1,0.25,1]'
    """
    with np.errstate(over="ignore"):
        array = np.asarray(values, dtype=np.float32).reshape(-1)
    if not np.isfinite(array).all():
        raise ValueError("values of a codebook must be finite in float32; drop the NaN, infinite or too large ones")
    levels = np.unique(array + np.float32(0))
    if len(levels) != len(array):
        repeated = len(array) - len(levels)
        raise ValueError(f"values of a codebook must be distinct in float32, got {repeated} repeated; drop them")
    return Grid("cb[" + ",".join(str(v).removesuffix(".0") for v in levels) + "]", tuple(float(v) for v in levels))


def normal_float() -> Grid:
    """NF4: 16 values at quantiles of the normal distribution, zero among them (Dettmers et al. 2023, appendix E).

    Examples
    --------
    >>> [round(v, 3) for v in normal_float().table[6:10]]
    [-0.091, 0.0, 0.08, 0.161]
    """
    outermost = 0.5 * (1 - 1 / 32 + 1 - 1 / 30)  # the paper's offset: mean of 1 - 1/(2*16) and 1 - 1/(2*15)
    ppf = NormalDist().inv_cdf
    positive = [ppf(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    negative = [-ppf(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    values = sorted([*positive, 0.0, *negative])
    return Grid("nf4", tuple(float(np.float32(v / values[-1])) for v in values))


@cache
def normal(levels: int) -> Grid:
    """The scalar grid of least squared error for normal values (Max 1960; Lloyd 1982), 2 to 64 levels.

    Weights within a block are close to normal, so this grid loses less than integers of as many levels: 8% of the error
    at 8 levels with the best scales, and it needs fewer scales to do so. The number of levels need be no power of two.

    Costs some hundred rounds of Lloyd's iteration, exact integrals, once a process.

    Examples
    --------
    >>> [round(v, 4) for v in normal(4).table]
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    if levels not in range(2, 65):
        raise ValueError(f"levels of a normal grid must be 2 to 64, got {levels}")
    centres = np.array([NormalDist().inv_cdf((i + 0.5) / levels) for i in range(levels)])
    for _ in range(100_000):
        edges = (centres[1:] + centres[:-1]) / 2
        mass = np.diff([0.0, *(0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges), 1.0])
        density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
        means = (np.append(0.0, density) - np.append(density, 0.0)) / mass
        moved = np.abs(means - centres).max()
        centres = means
        if moved < 1e-9:
            break
    centres = (centres - centres[::-1]) / 2  # rounding aside it is symmetric already
    return Grid(f"normal{levels}", tuple(float(np.float32(v)) for v in centres))


def power_of_two(bits: int) -> Grid:
    """Zero and +-2^-k, k = 0 ... 2^(bits-1) - 2: a product with one is a shift.

    Codes are sign and exponent: the lower half positive from zero up, the upper half their negatives.

    Examples
    --------
    >>> power_of_two(3).levels.tolist()
    [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    """
    bits = whole_number(bits, "bits of a power-of-two grid", 2, 5)
    largest = (1 << (bits - 1)) - 1
    positive = [0.0] + [2.0 ** (k - largest) for k in range(1, largest + 1)]
    return Grid(f"pot{bits}", tuple(positive + [-v for v in positive]))


def ternary() -> Grid:
    """-1, 0 and 1, at 1.6 bits a code.

    Examples
    --------
    >>> ternary().bits
    1.6
    """
    return Grid("ternary", (-1.0, 0.0, 1.0))


def sign() -> Grid:
    """-1 and 1.

    Examples
    --------
    >>> sign().levels.tolist()
    [-1.0, 1.0]
    """
    return Grid("sign", (-1.0, 1.0))
