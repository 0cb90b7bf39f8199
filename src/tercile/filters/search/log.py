"""The write-ahead log: a change is on the disk, with a checksum, before it is acknowledged.

A file is `MAGIC` and then records: a head of 24 bytes (mark, lengths of header and body, checksum of both, checksum of
the head), a header in JSON, and a body of arrays. A record at the end that is not whole was never acknowledged and is
dropped; a damaged one that others follow is an error.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tercile.filters.search.columns import DTYPES, Column, GrowingTexts

MAGIC = b"TERCILOG\x01\0\0\0\0\0\0\0"
_HEAD = struct.Struct("<4sIQII")
_MARK = b"TREC"


@dataclass(frozen=True)
class Change:
    """Rows that go, by id, and then rows that come."""

    removed: np.ndarray
    ids: np.ndarray
    vectors: np.ndarray
    columns: dict[str, Column] = field(default_factory=dict)


def to_record(change: Change) -> bytes:
    """A change as bytes."""
    columns = []
    arrays = [change.removed.astype("<i8"), change.ids.astype("<i8"), change.vectors.astype("<f4")]
    for name, column in change.columns.items():
        texts = None if column.texts is None else [column.texts[code] for code in range(len(column.texts))]
        columns.append([name, column.kind, column.missing is not None, texts])
        arrays.append(np.ascontiguousarray(column.values))
        if column.missing is not None:
            arrays.append(np.ascontiguousarray(column.missing))
    shape = [len(change.removed), *change.vectors.shape]
    header = json.dumps({"shape": shape, "columns": columns}).encode()
    body = b"".join(array.tobytes() for array in arrays)
    crc = zlib.crc32(body, zlib.crc32(header))
    head = _HEAD.pack(_MARK, len(header), len(body), crc, 0)
    return head[:-4] + struct.pack("<I", zlib.crc32(head[:-4])) + header + body


def read_log(path: Path, start: int = 0) -> tuple[list[Change], int]:
    """Changes from a place in a log on, and where the last whole record ends.

    Raises
    ------
    ValueError : no log, or a damaged record with whole ones after it; the message names the place.
    """
    with path.open("rb") as file:
        begun = file.read(len(MAGIC))
        if begun != MAGIC[: len(begun)] or (len(begun) < len(MAGIC) and start):
            raise ValueError(f"{path} is no log of an index, or one of a newer version")
        if len(begun) < len(MAGIC):
            return [], 0
        file.seek(max(start, len(MAGIC)))
        data = memoryview(file.read())
    changes, at = [], 0
    for begin, end in _whole_records(data):
        if begin != at:
            break
        changes.append(_change(data[begin:end], path, max(start, len(MAGIC)) + begin))
        at = end
    else:
        return changes, max(start, len(MAGIC)) + at
    raise ValueError(
        f"{path} is damaged at byte {max(start, len(MAGIC)) + at:,}, and whole records follow; restore it from a copy"
    )


def _whole_records(data: memoryview) -> Iterator[tuple[int, int]]:
    """Begin and end of each whole record, wherever it stands."""
    at = 0
    while True:
        end = _end(data, at)
        if end:
            yield at, end
            at = end
        else:
            at = _next_mark(data, at + 1)
            if at < 0:
                return


def _next_mark(data: memoryview, at: int) -> int:
    return bytes(data[at:]).find(_MARK) + at if _MARK in bytes(data[at:]) else -1


def _end(data: memoryview, at: int) -> int:
    """Where the record that begins here ends, 0 if it is not whole."""
    if len(data) - at < _HEAD.size:
        return 0
    mark, header, body, crc, head_crc = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + header + body
    whole = mark == _MARK and head_crc == zlib.crc32(data[at : at + _HEAD.size - 4]) and end <= len(data)
    return end if whole and crc == zlib.crc32(data[at + _HEAD.size : end]) else 0


def _change(record: memoryview, path: Path, at: int) -> Change:
    _, header_size, *_ = _HEAD.unpack_from(record)
    body_at = _HEAD.size + header_size
    try:
        header = json.loads(bytes(record[_HEAD.size : body_at]))
        removed_count, rows, dimension = header["shape"]

        def take(dtype: Any, count: int) -> np.ndarray:
            nonlocal body_at
            array = np.frombuffer(record, dtype=dtype, count=count, offset=body_at)
            body_at += array.nbytes
            return array

        removed, ids = take("<i8", removed_count), take("<i8", rows)
        vectors = take("<f4", rows * dimension).reshape(rows, dimension)
        columns = {}
        for name, kind, has_missing, texts in header["columns"]:
            values = take(DTYPES[kind], rows)
            missing = take(np.bool_, rows) if has_missing else None
            columns[name] = Column(kind, values, missing, None if texts is None else GrowingTexts(texts))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a record at byte {at:,} that this version can't read ({error})") from None
    return Change(removed, ids, vectors, columns)
