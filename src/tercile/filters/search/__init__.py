"""The nearest vectors among those that pass a filter."""

from tercile.filters.search.index import FlatIndex, Hits, Index, Records
from tercile.filters.search.planner import Plan
from tercile.filters.search.streaming import write_index

__all__ = ["FlatIndex", "Hits", "Index", "Plan", "Records", "write_index"]
