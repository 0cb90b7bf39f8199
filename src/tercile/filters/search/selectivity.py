"""What share of the rows a filter lets through, guessed from sketches and counts instead of looking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercile.filters.search.columns import Column, Kind
from tercile.filters.search.where import And, Compare, Constant, In, IsNull, Or, Value, Where
from tercile.quantiles.sketch import KLL

#: Texts that are counted one by one; the others share what is left evenly.
COUNTED = 1000


@dataclass(frozen=True)
class ColumnShares:
    """What is known of one column: rows in all, rows without a value, and the rest as a sketch or as counts."""

    rows: int
    nulls: int
    sketch: KLL | None = None
    counts: Mapping[Value, int] | None = None
    others: int = 0
    other_values: int = 0

    @classmethod
    def of(cls, pieces: Iterable[Column]) -> ColumnShares:
        """Reads a column, piece by piece.

        Cost: one pass; the memory of a sketch or of the different values.
        """
        rows = nulls = 0
        sketch = KLL(k=400, random_state=0)
        counted: np.ndarray | None = None
        kind: Kind | None = None
        texts: Any = None
        for piece in pieces:
            kind, texts = piece.kind, piece.texts
            null = piece.nulls
            rows, nulls = rows + len(piece), nulls + int(null.sum())
            if kind in {"integer", "real"}:
                sketch.update(piece.values[~null] if nulls else piece.values)
            else:
                here = np.bincount(piece.values[~null], minlength=2 if texts is None else len(texts))
                counted = here if counted is None else counted + here
        if counted is None:
            return cls(rows, nulls, sketch)
        if kind == "boolean":
            return cls(rows, nulls, counts={False: int(counted[0]), True: int(counted[1])})
        most = np.argsort(counted, kind="stable")[::-1][:COUNTED]
        counts: dict[Value, int] = {texts[int(code)]: int(counted[code]) for code in most if counted[code]}
        others = int(counted.sum()) - sum(counts.values())
        return cls(rows, nulls, None, counts, others, int((counted > 0).sum()) - len(counts))

    def equal(self, value: Value) -> float:
        """Share of all rows that have this value."""
        if self.counts is not None:
            rare = self.others / self.other_values if self.other_values else 0.0
            return self.counts.get(value, rare) / max(self.rows, 1)
        assert value is not None and not isinstance(value, str)
        return self.up_to(value) - self.up_to(np.nextafter(float(value), -math.inf))

    def up_to(self, value: float) -> float:
        """Share of all rows that have a value of at most this."""
        if self.sketch is None or not self.sketch.count:
            return 0.0
        return float(self.sketch.rank(float(value))) * (1 - self.nulls / self.rows)

    def to_plain(self) -> dict[str, Any]:
        """As JSON can hold it, the sketch as hexadecimal."""
        plain: dict[str, Any] = {"rows": self.rows, "nulls": self.nulls}
        if self.sketch is not None:
            return plain | {"sketch": self.sketch.to_bytes().hex()}
        assert self.counts is not None
        return plain | {"counts": list(self.counts.items()), "others": [self.others, self.other_values]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ColumnShares:
        """What `to_plain` gave."""
        if "sketch" in plain:
            return cls(plain["rows"], plain["nulls"], KLL.from_bytes(bytes.fromhex(plain["sketch"])))
        return cls(plain["rows"], plain["nulls"], None, dict(plain["counts"]), *plain["others"])


def estimated_share(where: Where | None, shares: Mapping[str, ColumnShares]) -> float:
    """The share of rows that pass, as if columns had nothing to do with each other.

    Parameters
    ----------
    where : a tree of `read_where`. shares : by column; one that is absent has no values.

    Returns
    -------
    Between 0 and 1. An estimate: correlated columns can make it wrong by any factor.

    Cost: a few look-ups in a sketch for each comparison.
    """
    match where:
        case None:
            return 1.0
        case Constant(value):
            return float(value)
        case And(parts):
            return _both(parts, shares)
        case Or(parts):
            return 1.0 - math.prod(1.0 - estimated_share(part, shares) for part in parts)
        case Compare() | In() | IsNull():
            share = shares.get(where.column)
            if share is None:
                return float(isinstance(where, IsNull) and not where.negated)
            return min(1.0, max(0.0, _of_leaf(where, share)))
    raise TypeError(f"where must be a tree without not, got {where!r}")


def _both(parts: tuple[Where, ...], shares: Mapping[str, ColumnShares]) -> float:
    """Two limits on one column make an interval; different columns multiply."""
    product = 1.0
    ends: dict[str, list[Compare]] = {}
    for part in parts:
        share = shares.get(part.column) if isinstance(part, Compare) else None
        if isinstance(part, Compare) and part.operator in {"<", "<=", ">", ">="} and share is not None:
            ends.setdefault(part.column, []).append(part)
        else:
            product *= estimated_share(part, shares)
    for column, limits in ends.items():
        present = 1 - shares[column].nulls / max(shares[column].rows, 1)
        cut = sum(present - _of_leaf(limit, shares[column]) for limit in limits)
        product *= min(1.0, max(0.0, present - cut))
    return product


def _of_leaf(where: Compare | In | IsNull, share: ColumnShares) -> float:
    nulls = share.nulls / max(share.rows, 1)
    if isinstance(where, IsNull):
        return 1 - nulls if where.negated else nulls
    if isinstance(where, In):
        among = sum(share.equal(value) for value in set(where.values))
        return 1 - nulls - among if where.negated else among
    sign, value = where.operator, where.value
    if sign in {"=", "!="}:
        return share.equal(value) if sign == "=" else 1 - nulls - share.equal(value)
    assert not isinstance(value, str)
    low = share.up_to(value if sign in {"<=", ">"} else float(np.nextafter(float(value), -math.inf)))
    return low if sign in {"<", "<="} else 1 - nulls - low
