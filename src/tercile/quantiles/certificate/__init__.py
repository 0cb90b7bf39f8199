"""Risk bounds and fixed-sequence tests: the promise of the main job.

A loss scores one independent unit in [0, 1]. From the losses of n units that played no part in choosing a
model, `upper_bound` bounds the mean loss on all data like them and `quantile_upper_bound` a quantile of it;
`walk` and `fixed_sequence` pick the smallest model of a ladder that keeps a promise; `units_needed` says how
many units it takes.
"""

from tercile.quantiles.certificate.fixed_sequence import Step, fixed_sequence, walk
from tercile.quantiles.certificate.mean import Method, method_for, p_value, upper_bound
from tercile.quantiles.certificate.order_statistics import quantile_p_value, quantile_upper_bound
from tercile.quantiles.certificate.units import units_needed

__all__ = [
    "Method",
    "Step",
    "fixed_sequence",
    "method_for",
    "p_value",
    "quantile_p_value",
    "quantile_upper_bound",
    "units_needed",
    "upper_bound",
    "walk",
]
