"""What does the tail look like? Certificates on a loss, and mergeable sketches of quantiles."""

from tercile.quantiles.certificate import (
    Step,
    fixed_sequence,
    p_value,
    quantile_p_value,
    quantile_upper_bound,
    units_needed,
    upper_bound,
    walk,
)
from tercile.quantiles.sketch import KLL, KLLColumns

__all__ = [
    "KLL",
    "KLLColumns",
    "Step",
    "fixed_sequence",
    "p_value",
    "quantile_p_value",
    "quantile_upper_bound",
    "units_needed",
    "upper_bound",
    "walk",
]
