"""One way in for every kind of data: a stream of Examples, and the reason for each unit turned away."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tercile.filters.data.columns import parquet_units
from tercile.filters.data.example import Example, Rejection, as_label, short_scalars
from tercile.filters.data.pictures import PICTURE_SUFFIXES, npz_units, picture_units
from tercile.filters.data.records import (
    Reject,
    csv_units,
    field_label,
    guess_unit,
    jsonl_units,
    text_document,
    text_units,
)
from tercile.filters.data.streams import file_errors, looks_like, unwrapped

Source = str | os.PathLike[str] | Iterable[Any]
UNITS = ("line", "paragraph", "file")
_KINDS = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".npz": "npz",
    **dict.fromkeys(PICTURE_SUFFIXES, "picture"),
}
# What people put beside their data.
_ASIDE = ("readme", "license", "licence", "copying", "notice", "changelog")


def read(
    source: Source,
    *,
    column: str | None = None,
    label_column: str | None = None,
    unit: str | None = None,
    rejected: Callable[[Rejection], None] | None = None,
) -> Iterator[Example]:
    """Stream the units of a source, whatever its kind.

    Parameters
    ----------
    source : path, "-" or iterable
        - a text file: a unit is a paragraph where at least one in twenty lines of the first MiB is blank,
          otherwise a line;
        - JSONL (``.jsonl``, ``.ndjson``, ``.json``): an object or a string a line; CSV, TSV: with a header;
          Parquet: texts, or encoded pictures; ``.npz``: arrays ``images`` and ``labels``;
        - a folder: of texts (a unit a file), of pictures (subfolders are labels), or of any one of the
          files above, read in order of their names;
        - ``-``: standard input, text or JSONL, told apart by the first line;
        - an iterable of str, dict, array, (str or array, label) or Example.
        Text, JSONL and CSV may be gzipped, under any name. All text is UTF-8.
    column, label_column : str, optional
        Where content and label are in records; ``text`` and, where there is one, ``label`` by default.
    unit : {"line", "paragraph", "file"}, optional
        What a unit of a text is, instead of the rule above.
    rejected : callable, optional
        Called with a Rejection for each record that cannot be read (undecodable, malformed, over 64 MiB).
        Without it the first such record is a ValueError.

    Yields
    ------
    Example
        Memory: one record, or one batch of 1,024 Parquet rows; an .npz is held whole.

    Raises
    ------
    ValueError
        A file that is missing, empty, of no known kind, truncated, or without one usable unit.
    TypeError
        A source or an item of an iterable of no known type.

    >>> [(e.content, e.label) for e in read(["one", ("two", 1), {"text": "three", "label": "a"}])]
    [('one', None), ('two', 1), ('three', 'a')]
    """
    if unit is not None and unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)} or None, got {unit!r}")
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        if name != "-":
            _check_path(Path(name))
    elif isinstance(source, (bytes, Mapping)) or not isinstance(source, Iterable):
        raise TypeError(f"source must be a path, '-' or an iterable of examples, got {type(source).__name__}")
    else:
        name = "the iterable"

    def units(reject: Reject) -> Iterator[Example]:
        if not isinstance(source, (str, os.PathLike)):
            return _iterable(source, column, label_column, reject)
        if name == "-":
            return _stream(sys.stdin.buffer, "stdin", None, (column, label_column, unit), reject)
        return _path(Path(name), (column, label_column, unit), reject)

    return _at_least_one(units, "stdin" if name == "-" else name, rejected)


def _at_least_one(
    units: Callable[[Reject], Iterator[Example]], name: str, rejected: Callable[[Rejection], None] | None
) -> Iterator[Example]:
    """Pass the units on; complain when there was none, for the first reason there was."""
    first: list[Rejection] = []
    turned_away = passed = 0

    def reject(rejection: Rejection) -> None:
        nonlocal turned_away
        turned_away += 1
        first.extend([] if first else [rejection])
        if rejected is None:
            raise ValueError(f"{rejection}; pass rejected= to go on without such units")
        rejected(rejection)

    for example in units(reject):
        passed += 1
        yield example
    if not passed and first:
        raise ValueError(f"{name} has no usable unit: {turned_away} turned away, the first as {first[0]}")
    if not passed:
        raise ValueError(f"{name} is empty: there is no unit in it")


Options = tuple[str | None, str | None, str | None]


def _path(path: Path, options: Options, reject: Reject) -> Iterator[Example]:
    return _folder(path, options, reject) if path.is_dir() else _file(path, options, reject)


def _check_path(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file, a folder, or - for standard input")
    if not (path.is_dir() or path.is_file() or path.is_fifo()):
        raise ValueError(f"{path} is neither a file nor a folder")


def _file(path: Path, options: Options, reject: Reject) -> Iterator[Example]:
    column, label_column, _ = options
    kind = _kind(path)
    if kind == "picture":
        raise ValueError(f"{path} is one picture; give the folder that holds them all")
    if kind == "parquet":
        yield from parquet_units(path, column, label_column, reject)
    elif kind == "npz":
        yield from npz_units(path, column, label_column)
    else:
        with file_errors(str(path)), path.open("rb") as stream:
            yield from _stream(stream, str(path), kind, options, reject)


def _stream(
    stream: BinaryIO, name: str, kind: str | None, options: Options, reject: Reject
) -> Iterator[Example]:
    column, label_column, unit = options
    with file_errors(name):
        head, stream = unwrapped(stream, name)
        found = looks_like(head)
        if kind is None and found in ("parquet", "npz"):
            if name == "stdin":
                raise ValueError(f"stdin holds {found}, which cannot be streamed; save it and give the file")
            if found == "parquet":
                yield from parquet_units(Path(name), column, label_column, reject)
            else:
                yield from npz_units(Path(name), column, label_column)
            return
        if kind in (None, "jsonl") and found == "array":
            raise ValueError(f"{name} is one JSON array; write one object a line: jq -c '.[]' IN > OUT.jsonl")
        if b"\0" in head[:4096] and kind != "jsonl":
            raise ValueError(f"{name} is not text (it has NUL bytes); text must be UTF-8")
        if kind in ("csv", "tsv"):
            yield from csv_units(stream, name, column, label_column, reject, "," if kind == "csv" else "\t")
        elif kind == "jsonl" or (kind is None and found == "jsonl"):
            yield from jsonl_units(stream, name, column, label_column, reject)
        elif unit == "file":
            yield from text_document(stream, name, reject)
        else:
            yield from text_units(stream, name, unit or guess_unit(head), reject)


def _folder(root: Path, options: Options, reject: Reject) -> Iterator[Example]:
    by_kind: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        aside = path.name.lower().startswith(_ASIDE)
        kind = _kind(path)
        if kind is not None and not hidden and not aside and path.is_file():
            by_kind.setdefault(kind, []).append(path)
    if not by_kind:
        raise ValueError(f"{root} holds no file that can be read as data ({', '.join(sorted(_KINDS))})")
    if len(by_kind) > 1:
        shown = ", ".join(f"{len(files)} {kind}" for kind, files in sorted(by_kind.items()))
        raise ValueError(f"{root} holds files of several kinds ({shown}); give one kind, or one file")
    ((kind, files),) = by_kind.items()
    if kind == "picture":
        yield from picture_units(files, root, reject)
        return
    column, label_column, unit = options
    for path in files:
        yield from _file(path, (column, label_column, unit or "file"), reject)


def _kind(path: Path) -> str | None:
    """By the name's ending, `.gz` aside; None where it says nothing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None


