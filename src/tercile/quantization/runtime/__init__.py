"""Runtime: stored weights multiplied as they are stored. `modules` puts them into torch models."""

from tercile.quantization.runtime.matrix import PackedMatrix

__all__ = ["PackedMatrix"]
