"""Bytes in, bounded lines out: files, gzip and standard input look alike from here on."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

# How much of a stream is looked at to tell what it holds.
HEAD = 1 << 20
# A line longer than this is not one unit of anything; it is skipped without being held in memory.
LONGEST_LINE = 64 << 20


@contextmanager
def file_errors(name: str) -> Iterator[None]:
    """Turn what goes wrong below (truncated gzip, failing disk) into one ValueError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"{name}: the gzip data is truncated or corrupt ({error}); fetch the file again"
        raise ValueError(message) from error
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or error})") from error


def unwrapped(stream: BinaryIO, name: str) -> tuple[bytes, BinaryIO]:
    """The first MiB and the whole stream, both after gzip is undone and a UTF-8 mark is dropped.

    >>> unwrapped(io.BytesIO(gzip.compress(b"one")), "x")[1].read()
    b'one'
    """
    head, stream = _peeked(stream)
    if head.startswith(b"\x1f\x8b"):
        head, stream = _peeked(cast(BinaryIO, gzip.GzipFile(fileobj=stream)))
    for mark, encoding in (
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if head.startswith(mark):
            raise ValueError(f"{name} is {encoding.upper()} text; convert it: iconv -f {encoding} -t utf-8")
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
        head = head[3:]
    return head, stream


def looks_like(head: bytes) -> str:
    """What a stream holds, by its first bytes: parquet, npz, array (one JSON array), jsonl or text.

    >>> looks_like(b'{"text": "a"}'), looks_like(b"{braces} in prose")
    ('jsonl', 'text')
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    first, _, rest = head.lstrip().partition(b"\n")
    if first.startswith(b"[") and first.lstrip(b"[ \t\r").startswith((b"{", b'"')):
        return "array"
    if first.startswith(b"[") and not first[1:].strip() and rest.lstrip().startswith((b"{", b'"')):
        return "array"
    if first.startswith(b"{"):
        if not rest and len(head) >= HEAD:
            return "jsonl"
        try:
            return "jsonl" if isinstance(json.loads(first), dict) else "text"
        except (ValueError, RecursionError):
            # A broken first record is still a record: a quoted name follows the brace.
            return "jsonl" if first[1:].lstrip().startswith(b'"') else "text"
    return "text"


def lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    r"""Numbered lines without their ends; None stands for a line longer than 64 MiB.

    >>> list(lines(io.BytesIO(b"a\r\n\nb")))
    [(1, b'a'), (2, b''), (3, b'b')]
    """
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield number, line.rstrip(b"\r\n")
            continue
        while rest := stream.readline(LONGEST_LINE):
            if rest.endswith(b"\n"):
                break
        yield number, None


def _peeked(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """The first MiB, and a stream that still begins with it; pipes cannot seek back."""
    head = b""
    while len(head) < HEAD and (more := stream.read(HEAD - len(head))):
        head += more
    return head, cast(BinaryIO, io.BufferedReader(_Rejoined(head, stream), 1 << 17))


class _Rejoined(io.RawIOBase):
    """What was read already, then the rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        chunk = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(chunk) :] if self._head else b""
        buffer[: len(chunk)] = chunk
        return len(chunk)
