"""Ranges: from values and a Scheme to scales and zero points."""

from tercile.quantization.ranges.estimators import RangeEstimator, min_max, mse, quantile

__all__ = ["RangeEstimator", "min_max", "mse", "quantile"]
