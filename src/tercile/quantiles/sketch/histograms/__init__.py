"""Histograms as summaries: other bins, distances, quantiles with bounds, and the layouts of R, numpy and Prometheus."""

from tercile.quantiles.sketch.histograms.bins import common_bins, merge, rebin, subset, trim
from tercile.quantiles.sketch.histograms.distances import (
    earth_movers,
    earth_movers_bounds,
    intersection,
    intersection_distance,
    jeffreys,
    kolmogorov_smirnov,
    kolmogorov_smirnov_bounds,
    kullback_leibler,
    minkowski,
)
from tercile.quantiles.sketch.histograms.histogram import Histogram
from tercile.quantiles.sketch.histograms.messages import from_message, to_message
from tercile.quantiles.sketch.histograms.pictures import draw
from tercile.quantiles.sketch.histograms.prometheus import NativeHistogram
from tercile.quantiles.sketch.histograms.prometheus_message import from_prometheus, to_prometheus

__all__ = [
    "Histogram",
    "NativeHistogram",
    "common_bins",
    "draw",
    "earth_movers",
    "earth_movers_bounds",
    "from_message",
    "from_prometheus",
    "intersection",
    "intersection_distance",
    "jeffreys",
    "kolmogorov_smirnov",
    "kolmogorov_smirnov_bounds",
    "kullback_leibler",
    "merge",
    "minkowski",
    "rebin",
    "subset",
    "to_message",
    "to_prometheus",
    "trim",
]
