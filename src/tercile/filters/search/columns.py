"""Attributes as typed columns: integers, reals, booleans and texts, any of them missing."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Kind = Literal["integer", "real", "boolean", "text"]
Value = bool | int | float | str | None
#: The array that a kind is kept in. Missing: NaN in reals, -1 in booleans and in the codes of texts; integers carry a
#: second array that says so.
DTYPES: dict[Kind, Any] = {"integer": np.int64, "real": np.float64, "boolean": np.int8, "text": np.int32}
_OF_TYPE: dict[type, Kind] = {bool: "boolean", int: "integer", float: "real", str: "text"}


class Vocabulary(Protocol):
    """The different texts of a column, by code."""

    def __len__(self) -> int: ...

    def __getitem__(self, code: int, /) -> str: ...

    def code(self, text: str) -> int:
        """The code of a text, -1 if no row has it."""
        ...


class GrowingTexts:
    """Texts in the order of their arrival; a code stays what it is for good."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts: list[str] = []
        self._codes: dict[str, int] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, code: int) -> str:
        return self._texts[code]

    def code(self, text: str) -> int:
        """The code of a text, -1 if it has none."""
        return self._codes.get(text, -1)

    def add(self, text: str) -> int:
        """The code of a text, a new one if need be."""
        code = self._codes.setdefault(text, len(self._texts))
        if code == len(self._texts):
            self._texts.append(text)
        return code


class SortedTexts(Sequence[str]):
    """Texts in order, as UTF-8 in one array and the ends of each in another: found by bisection, where they lie."""

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> SortedTexts:
        """Sorts different texts."""
        encoded = sorted(text.encode("utf-8", "surrogatepass") for text in texts)
        data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(data, np.cumsum([0, *map(len, encoded)], dtype=np.int64))

    def __len__(self) -> int:
        return max(0, len(self.ends) - 1)

    def __getitem__(self, code: Any) -> Any:
        return self._bytes(int(code)).decode("utf-8", "surrogatepass")

    def _bytes(self, code: int) -> bytes:
        return bytes(self.data[self.ends[code] : self.ends[code + 1]])

    def code(self, text: str) -> int:
        """The code of a text, -1 if no row has it. Cost: a logarithm of their number."""
        wanted = text.encode("utf-8", "surrogatepass")
        at = bisect.bisect_left(range(len(self)), wanted, key=self._bytes)
        return at if at < len(self) and self._bytes(at) == wanted else -1


@dataclass(frozen=True)
class Column:
    """One attribute of n rows.

    `values` has the dtype that `DTYPES` names, `missing` is None or n booleans (integers only), `texts` the vocabulary
    of a column of texts.
    """

    kind: Kind
    values: np.ndarray
    missing: np.ndarray | None = None
    texts: Vocabulary | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> Column:
        missing = None if self.missing is None else self.missing[rows]
        return Column(self.kind, self.values[rows], missing, self.texts)

    @property
    def nulls(self) -> np.ndarray:
        """Which rows have no value."""
        if self.kind == "real":
            return np.isnan(self.values)
        if self.kind == "integer":
            return np.zeros(len(self), dtype=bool) if self.missing is None else np.asarray(self.missing)
        return self.values < 0

    def python(self) -> Iterator[Value]:
        """The values as Python knows them, None where missing."""
        for value, null in zip(self.values.tolist(), self.nulls.tolist()):
            if null:
                yield None
            elif self.kind == "boolean":
                yield bool(value)
            elif self.kind == "text":
                assert self.texts is not None
                yield self.texts[value]
            else:
                yield value


def nothing(kind: Kind, rows: int) -> Column:
    """A column without a single value."""
    if kind == "integer":
        return Column(kind, np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool))
    fill = np.nan if kind == "real" else -1
    return Column(kind, np.full(rows, fill, dtype=DTYPES[kind]), None, GrowingTexts() if kind == "text" else None)


