"""Files as Arrow batches: Parquet, Arrow, CSV, plain or compressed, and standard input."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from tercile.quantiles.tables.columns import find_columns

if TYPE_CHECKING:
    import pyarrow as pa

STATE = b"TGRP"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_NULLS = ["", "NA", "null", "NULL"]
_BATCH_ROWS = 1 << 20
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """One file: what it is, and how far it goes. `parts` are the pieces that can be read side by side."""

    path: str
    kind: str
    parts: int
    size: int | None

    def batches(
        self, columns: Sequence[str], by: Sequence[str], part: int, read: Callable[[int], None]
    ) -> Iterator[pa.RecordBatch]:
        """The batches of one part with the wanted columns; `read` is told of each further stretch of bytes read."""
        with _named(self.path):
            if self.kind == "parquet":
                yield from _parquet(self, columns, by, part, read)
            elif self.kind == "arrow":
                yield from _arrow(self.path, [*columns, *by], read)
            else:
                yield from _csv(self.path, columns, by, read)


def open_source(path: str) -> Source:
    """Look at the first bytes of a file.

    Raises
    ------
    FileNotFoundError, ValueError : no such file, an empty one, or one cut off at its end.
    """
    if path == "-":
        return Source(path, "stream", 1, None)
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; give its files, such as {path.rstrip('/')}/*.parquet")
    with open(path, "rb") as file:
        start = file.read(8)
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError(f"{path} is empty")
    if start[:4] == STATE:
        return Source(path, "state", 1, size)
    if start[:4] == b"PAR1":
        import pyarrow.parquet as pq

        with _named(path):
            return Source(path, "parquet", max(1, pq.ParquetFile(path).num_row_groups), size)
    if start[:6] == b"ARROW1" or start[:4] == b"\xff\xff\xff\xff":
        return Source(path, "arrow", 1, size)
    return Source(path, "csv", 1, size)


def names_of(source: Source) -> list[str] | None:
    """The names of the columns; None for standard input, which can be read only once."""
    with _named(source.path):
        if source.kind == "parquet":
            import pyarrow.parquet as pq

            return list(pq.ParquetFile(source.path).schema_arrow.names)
        if source.kind == "csv":
            with open(source.path, "rb") as file:
                return _header(_peekable(file))[0]
    return None


def _parquet(
    source: Source, columns: Sequence[str], by: Sequence[str], part: int, read: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Text to group by stays in its dictionary, so that a row costs an integer and not a string.
    schema = pq.ParquetFile(source.path).schema_arrow
    find_columns(schema.names, [*columns, *by])
    text = [name for name in by if pa.types.is_string(schema.field(name).type)]
    file = pq.ParquetFile(source.path, read_dictionary=text, memory_map=True)
    if file.num_row_groups == 0:
        return
    rows = max(1, file.metadata.row_group(part).num_rows)
    share = (source.size or 0) / source.parts
    for batch in file.iter_batches(_BATCH_ROWS, [part], [*columns, *by], use_threads=False):
        read(int(share * batch.num_rows / rows))
        yield batch


def _arrow(path: str, wanted: list[str], read: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    with pa.OSFile(path) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            find_columns(reader.schema.names, wanted)
            for at in range(reader.num_record_batches):
                yield reader.get_batch(at).select(wanted)
                read(file.size() // reader.num_record_batches)
            return
        file.seek(0)
        yield from _arrow_stream(file, wanted, read)


def _arrow_stream(file: Any, wanted: list[str], read: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    stream = pa.ipc.open_stream(file)
    find_columns(stream.schema.names, wanted)
    for batch in stream:
        yield batch.select(wanted)
        read(batch.nbytes)


def _csv(path: str, columns: Sequence[str], by: Sequence[str], read: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    with _counted(path, read) as raw:
        file = _peekable(raw)
        if path == "-" and file.peek(4)[:4] == b"\xff\xff\xff\xff":
            import pyarrow as pa

            yield from _arrow_stream(pa.PythonFile(file, "r"), [*columns, *by], lambda _: None)
            return
        if path == "-" and file.peek(4)[:4] == b"PAR1":
            raise ValueError("a Parquet file is read from its end, so not from standard input; give the file itself")
        names, delimiter = _header(file)
        find_columns(names, [*columns, *by])
        try:
            yield from _csv_batches(file, delimiter, columns, by)
        except ValueError as error:
            refused = re.search(r"column #(\d+): .* invalid value (.*)", str(error))
            if refused is None:
                raise
            raise ValueError(f"column {names[int(refused[1])]!r} must hold numbers, and holds {refused[2]}") from error


def _csv_batches(file: Any, delimiter: str, columns: Sequence[str], by: Sequence[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    types = {**dict.fromkeys(columns, pa.float64()), **dict.fromkeys(by, pa.string())}
    options = arrow_csv.ConvertOptions(
        include_columns=[*columns, *by],
        column_types=types,
        strings_can_be_null=True,
        null_values=_NULLS,
    )
    reading = arrow_csv.ReadOptions(block_size=_BLOCK_BYTES)
    parsing = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=False)
    reader = arrow_csv.open_csv(pa.PythonFile(file, "r"), reading, parsing, options)
    yield from reader


def _header(file: Any) -> tuple[list[str], str]:
    """The names in the first line, which stays unread, and what stands between them."""
    start = file.peek(1 << 16)
    if not start:
        raise ValueError("there is nothing in it")
    if b"\0" in start[:1024]:
        raise ValueError("this is neither Parquet, Arrow nor CSV")
    line = start.decode("utf-8-sig", errors="replace").splitlines()[0]
    delimiter = max(",\t;|", key=line.count) if any(mark in line for mark in ",\t;|") else ","
    return next(csv.reader([line], delimiter=delimiter)), delimiter


def _peekable(file: Any) -> Any:
    """The file, decompressed when its first bytes say that it is compressed, with a look ahead."""
    raw = io.BufferedReader(file, 1 << 20)
    start = raw.peek(8)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            import pyarrow as pa

            return io.BufferedReader(_Plain(pa.CompressedInputStream(pa.PythonFile(raw, "r"), name)), 1 << 20)
    return raw


class _Plain(io.RawIOBase):
    """A stream of pyarrow as one of Python."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Counting(io.RawIOBase):
    """A file that tells how much of it has been read."""

    def __init__(self, file: IO[bytes], read: Callable[[int], None]) -> None:
        self._file, self._read = file, read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._read(size)
        return size


@contextmanager
def _counted(path: str, read: Callable[[int], None]) -> Iterator[Any]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(path, "rb", buffering=0) as file:
        yield _Counting(file, read)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Put the name of the file before what went wrong in it."""
    name = "standard input" if path == "-" else path
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (ValueError, OSError, KeyError) as error:  # pyarrow's errors are kinds of these
        said = " ".join(str(error).split())
        hint = ""
        if "Parquet" in said and ("magic" in said or "footer" in said):
            hint = "; the file ends too early: was it still being written?"
        elif any(
            word in said.lower()
            for word in ("truncated", "not an arrow file", "unexpected end", "premature", "decompress")
        ):
            hint = "; the file ends too early or is damaged"
        raise ValueError(f"{name}: {said}{hint}") from error
