"""Solvers: from weights, statistics and a Scheme to a QTensor."""

from tercile.quantization.solvers.adaquant import AdaptedLayer, adaquant
from tercile.quantization.solvers.adaround import adaround
from tercile.quantization.solvers.bias_tuning import tune_biases
from tercile.quantization.solvers.coordinate_descent import coordinate_descent
from tercile.quantization.solvers.gpfq import gpfq
from tercile.quantization.solvers.gptq import gptq
from tercile.quantization.solvers.min_max import Assignment, least_violation, min_max_rounding
from tercile.quantization.solvers.pruning import prune
from tercile.quantization.solvers.quantease import quantease
from tercile.quantization.solvers.quantease_outliers import quantease_outliers
from tercile.quantization.solvers.round_to_nearest import bias_correction, output_error, round_to_nearest
from tercile.quantization.solvers.row_importance import weigh_rows
from tercile.quantization.solvers.thresholds import hard_threshold, soft_threshold

__all__ = [
    "AdaptedLayer",
    "Assignment",
    "adaquant",
    "adaround",
    "bias_correction",
    "coordinate_descent",
    "gpfq",
    "gptq",
    "hard_threshold",
    "least_violation",
    "min_max_rounding",
    "output_error",
    "prune",
    "quantease",
    "quantease_outliers",
    "round_to_nearest",
    "soft_threshold",
    "tune_biases",
    "weigh_rows",
]
