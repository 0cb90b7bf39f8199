"""Which rows pass a filter."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tercile.filters.search.columns import Column, Kind
from tercile.filters.search.where import (
    And,
    Compare,
    Constant,
    In,
    IsNull,
    Or,
    Value,
    Where,
    complaint,
    leaves,
    parse,
    without_not,
)

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

_FEW = 12


def read_where(where: str | Where | None, schema: Mapping[str, Kind]) -> Where | None:
    """Parses a filter and holds it against the columns.

    Parameters
    ----------
    where : text, a tree that was built before, or None for no filter. schema : the kinds of the columns.

    Returns
    -------
    The tree without any `not`, or None.

    Raises
    ------
    ValueError : no filter, a column that does not exist, or a value of another kind than the column's.

    >>> read_where("not year < 2023", {"year": "integer"})
    Compare(column='year', operator='>=', value=2023, position=4)
    """
    if where is None:
        return None
    text = where if isinstance(where, str) else ""
    tree = parse(where) if isinstance(where, str) else where
    if not isinstance(tree, Where):
        raise TypeError(f'where must be a text such as "year >= 2023", got {type(where).__name__}')
    for leaf in leaves(tree):
        if leaf.column not in schema:
            near = difflib.get_close_matches(leaf.column, schema, 1)
            known = f"did you mean {near[0]}?" if near else "there is " + (", ".join(sorted(schema)[:20]) or "none")
            raise complaint(text, leaf.position, f"no column is named {leaf.column!r}; {known}")
        values: Sequence[Value] = ()
        if isinstance(leaf, Compare):
            values = (leaf.value,)
        elif isinstance(leaf, In):
            values = leaf.values
        for value in values:
            _fits(text, leaf, schema[leaf.column], value)
    return without_not(tree)


def passing(where: Where, columns: Mapping[str, Column], rows: int) -> np.ndarray:
    """Which of the rows pass.

    Parameters
    ----------
    where : a tree of `read_where`. columns : those of the rows; one that is absent is missing in every row.
    rows : how many.

    Returns
    -------
    `rows` booleans.

    Cost: one pass over each column for each comparison.

    >>> from tercile.filters.search.columns import read_attributes
    >>> columns, schema = read_attributes({"year": [2022, None, 2024], "lang": ["en", "de", None]}, 3, {})
    >>> passing(read_where("not year > 2023 or lang = 'de'", schema), columns, 3).tolist()
    [True, True, False]
    """
    if isinstance(where, Constant):
        return np.full(rows, where.value)
    if isinstance(where, And | Or):
        join = np.logical_and if isinstance(where, And) else np.logical_or
        mask = passing(where.parts[0], columns, rows)
        for part in where.parts[1:]:
            join(mask, passing(part, columns, rows), out=mask)
        return mask
    assert isinstance(where, Compare | In | IsNull)
    column = columns.get(where.column)
    if column is None:
        return np.full(rows, isinstance(where, IsNull) and not where.negated)
    if isinstance(where, IsNull):
        return ~column.nulls if where.negated else column.nulls.copy()
    mask = _among(column, where.values, where.negated) if isinstance(where, In) else _compared(column, where)
    if column.kind == "integer":  # 0 stands where a value is missing
        if column.missing is not None:
            mask &= ~column.missing
    elif where.negated if isinstance(where, In) else where.operator == "!=":
        mask &= ~column.nulls  # NaN and -1 pass nothing but these
    return mask


def whole_number(comparison: Compare) -> tuple[str, int | None]:
    """A comparison of integers with any number as one with a whole number that means the same, exactly.

    The number is None where nothing (for `<`) or everything (for `>=`) is on that side.

    >>> whole_number(Compare("x", "<", 2.5)), whole_number(Compare("x", "=", 3.0)), whole_number(Compare("x", "=", 2.5))
    (('<', 3), ('=', 3), ('<', None))
    """
    value, sign = comparison.value, comparison.operator
    assert not isinstance(value, str)
    if isinstance(value, float):
        if sign in {"=", "!="}:
            if not value.is_integer():
                return ("<" if sign == "=" else ">="), None
            value = int(value)
        else:
            value = math.ceil(value) if sign in {"<", ">="} else math.floor(value)
    if not -(2**63) <= value < 2**63:
        everything = {"=": False, "!=": True, "<": value > 0, "<=": value > 0, ">": value < 0, ">=": value < 0}[sign]
        return (">=" if everything else "<"), None
    return sign, int(value)


def _compared(column: Column, where: Compare) -> np.ndarray:
    if column.kind == "text":
        assert column.texts is not None and isinstance(where.value, str)
        # No row has a code of -2: a text that is not there equals none.
        code = column.texts.code(where.value)
        return np.asarray(_OPERATORS[where.operator](column.values, -2 if code < 0 else code))
    if column.kind == "boolean":
        return np.asarray(_OPERATORS[where.operator](column.values, int(bool(where.value))))
    if column.kind == "real":
        return np.asarray(_OPERATORS[where.operator](column.values, float(where.value)))
    sign, value = whole_number(where)
    if value is None:
        return np.full(len(column), sign == ">=")
    return np.asarray(_OPERATORS[sign](column.values, value))


def _among(column: Column, values: Sequence[Value], negated: bool) -> np.ndarray:
    wanted: list[float] | list[int]
    if column.kind == "text":
        assert column.texts is not None
        wanted = [code for code in map(column.texts.code, map(str, values)) if code >= 0]
    elif column.kind == "real":
        wanted = [float(value) for value in values]
    else:
        wanted = [int(v) for v in values if v == int(v) and -(2**63) <= v < 2**63]  # type: ignore[arg-type]
    if len(wanted) <= _FEW:  # a pass for each is faster than a table
        mask = np.zeros(len(column), dtype=bool)
        for one in wanted:
            mask |= column.values == one
    else:
        mask = np.isin(column.values, np.array(wanted, dtype=column.values.dtype))
    return np.logical_not(mask, out=mask) if negated else mask


def _fits(text: str, leaf: Compare | In | IsNull, kind: Kind, value: Value) -> None:
    name = leaf.column
    given = f"the text '{value}'" if isinstance(value, str) else str(value).lower()
    if kind == "text" and not isinstance(value, str):
        raise complaint(text, leaf.position, f"{name} holds texts, got {given}; write a text, as in {name} = 'en'")
    if kind == "boolean" and not isinstance(value, bool):
        raise complaint(text, leaf.position, f"{name} holds true or false, got {given}; write {name} or not {name}")
    if kind in {"integer", "real"} and isinstance(value, bool | str):
        raise complaint(text, leaf.position, f"{name} holds numbers, got {given}; compare it, as in {name} >= 1")
    if kind in {"text", "boolean"} and isinstance(leaf, Compare) and leaf.operator not in {"=", "!="}:
        raise complaint(text, leaf.position, f"{name} holds {kind} values, which have no order; use = or !=")
