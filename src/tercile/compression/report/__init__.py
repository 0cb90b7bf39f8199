"""The page that explains what was made, from the two files beside the small model."""

from tercile.compression.report.page import render, write
from tercile.compression.report.reading import read

__all__ = ["read", "render", "write"]
