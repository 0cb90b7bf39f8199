"""Quantization: how few bits?"""

from tercile.quantization.blocks import Blocks
from tercile.quantization.grids import Grid
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Ranges, Scheme

__all__ = ["Blocks", "Grid", "QTensor", "Ranges", "Scheme"]
