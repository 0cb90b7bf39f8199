"""Units out of a Parquet file, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tercile.filters.data.example import Example, Rejection, excerpt, short_scalars
from tercile.filters.data.pictures import decoded_picture
from tercile.filters.data.records import Reject, choose_column, field_label


def parquet_units(
    path: Path, column: str | None, label_column: str | None, reject: Reject
) -> Iterator[Example]:
    """One unit a row: texts (string or binary), or pictures (struct with encoded ``bytes``, as hubs use).

    The column is `column`, ``text``, or the only one that can hold texts or pictures. Memory: one batch of
    1,024 rows of the columns that are read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            usable = [f.name for f in schema if _is_text(f.type, pa) or _is_picture(f.type, pa)]
            column = choose_column(schema.names, column, str(path), only=usable)
            if label_column is not None:
                choose_column(schema.names, label_column, str(path))
            if column not in usable:
                kind = schema.field(column).type
                raise ValueError(f"{path}: column {column!r} is {kind}, not texts or pictures")
            scalars = [f.name for f in schema if f.name != column and _is_scalar(f.type, pa)]
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[column, *scalars]):
                others = {n: _readable(batch.column(n), pa) for n in batch.schema.names if n != column}
                contents = _plain(batch.column(column), pa)
                for i, content in enumerate(contents):
                    origin = f"{path}:{row}"
                    row += 1
                    record = {n: values[i] for n, values in others.items()}
                    unit = _unit(content, record, origin, label_column, reject)
                    if unit is not None:
                        yield unit
    except (pa.ArrowException, OSError) as error:
        said = str(error).split("\n", maxsplit=1)[0]
        raise ValueError(f"{path}: not Parquet, or truncated or corrupt ({said}); write it again") from error


def _unit(
    content: Any, record: dict[str, Any], origin: str, label_column: str | None, reject: Reject
) -> Example | None:
    raw = content
    try:
        if content is None:
            raise ValueError("the field is null")
        if isinstance(content, dict):
            raw = content.get("bytes") or b""
            try:
                content = decoded_picture(raw)
            except ValueError as error:
                reject(Rejection("undecodable", f"not a picture that can be read: {error}", origin))
                return None
        elif isinstance(content, bytes):
            content = content.decode("utf-8")
        label = field_label(record, label_column)
        return Example(content, label, origin, short_scalars(record, (label_column or "label",)))
    except UnicodeDecodeError as error:
        detail = f"not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
        reject(Rejection("undecodable", detail, origin, excerpt(raw[:400])))
    except ValueError as error:
        reject(Rejection("malformed", str(error), origin))
    return None


def _plain(values: Any, pa: Any) -> list[Any]:
    """Texts as bytes: files exist whose strings are not UTF-8, and each row must answer for itself."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.large_binary() if pa.types.is_large_string(values.type) else pa.binary())
    return list(values.to_pylist())


def _readable(values: Any, pa: Any) -> list[Any]:
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in _plain(values, pa)]


def _is_text(kind: Any, pa: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type, pa)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _is_picture(kind: Any, pa: Any) -> bool:
    return pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)


def _is_scalar(kind: Any, pa: Any) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return any(test(kind) for test in tests) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
