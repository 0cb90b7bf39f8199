"""Mergeable summaries of a stream, each with a stated error bound."""

from tercile.quantiles.sketch.columns import KLLColumns
from tercile.quantiles.sketch.ddsketch import DDSketch
from tercile.quantiles.sketch.exact import Exact, weighted_quantile
from tercile.quantiles.sketch.kll import KLL, KLLIntegers
from tercile.quantiles.sketch.kll_strings import KLLStrings
from tercile.quantiles.sketch.protocol import Sketch
from tercile.quantiles.sketch.tdigest import TDigest
from tercile.quantiles.sketch.weighted_summary import WeightedSummary

__all__ = [
    "KLL",
    "DDSketch",
    "Exact",
    "KLLColumns",
    "KLLIntegers",
    "KLLStrings",
    "Sketch",
    "TDigest",
    "WeightedSummary",
    "weighted_quantile",
]
