"""Grids: the representable values."""

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
from tercile.quantization.grids.spelling import NAMED, parse
from tercile.quantization.grids.trellis import Trellis

__all__ = [
    "NAMED",
    "ColumnGrid",
    "Grid",
    "Pairs",
    "Trellis",
    "adaptive_logarithmic",
    "codebook",
    "floating",
    "integer",
    "logarithmic",
    "logarithmic_sqrt",
    "normal",
    "normal_float",
    "parse",
    "power_of_two",
    "shifted_logarithmic",
    "sign",
    "tangent",
    "ternary",
    "unsigned",
]
