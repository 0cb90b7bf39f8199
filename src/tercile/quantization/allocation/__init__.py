"""Allocation: which scheme for which layer under a budget."""

from tercile.quantization.allocation.budget import Allocation, allocate
from tercile.quantization.allocation.ladder import pareto_ladder
from tercile.quantization.allocation.sensitivity import SensitivityTable

__all__ = ["Allocation", "SensitivityTable", "allocate", "pareto_ladder"]
