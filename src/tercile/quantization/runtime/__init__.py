"""Runtime: stored weights multiplied as they are stored. `modules` puts them into torch models."""

from tercile.quantization.runtime.matrix import PackedMatrix
from tercile.quantization.runtime.two_sided import TwoSidedMatrix

__all__ = ["PackedMatrix", "TwoSidedMatrix"]
