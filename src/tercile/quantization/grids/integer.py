"""Integers with even steps: the grid of almost every runtime."""

from __future__ import annotations

import numbers

from tercile.quantization.grids.grid import Grid


def integer(bits: int) -> Grid:
    """Signed integers of 1 to 8 bits, stored with an offset: code 0 is the most negative value.

    Two's complement range, -2^(bits-1) to 2^(bits-1) - 1, so that zero is a level. One bit is the exception: -1 and 1,
    because -1 and 0 could not tell a sign.

    Examples
    --------
    >>> integer(3).table
    (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    """
    bits = whole_number(bits, "bits", 1, 8)
    if bits == 1:
        return Grid("int1", (-1.0, 1.0))
    half = 1 << (bits - 1)
    return Grid(f"int{bits}", tuple(float(v) for v in range(-half, half)))


def unsigned(bits: int) -> Grid:
    """Integers 0 to 2^bits - 1, for schemes with a zero point.

    Examples
    --------
    >>> unsigned(2).table
    (0.0, 1.0, 2.0, 3.0)
    """
    bits = whole_number(bits, "bits", 1, 8)
    return Grid(f"uint{bits}", tuple(float(v) for v in range(1 << bits)))


def whole_number(value: int, name: str, least: int, most: int) -> int:
    """The value as an int.

    Raises
    ------
    ValueError
        If it is no whole number from `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return int(value)
