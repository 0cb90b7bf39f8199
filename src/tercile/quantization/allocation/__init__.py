"""Allocation: which scheme for which layer under a budget."""

from tercile.quantization.allocation.budget import Allocation, allocate
from tercile.quantization.allocation.evolution import Evolved, evolve_proxy
from tercile.quantization.allocation.gaussian import gaussian_rates
from tercile.quantization.allocation.hessian import (
    Trace,
    curvature_table,
    input_traces,
    top_eigenvalues,
    weight_traces,
)
from tercile.quantization.allocation.integral import (
    Integral,
    detach_significant,
    outlier_counts,
    post_quantization_integral,
)
from tercile.quantization.allocation.ladder import pareto_ladder
from tercile.quantization.allocation.noise_ratio import hybrid, noise_ratio, time_sensitive
from tercile.quantization.allocation.proxies import Proxy, rank_correlation
from tercile.quantization.allocation.relevance import Relevance, relevance_table, vit_relevance
from tercile.quantization.allocation.sensitivity import SensitivityTable

__all__ = [
    "Allocation",
    "Evolved",
    "Integral",
    "Proxy",
    "Relevance",
    "SensitivityTable",
    "Trace",
    "allocate",
    "curvature_table",
    "detach_significant",
    "evolve_proxy",
    "gaussian_rates",
    "hybrid",
    "input_traces",
    "noise_ratio",
    "outlier_counts",
    "pareto_ladder",
    "post_quantization_integral",
    "rank_correlation",
    "relevance_table",
    "time_sensitive",
    "top_eigenvalues",
    "vit_relevance",
    "weight_traces",
]
