"""Units out of text, JSONL and CSV streams, one at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tercile.filters.data.example import Example, Label, Rejection, as_label, excerpt, short_scalars
from tercile.filters.data.streams import lines

Reject = Callable[[Rejection], None]
_LONGEST_FIELD = 1 << 26


def text_units(stream: BinaryIO, name: str, unit: str, reject: Reject) -> Iterator[Example]:
    """Lines, or paragraphs (lines between blank ones), of a UTF-8 text; blank lines are no units.

    A line or paragraph that is not UTF-8 is rejected as ``undecodable``.
    """
    paragraph: list[bytes] = []
    start = 0

    def finished() -> Iterator[Example]:
        whole, origin = b"\n".join(paragraph), f"{name}:{start}"
        paragraph.clear()
        try:
            yield Example(whole.decode("utf-8"), origin=origin)
        except UnicodeDecodeError as error:
            reject(_undecodable(error, origin, whole))

    for number, line in lines(stream):
        if line is None:
            reject(Rejection("over-long", "a line of more than 64 MiB", f"{name}:{number}"))
            continue
        blank = not line.strip()
        if paragraph and (blank or unit == "line"):
            yield from finished()
        if not blank:
            start = start if paragraph else number
            paragraph.append(line)
    if paragraph:
        yield from finished()


def text_document(stream: BinaryIO, name: str, reject: Reject) -> Iterator[Example]:
    """The whole stream as one unit."""
    whole = stream.read()
    try:
        yield Example(whole.decode("utf-8"), origin=name)
    except UnicodeDecodeError as error:
        reject(_undecodable(error, name, whole))


def guess_unit(head: bytes) -> str:
    r"""Paragraphs where at least one in twenty lines of the first MiB is blank, else lines.

    (Prose wrapped by hand has a blank line every few; a list of sentences has none, or a stray one.)

    >>> guess_unit(b"wrapped\nprose\n\nand more\nof it\n"), guess_unit(b"one\ntwo\n\n")
    ('paragraph', 'line')
    """
    rows = [not row.strip() for row in head.strip().split(b"\n")]
    return "paragraph" if 20 * sum(rows) >= len(rows) > 1 else "line"


def jsonl_units(
    stream: BinaryIO, name: str, column: str | None, label_column: str | None, reject: Reject
) -> Iterator[Example]:
    """One unit a line: an object with the text in `column` (``text`` by default), or a bare JSON string."""
    for number, line in lines(stream):
        origin = f"{name}:{number}"
        if line is None:
            reject(Rejection("over-long", "a line of more than 64 MiB", origin))
        elif line.strip():
            try:
                record = json.loads(line.decode("utf-8"))
                if isinstance(record, str):
                    record = {column or "text": record}
                if not isinstance(record, dict):
                    raise ValueError("the line is not a JSON object")
                yield record_unit(record, origin, column or "text", label_column)
            except UnicodeDecodeError as error:
                reject(_undecodable(error, origin, line))
            except RecursionError:
                reject(Rejection("malformed", "JSON nested too deeply", origin, excerpt(line[:400])))
            except ValueError as error:
                reject(Rejection("malformed", _said(error), origin, excerpt(line[:400])))


def csv_units(
    stream: BinaryIO,
    name: str,
    column: str | None,
    label_column: str | None,
    reject: Reject,
    delimiter: str = ",",
) -> Iterator[Example]:
    """One unit a row under a header line; the text in `column`, ``text``, or the only column there is."""
    # Undecodable bytes become lone surrogates, so that one bad row does not end the file.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        header = next(reader, None)
        if header is None:
            return
        column = choose_column(header, column, name, only=header)
        if label_column is not None:
            choose_column(header, label_column, name)
        while True:
            origin = f"{name}:{reader.line_num + 1}"
            try:
                row = next(reader, None)
                if row is None:
                    return
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} fields, the header has {len(header)}")
                record: dict[str, Any] = dict(zip(header, row))
                if any("\udc80" <= c <= "\udcff" for c in record[column]):
                    shown = record[column].encode("utf-8", "surrogateescape")
                    reject(Rejection("undecodable", "not UTF-8", origin, excerpt(shown[:400])))
                    continue
                for field in (label_column or "label",):
                    if field in record:
                        record[field] = _whole_number(record[field])
                yield record_unit(record, origin, column, label_column)
            except (csv.Error, ValueError) as error:
                reject(Rejection("malformed", _said(error), origin))
    finally:
        csv.field_size_limit(before)
        text.detach()


def choose_column(names: Sequence[str], asked: str | None, source: str, only: Sequence[str] = ()) -> str:
    """The column that was asked for, or ``text``, or the only one that can be meant.

    >>> choose_column(["id", "text"], None, "a.csv"), choose_column(["quote"], None, "a.csv", only=["quote"])
    ('text', 'quote')
    """
    if asked is not None:
        if asked not in names:
            raise ValueError(f"{source} has no column {asked!r}; there are {', '.join(map(repr, names))}")
        return asked
    if "text" in names:
        return "text"
    if len(only) == 1:
        return only[0]
    raise ValueError(
        f"{source} has no column 'text'; say which to read with column=, one of {', '.join(map(repr, names))}"
    )


def record_unit(record: Mapping[str, Any], origin: str, column: str, label_column: str | None) -> Example:
    """One record as an Example; ValueError where the field is missing or holds no text."""
    if column not in record:
        shown = ", ".join(repr(name) for name in list(record)[:8])
        raise ValueError(f"no field {column!r}; the record has {shown or 'none'}; pass column=")
    content = record[column]
    if not isinstance(content, str):
        raise ValueError(f"field {column!r} holds {type(content).__name__}, not a text")
    label = field_label(record, label_column)
    return Example(content, label, origin, short_scalars(record, (column, label_column or "label")))


def field_label(record: Mapping[str, Any], label_column: str | None) -> Label:
    """The label: strict where the column was named, otherwise ``label`` if it holds one."""
    if label_column is not None:
        if label_column not in record:
            raise ValueError(f"no field {label_column!r}, which was named as the label")
        return as_label(record[label_column])
    try:
        return as_label(record.get("label"))
    except ValueError:
        return None


def _whole_number(text: str) -> int | str:
    """CSV has no types: digits written as a number would be are one."""
    return int(text) if len(text) < 19 and text.lstrip("-").isdecimal() and str(int(text)) == text else text


def _undecodable(error: UnicodeDecodeError, origin: str, raw: bytes) -> Rejection:
    detail = f"not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
    return Rejection("undecodable", detail, origin, excerpt(raw[:400]))


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)
