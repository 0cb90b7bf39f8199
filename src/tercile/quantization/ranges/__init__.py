"""Ranges: from values and a Scheme to scales and zero points."""

from tercile.quantization.ranges.estimators import RangeEstimator, min_max, mse, quantile
from tercile.quantization.ranges.golden_section import golden_section
from tercile.quantization.ranges.matching import matched
from tercile.quantization.ranges.reshaping import reshaped

__all__ = ["RangeEstimator", "golden_section", "matched", "min_max", "mse", "quantile", "reshaped"]
