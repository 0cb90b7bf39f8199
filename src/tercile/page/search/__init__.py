"""Find methods and papers by words, by meaning, or both."""

from tercile.page.search.batching import Batcher
from tercile.page.search.collection import Collection
from tercile.page.search.documents import Document, Filter
from tercile.page.search.encoder import Encoder, SmallBert
from tercile.page.search.engine import MODES, Found, Hit, Mode, Search, blend
from tercile.page.search.words import Words

__all__ = [
    "MODES",
    "Batcher",
    "Collection",
    "Document",
    "Encoder",
    "Filter",
    "Found",
    "Hit",
    "Mode",
    "Search",
    "SmallBert",
    "Words",
    "blend",
]
