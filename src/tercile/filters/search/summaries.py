"""What each list of rows holds, in a few numbers: lists that no row can pass in are not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tercile.filters.search.columns import Column, Kind, Vocabulary
from tercile.filters.search.where import And, Compare, Constant, In, IsNull, Or, Where


@dataclass(frozen=True)
class ListSummary:
    """Of one column, an entry a list: least and greatest value of numbers (the least above the greatest if there are
    none), or for texts and booleans which of 64 shares of the codes are there; and whether values are missing.
    """

    kind: Kind
    low: np.ndarray
    high: np.ndarray
    codes: np.ndarray
    nulls: np.ndarray

    @classmethod
    def of(cls, column: Column, begins: np.ndarray) -> ListSummary:
        """Summarises rows that lie in lists; list i is rows begins[i] to begins[i + 1]."""
        lists = len(begins) - 1
        null = column.nulls
        full = np.flatnonzero(np.diff(begins))
        starts = begins[:-1][full]
        missing = np.zeros(lists, dtype=bool)
        numbers = column.kind in {"integer", "real"}
        low = np.full(lists if numbers else 0, np.inf)
        high = np.full(lists if numbers else 0, -np.inf)
        codes = np.zeros(0 if numbers else lists, dtype=np.uint64)
        if len(full):
            missing[full] = np.logical_or.reduceat(null, starts)
            if numbers:
                low[full] = np.minimum.reduceat(np.where(null, np.inf, column.values), starts)
                high[full] = np.maximum.reduceat(np.where(null, -np.inf, column.values), starts)
                if column.kind == "integer":  # beyond 2^53 float64 rounds: one step wider is safe
                    low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
            else:
                bits = np.where(null, np.uint64(0), np.uint64(1) << (column.values & 63).astype(np.uint64))
                codes[full] = np.bitwise_or.reduceat(bits, starts)
        return cls(column.kind, low, high, codes, missing)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored."""
        return {"low": self.low, "high": self.high, "codes": self.codes, "nulls": self.nulls}


def may_pass(
    where: Where, summaries: Mapping[str, ListSummary], texts: Mapping[str, Vocabulary], lists: int
) -> np.ndarray:
    """Which lists may hold a row that passes; never leaves out one that does.

    Parameters
    ----------
    where : a tree of `read_where`. summaries, texts : by column. lists : how many.

    Cost: a few operations a list.
    """
    match where:
        case Constant(value):
            return np.full(lists, value)
        case And(parts):
            return np.logical_and.reduce([may_pass(part, summaries, texts, lists) for part in parts])
        case Or(parts):
            return np.logical_or.reduce([may_pass(part, summaries, texts, lists) for part in parts])
        case IsNull(column, negated):
            known = summaries.get(column)
            if known is None:
                return np.full(lists, not negated)
            return np.ones(lists, dtype=bool) if negated else known.nulls
        case Compare(column) | In(column):
            known = summaries.get(column)
            if known is None:
                return np.zeros(lists, dtype=bool)
            if known.kind in {"integer", "real"}:
                return _numbers(where, known)
            return _codes(where, known, texts.get(column))
    raise TypeError(f"where must be a tree without not, got {where!r}")


def _numbers(where: Compare | In, known: ListSummary) -> np.ndarray:
    some = known.low <= known.high
    if isinstance(where, In):
        if where.negated:
            return some
        wanted = np.sort(np.array([float(value) for value in where.values]))
        return some & (np.searchsorted(wanted, known.low, "left") < np.searchsorted(wanted, known.high, "right"))
    value = float(where.value)
    match where.operator:
        case "=":
            return some & (known.low <= value) & (value <= known.high)
        case "!=":
            return some & ((known.low != value) | (known.high != value))
        case "<" | "<=":
            return some & (known.low <= value)
        case _:
            return some & (known.high >= value)


def _codes(where: Compare | In, known: ListSummary, texts: Vocabulary | None) -> np.ndarray:
    negated = where.negated if isinstance(where, In) else where.operator == "!="
    if negated:
        return known.codes != 0
    values = where.values if isinstance(where, In) else (where.value,)
    bits = np.uint64(0)
    for value in values:
        code = int(bool(value)) if texts is None else texts.code(str(value))
        if code >= 0:
            bits |= np.uint64(1) << np.uint64(code & 63)
    return (known.codes & bits) != 0
