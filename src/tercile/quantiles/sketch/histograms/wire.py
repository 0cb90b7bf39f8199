"""The wire format of protobuf, as far as histograms need it.

A message is a row of fields. Each begins with a number whose last three bits say how what follows is stored. proto2
writes repeated numbers one by one; a reader must take them packed together as well.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def tag(field: int, kind: int) -> bytes:
    """What a field begins with."""
    return varint(field << 3 | kind)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends; ValueError where there is none."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("data is truncated")
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            if value >= 2**64:
                break
            return value, at + i + 1
    raise ValueError("data is damaged: a number of more than 64 bits")


def fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(field, how it is stored, its bytes), fields that nobody knows among them."""
    at = 0
    while at < len(data):
        first, at = read_varint(data, at)
        field, kind = first >> 3, first & 7
        if kind == VARINT:
            end = read_varint(data, at)[1]
        elif kind == BYTES:
            size, at = read_varint(data, at)
            end = at + size
        elif kind in (FIXED64, FIXED32):
            end = at + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError(f"data is damaged: field {field} is stored in a way that does not exist")
        if field == 0 or field >= 2**29:
            raise ValueError(f"data is damaged: there is no field {field}")
        if end > len(data):
            raise ValueError("data is truncated")
        yield field, kind, data[at:end]
        at = end


def varints(data: bytes) -> list[int]:
    """The numbers in a stretch of them."""
    found, at = [], 0
    while at < len(data):
        value, at = read_varint(data, at)
        found.append(value)
    return found


def as_bytes(data: object) -> bytes:
    """TypeError unless it is bytes of some kind."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    return bytes(data)
