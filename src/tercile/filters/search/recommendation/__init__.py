"""Item tables of recommenders as codes: compressed after training, given before it, or learnt with it."""

from tercile.filters.search.recommendation.coded_items import CodedItems
from tercile.filters.search.recommendation.coded_users import CodedPairs
from tercile.filters.search.recommendation.content import Content, content_of
from tercile.filters.search.recommendation.factorization import Factors, factorize, wanted_by
from tercile.filters.search.recommendation.shared_codes import (
    HistoryModel,
    Training,
    learnt_codebooks,
    learnt_codes,
    learnt_table,
)
from tercile.filters.search.recommendation.tokens import TokenTree, item_tokens

__all__ = [
    "CodedItems",
    "CodedPairs",
    "Content",
    "Factors",
    "HistoryModel",
    "TokenTree",
    "Training",
    "content_of",
    "factorize",
    "item_tokens",
    "learnt_codebooks",
    "learnt_codes",
    "learnt_table",
    "wanted_by",
]
