"""Grids by name: `parse` is the inverse of `Grid.spelling`."""

from __future__ import annotations

import re
from fractions import Fraction

from tercile.quantization.grids.codebook import codebook, normal, normal_float, power_of_two, sign, ternary
from tercile.quantization.grids.column_grid import ColumnGrid
from tercile.quantization.grids.floating import floating
from tercile.quantization.grids.grid import Grid
from tercile.quantization.grids.integer import integer, unsigned
from tercile.quantization.grids.logarithmic import (
    adaptive_logarithmic,
    logarithmic,
    logarithmic_sqrt,
    shifted_logarithmic,
    tangent,
)
from tercile.quantization.grids.pairs import Pairs
from tercile.quantization.grids.trellis import MEMORY, Trellis

#: Spellings of every grid that has a name of its own, with some of the numbers that stand in a name (levels of a normal
#: grid, base, shift or angle of those for softmax); codebooks are spelled by their values.
NAMED = (
    *(f"int{b}" for b in range(1, 9)),
    *(f"uint{b}" for b in range(1, 9)),
    "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1",
    "nf4", "pot2", "pot3", "pot4", "pot5", "ternary", "sign",
    "log3", "log4", "logsqrt3", "logsqrt4", "adalog3q30", "adalog4q20",
    "shiftlog3s50", "shiftlog4s5", "tan3a80", "tan4a90b40",
    "normal3", "normal4", "normal6", "normal8", "normal12", "normal16", "normal32",
)  # fmt: skip


def parse(spelling: str) -> Grid | ColumnGrid:
    """The grid that a spelling names.

    Raises
    ------
    ValueError
        If it names none; the message lists what there is.

    Examples
    --------
    >>> parse("fp8-e4m3").levels[-1].item()
    448.0
    """
    fixed = {"nf4": normal_float, "ternary": ternary, "sign": sign}
    if not isinstance(spelling, str):
        raise TypeError(f"spelling must be a string such as 'int4', got {spelling!r}")
    if spelling in fixed:
        return fixed[spelling]()
    if match := re.fullmatch(r"(u?int|pot)([0-9])", spelling):
        make = {"int": integer, "uint": unsigned, "pot": power_of_two}[match[1]]
        return make(int(match[2]))
    if match := re.fullmatch(r"(log|logsqrt)([0-9])", spelling):
        return (logarithmic if match[1] == "log" else logarithmic_sqrt)(int(match[2]))
    if match := re.fullmatch(r"(adalog|shiftlog)([0-9])[qs]([0-9]{1,4})", spelling):
        bent = adaptive_logarithmic if match[1] == "adalog" else shifted_logarithmic
        return bent(int(match[2]), int(match[3]))
    if match := re.fullmatch(r"tan([0-9])a([0-9]{1,2})(?:b([0-9]{1,2}))?", spelling):
        return tangent(int(match[1]), int(match[2]), int(match[3]) if match[3] else None)
    if match := re.fullmatch(r"normal([0-9]{1,2})", spelling):
        return normal(int(match[1]))
    if match := re.fullmatch(r"trellis([0-9](?:\.[0-9]+)?)(?:m([0-9]+))?", spelling):
        return Trellis(Fraction(match[1]), int(match[2] or MEMORY))
    if match := re.fullmatch(r"pairs([0-9](?:\.[0-9]+)?)", spelling):
        return Pairs(Fraction(match[1]))
    if match := re.fullmatch(r"fp([0-9])-e([0-9])m([0-9])", spelling):
        bits, exponent, mantissa = map(int, match.groups())
        if bits != 1 + exponent + mantissa:
            made = 1 + exponent + mantissa
            raise ValueError(f"{spelling!r}: sign, exponent and mantissa make {made} bits; write fp{made}-...")
        return floating(exponent, mantissa)
    if match := re.fullmatch(r"cb\[([^\]]*)\]", spelling):
        try:
            values = [float(v) for v in match[1].split(",")]
        except ValueError:
            raise ValueError(f"{spelling!r}: write the values of a codebook as numbers, such as cb[-1,0,1]") from None
        return codebook(values)
    named = f"{', '.join(NAMED)}, trellis2.25, pairs2.5 and the like, and cb[v,v,...]"
    raise ValueError(f"no grid is called {spelling!r}; there are {named}")
