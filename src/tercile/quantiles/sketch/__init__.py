"""Mergeable summaries of a stream, each with a stated error bound."""

from tercile.quantiles.sketch.columns import KLLColumns
from tercile.quantiles.sketch.kll import KLL

__all__ = ["KLL", "KLLColumns"]
