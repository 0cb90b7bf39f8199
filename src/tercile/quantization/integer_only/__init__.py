"""Integer-only inference: a convolutional network from bytes to logits without a single float."""

from tercile.quantization.integer_only.convert import integer_network
from tercile.quantization.integer_only.fixed_point import FixedPoint, fixed_point, multiply
from tercile.quantization.integer_only.network import IntegerNetwork

__all__ = ["FixedPoint", "IntegerNetwork", "fixed_point", "integer_network", "multiply"]
