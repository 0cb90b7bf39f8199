"""Bytes of a sketch: four letters for its kind, a version, a checksum, and the rest."""

from __future__ import annotations

import struct
import zlib

_BEFORE_BODY = 9


def seal(kind: bytes, version: int, body: bytes) -> bytes:
    """Put `body` into an envelope.

    >>> open_envelope(b"TEST", 1, "test", seal(b"TEST", 1, b"abc"))
    b'abc'
    """
    return kind + struct.pack("<BI", version, zlib.crc32(body)) + body


def open_envelope(kind: bytes, version: int, name: str, data: bytes) -> bytes:
    """The body of an envelope of this kind and version.

    Raises
    ------
    TypeError : data is not bytes.
    ValueError : another kind, a newer version, truncated or damaged.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    data = bytes(data)
    if len(data) < _BEFORE_BODY or data[:4] != kind:
        raise ValueError(f"data is no {name} sketch, or its start is cut off")
    found, checksum = struct.unpack_from("<BI", data, 4)
    if not 1 <= found <= version:
        raise ValueError(f"data has format version {found}, not {version} or below; upgrade tercile")
    body = data[_BEFORE_BODY:]
    if zlib.crc32(body) != checksum:
        raise ValueError("data is truncated or damaged: its checksum does not match")
    return body
