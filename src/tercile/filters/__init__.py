"""What passes? Filters over data."""

from tercile.filters import data, search

__all__ = ["data", "search"]
