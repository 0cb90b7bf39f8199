"""Interpolated Kneser-Ney over tokens: the yardstick beside the language model's card.

The probability of token w after the history h is, with c the counts of this order, D its discount and
N(h) the number of different tokens seen after h,

    p(w | h) = (max(c(h w) - D, 0) + D N(h) p(w | shorter h)) / c(h)

where lower orders count in how many different contexts a gram was seen instead of how often
(Kneser and Ney 1995, in the interpolated form of Chen and Goodman 1999); the last resort is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BITS = 12


@dataclass(frozen=True)
class _Order:
    grams: np.ndarray
    counts: np.ndarray
    histories: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray
    discount: float


@dataclass(frozen=True)
class KneserNey:
    """A fitted model: one table of grams, packed ``BITS`` bits a token into 64, for each order."""

    orders: tuple[_Order, ...]

    @classmethod
    def fit(cls, rows: list[np.ndarray], order: int = 5) -> KneserNey:
        """Count the grams of token rows, each padded in front with zeros. ``order * BITS`` must be below 64.

        >>> model = KneserNey.fit([np.array([1, 2, 1, 2, 1, 3])], order=2)
        >>> bool(model.bits(np.array([1, 2]))[1] < model.bits(np.array([1, 3]))[1])
        True
        """
        if not 1 <= order * BITS < 64:
            raise ValueError(f"order must be between 1 and {63 // BITS}, got {order}")
        grams, counts = np.unique(np.concatenate([_grams(row, order) for row in rows]), return_counts=True)
        tables = []
        for length in range(order, 0, -1):
            tables.append(_table(grams, counts))
            shorter = grams & np.uint64((1 << BITS * (length - 1)) - 1)
            grams, counts = np.unique(shorter, return_counts=True)
        return cls(tuple(reversed(tables)))

    def bits(self, row: np.ndarray) -> np.ndarray:
        """Return -log2 of the probability of each token of a row given those before it."""
        grams = _grams(row, len(self.orders))
        chance = np.full(len(grams), 1 / (1 << BITS))
        for length, table in enumerate(self.orders, 1):
            gram = grams & np.uint64((1 << BITS * length) - 1)
            seen = _look_up(table.grams, table.counts, gram)
            total = _look_up(table.histories, table.totals, gram >> np.uint64(BITS))
            kinds = _look_up(table.histories, table.kinds, gram >> np.uint64(BITS))
            known = total > 0
            mixed = np.maximum(seen - table.discount, 0) + table.discount * kinds * chance
            chance = np.where(known, mixed / np.where(known, total, 1), chance)
        bits: np.ndarray = -np.log2(chance)
        return bits


def _grams(row: np.ndarray, order: int) -> np.ndarray:
    padded = np.concatenate([np.zeros(order - 1, np.uint64), row.astype(np.uint64)])
    grams = np.zeros(len(row), np.uint64)
    for at in range(order):
        grams = (grams << np.uint64(BITS)) | padded[at : at + len(row)]
    return grams


def _table(grams: np.ndarray, counts: np.ndarray) -> _Order:
    histories, first = np.unique(grams >> np.uint64(BITS), return_index=True)
    totals = np.add.reduceat(counts, first)
    kinds = np.diff(np.append(first, len(grams)))
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5
    # Grams seen once only, as in tiny texts, would leave the seen ones no share at all.
    return _Order(grams, counts, histories, totals, kinds, min(discount, 0.95))


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)
