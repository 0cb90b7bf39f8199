"""Quantiles of columns of tables that are larger than memory, by groups, from files, streams and many machines."""

from tercile.quantiles.tables.grouped import Answer, GroupedQuantiles
from tercile.quantiles.tables.over_ray import quantiles_over_ray
from tercile.quantiles.tables.picture import draw
from tercile.quantiles.tables.scanning import quantiles_of_files

__all__ = ["Answer", "GroupedQuantiles", "draw", "quantiles_of_files", "quantiles_over_ray"]
