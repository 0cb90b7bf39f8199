"""Which examples are worth keeping: read, check, deduplicate, split."""

from tercile.filters.data.checks import check
from tercile.filters.data.example import Example, Rejection
from tercile.filters.data.lsh import DuplicateIndex, near_duplicates
from tercile.filters.data.selecting import select
from tercile.filters.data.selection import Selection
from tercile.filters.data.sides import split
from tercile.filters.data.similarity import picture_similarity, text_similarity
from tercile.filters.data.sources import read

__all__ = [
    "DuplicateIndex",
    "Example",
    "Rejection",
    "Selection",
    "check",
    "near_duplicates",
    "picture_similarity",
    "read",
    "select",
    "split",
    "text_similarity",
]