def _iterable(
    items: Iterable[Any], column: str | None, label_column: str | None, reject: Reject
) -> Iterator[Example]:
    for i, item in enumerate(items):
        origin = f"item {i}"
        if isinstance(item, Example):
            yield item
            continue
        label: object = None
        metadata: dict[str, Any] = {}
        content: object = item
        try:
            if isinstance(item, Mapping):
                field = column or next((n for n in ("text", "image") if n in item), "text")
                if field not in item:
                    names = ", ".join(map(repr, item))
                    raise ValueError(f"no field {field!r}; the record has {names}; pass column=")
                content, label = item[field], field_label(item, label_column)
                metadata = short_scalars(item, (field, label_column or "label"))
            elif isinstance(item, tuple) and len(item) == 2:
                content, label = item[0], as_label(item[1])
        except ValueError as error:
            reject(Rejection("malformed", str(error), origin))
            continue
        yield Example(_content(content, i), as_label(label), origin, metadata)


def _content(content: object, i: int) -> str | np.ndarray:
    if isinstance(content, str):
        return content
    # Arrays of any library (tensors on the CPU, pictures of Pillow) offer this.
    if hasattr(content, "__array__") and not np.isscalar(content):
        array = np.asarray(content)
        if array.ndim:
            return array
    raise TypeError(
        f"item {i} is {type(content).__name__}; an example is a str, an array, a dict with 'text', "
        "or a pair (str or array, label)"
    )
