"""What passes? Filters over data."""

from tercile.filters import data

__all__ = ["data"]
