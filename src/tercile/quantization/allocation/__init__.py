"""Allocation: which scheme for which layer under a budget."""

from tercile.quantization.allocation.budget import Allocation, allocate
from tercile.quantization.allocation.hessian import (
    Trace,
    curvature_table,
    input_traces,
    top_eigenvalues,
    weight_traces,
)
from tercile.quantization.allocation.ladder import pareto_ladder
from tercile.quantization.allocation.sensitivity import SensitivityTable

__all__ = [
    "Allocation",
    "SensitivityTable",
    "Trace",
    "allocate",
    "curvature_table",
    "input_traces",
    "pareto_ladder",
    "top_eigenvalues",
    "weight_traces",
]