def read_attributes(
    attributes: Mapping[str, Any] | None, rows: int, schema: Mapping[str, Kind]
) -> tuple[dict[str, Column], dict[str, Kind]]:
    """Checks attributes against the columns so far; new names open new columns.

    Parameters
    ----------
    attributes : a sequence or array of `rows` values for each name: integers, reals, booleans or texts, None (or NaN)
        where missing. schema : the kinds of the columns so far.

    Returns
    -------
    The columns given, and the schema with the new ones. Texts are coded by vocabularies of their own.

    Raises
    ------
    TypeError, ValueError : a wrong length, a mixture of types, or another kind than the column's; names the column, the
        value and the mend.

    >>> columns, schema = read_attributes({"year": [2023, None]}, 2, {})
    >>> list(columns["year"].python()), schema
    ([2023, None], {'year': 'integer'})
    """
    read: dict[str, Column] = {}
    kinds = dict(schema)
    if attributes is not None and not isinstance(attributes, Mapping):
        raise TypeError(
            f'attributes must be a mapping such as {{"year": [2023, 2024]}}, got {type(attributes).__name__}'
        )
    for name, values in (attributes or {}).items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"attributes must be named by texts that are not empty, got {name!r}")
        column = _column(name, values, kinds.get(name))
        if column is None:
            continue
        if len(column) != rows:
            raise ValueError(f"attributes[{name!r}] has {len(column):,} values for {rows:,} vectors; give one for each")
        read[name] = column
        kinds[name] = column.kind
    return read, kinds


def _column(name: str, values: Any, wanted: Kind | None) -> Column | None:
    if isinstance(values, (str, bytes)):
        raise TypeError(f"attributes[{name!r}] must be a sequence of values, got one text; write [{values!r}]")
    if not isinstance(values, np.ndarray) and hasattr(values, "to_pylist"):
        values = values.to_pylist()
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim != 1:
        raise ValueError(f"attributes[{name!r}] must have one dimension, got shape {array.shape}")
    if array is None or array.dtype.kind in "OUST":
        return _of_objects(name, [*(values if array is None else array.tolist())], wanted)
    kinds: dict[str, Kind] = {"b": "boolean", "i": "integer", "u": "integer", "f": "real"}
    kind = kinds.get(array.dtype.kind)
    if kind is None:
        raise TypeError(
            f"attributes[{name!r}] must hold numbers, booleans or texts, got {array.dtype}; convert it, "
            "dates to a year or the number of a day"
        )
    if array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        raise ValueError(f"attributes[{name!r}] has {array.max()}, which does not fit in 64 bits with a sign")
    if wanted == "real" and kind == "integer":
        kind = "real"
    _same_kind(name, kind, wanted, array[0] if array.size else "nothing")
    return Column(kind, array.astype(DTYPES[kind]))


def _of_objects(name: str, values: list[Any], wanted: Kind | None) -> Column | None:
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    values = [None if value is None or value != value else value for value in values]
    types = {type(value) for value in values} - {type(None)}
    if not types:
        return None if wanted is None else nothing(wanted, len(values))
    kind = "real" if types == {int, float} else _OF_TYPE.get(next(iter(types))) if len(types) == 1 else None
    if kind is None:
        odd = next(v for v in values if v is not None and (type(v) not in _OF_TYPE or type(v) is not type(values[0])))
        raise TypeError(
            f"attributes[{name!r}] must hold numbers, booleans or texts, all of one kind, got {odd!r} among them; "
            "convert it, or give None where there is no value"
        )
    if wanted == "real" and kind == "integer":
        kind = "real"
    _same_kind(name, kind, wanted, next(v for v in values if v is not None))
    null = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
    if kind == "text":
        texts = GrowingTexts()
        codes = np.array([-1 if value is None else texts.add(value) for value in values], dtype=np.int32)
        return Column(kind, codes, None, texts)
    if kind == "integer":
        try:
            whole = np.array([0 if value is None else value for value in values], dtype=np.int64)
        except OverflowError:
            raise ValueError(f"attributes[{name!r}] holds a number that does not fit in 64 bits") from None
        return Column(kind, whole, null if null.any() else None)
    fill = np.nan if kind == "real" else -1
    return Column(kind, np.array([fill if value is None else value for value in values], dtype=DTYPES[kind]))


def _same_kind(name: str, kind: Kind, wanted: Kind | None, value: Any) -> None:
    if wanted is not None and kind != wanted:
        raise TypeError(
            f"attributes[{name!r}] holds {wanted} values so far, got {value!r}; give {wanted} values or None"
        )
