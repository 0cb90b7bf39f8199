"""Columns of Arrow batches as numpy arrays, and names that were meant."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_COMBINATIONS = 1 << 22
Key = tuple[str | int | float | bool | None, ...]


def as_batches(data: Any) -> Iterator[pa.RecordBatch]:
    """The record batches of anything that is or has an Arrow stream, or of a dict of columns."""
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        yield data
    elif isinstance(data, pa.Table):
        yield from data.to_batches()
    elif isinstance(data, dict):
        yield from pa.table(data).to_batches()
    elif hasattr(data, "__arrow_c_stream__"):
        yield from pa.RecordBatchReader.from_stream(data)
    elif hasattr(data, "fetch_record_batch"):
        yield from data.fetch_record_batch()
    else:
        mend = "; call collect() first" if hasattr(data, "collect") else ""
        raise TypeError(
            f"data must be a pyarrow or polars table, a DuckDB relation or a dict of columns, got "
            f"{type(data).__name__}{mend}"
        )


def find_columns(names: Sequence[str], wanted: Iterable[str]) -> None:
    """ValueError when a wanted column is not among the names; says which name is nearest.

    >>> find_columns(["region", "latency"], ["latncy"])
    Traceback (most recent call last):
    ValueError: there is no column 'latncy'; did you mean 'latency'? There are: region, latency
    """
    for name in wanted:
        if name in names:
            continue
        lowered = {known.lower(): known for known in names}
        near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
        meant = f"; did you mean {lowered[near[0]]!r}?" if near else "."
        shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
        raise ValueError(f"there is no column {name!r}{meant} There are: {shown or 'none'}")


def as_numbers(column: pa.Array, name: str) -> NDArray[Any]:
    """A column as float32 or float64, without a copy where it is one already; nulls become NaN."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_null(kind):
        return np.full(len(column), math.nan)
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise TypeError(f"column {name!r} must hold numbers, got {kind}")
    if not (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(math.nan)
    numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers


def as_codes(columns: Sequence[pa.Array]) -> tuple[NDArray[np.int32], list[Key]]:
    """For each row the number of its group, and for each number the values of the columns."""
    codes, keys = _codes(columns[0])
    tuples: list[Key] = [(key,) for key in keys]
    for column in columns[1:]:
        more, values = _codes(column)
        if len(tuples) * len(values) > _MOST_COMBINATIONS:
            used, joint = np.unique(codes.astype(np.int64) * len(values) + more, return_inverse=True)
        else:
            joint = codes * np.int32(len(values)) + more
            used = np.flatnonzero(np.bincount(joint, minlength=len(tuples) * len(values)))
            number = np.zeros(len(tuples) * len(values), dtype=np.int32)
            number[used] = np.arange(used.size)
            joint = number[joint]
        tuples = [(*tuples[int(pair) // len(values)], values[int(pair) % len(values)]) for pair in used]
        codes = joint.astype(np.int32)
    return _used_only(codes, tuples)


def _codes(column: pa.Array) -> tuple[NDArray[np.int32], list[Any]]:
    """Codes of a column and the plain value of each: text, number, truth or None."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = [_plain(value) for value in column.dictionary.to_pylist()]
    index = column.indices
    if index.null_count:
        index = index.cast(pa.int32()).fill_null(len(values))
        values.append(None)
    codes: NDArray[np.int32] = index.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    if len(set(values)) < len(values):
        where = {value: at for at, value in enumerate(dict.fromkeys(values))}
        codes = np.array([where[value] for value in values], dtype=np.int32)[codes]
        values = list(where)
    return codes, values


def _used_only(codes: NDArray[np.int32], keys: list[Key]) -> tuple[NDArray[np.int32], list[Key]]:
    used = np.flatnonzero(np.bincount(codes, minlength=len(keys)))
    if used.size == len(keys):
        return codes, keys
    number = np.zeros(len(keys), dtype=np.int32)
    number[used] = np.arange(used.size)
    return number[codes], [keys[int(at)] for at in used]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
