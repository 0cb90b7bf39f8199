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
from tercile.quantiles.sketch import (
    KLL,
    DDSketch,
    Exact,
    KLLColumns,
    KLLIntegers,
    KLLStrings,
    TDigest,
    WeightedSummary,
    weighted_quantile,
)
from tercile.quantiles.tables import GroupedQuantiles, quantiles_of_files

__all__ = [
    "KLL",
    "DDSketch",
    "Exact",
    "GroupedQuantiles",
    "KLLColumns",
    "KLLIntegers",
    "KLLStrings",
    "Step",
    "TDigest",
    "WeightedSummary",
    "fixed_sequence",
    "p_value",
    "quantile_p_value",
    "quantile_upper_bound",
    "quantiles_of_files",
    "units_needed",
    "upper_bound",
    "walk",
    "weighted_quantile",
]
