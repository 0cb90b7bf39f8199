"""A Selection as bytes and back: gzipped JSON lines for texts, an .npz for arrays, both sealed.

The seal is a BLAKE2b of every byte before it, put where other tools skip it: in a gzip member of its own
(``zcat`` prints it as the last line), or in the zip comment.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from tercile.filters.data.example import Example
from tercile.filters.data.selection import Selection, from_parts, header
from tercile.filters.data.sides import SIDES


def packed(chosen: Selection) -> bytes:
    """The bytes of the file; the same for the same selection.

    >>> chosen = Selection((), (), (Example("a", origin="x:1"),), seed=1, read=1, kept=1)
    >>> unpacked(packed(chosen), "memory") == chosen
    True
    """
    units = [(side, example) for side in SIDES for example in getattr(chosen, side)]
    kinds = {isinstance(example.content, str) for _, example in units}
    if len(kinds) > 1:
        raise ValueError("a selection of both texts and arrays cannot be saved; select them separately")
    return _packed_arrays(chosen, units) if kinds == {False} else _packed_texts(chosen, units)


def unpacked(data: bytes, name: str) -> Selection:
    """The selection in the bytes of a file called `name`; ValueError when a byte of it has changed."""
    if data[:2] == b"\x1f\x8b":
        body, seal, right = data[:-_GZIP_SEAL], data[-_GZIP_SEAL:], _gzip_seal
    elif data[:2] == b"PK":
        body, seal, right = data[:-_DIGEST], data[-_DIGEST:], _digest
    else:
        raise ValueError(f"{name} is not a saved selection")
    if seal != right(body):
        raise ValueError(f"{name} is damaged: its checksum is not that of its bytes; select again")
    return _unpacked_texts(body) if data[:2] == b"\x1f\x8b" else _unpacked_arrays(data)


def _packed_texts(chosen: Selection, units: list[tuple[str, Example]]) -> bytes:
    rows = [header(chosen)]
    rows += [json.dumps({**_row(side, example), "text": example.content}) for side, example in units]
    # mtime=0 and no file name: the same content gives the same bytes.
    body = gzip.compress("".join(row + "\n" for row in rows).encode("ascii"), compresslevel=6, mtime=0)
    return body + _gzip_seal(body)


def _unpacked_texts(body: bytes) -> Selection:
    head, *rows = map(json.loads, gzip.decompress(body).decode("ascii").splitlines())
    return from_parts(head, _sides(rows, [row.pop("text") for row in rows]))


def _packed_arrays(chosen: Selection, units: list[tuple[str, Example]]) -> bytes:
    rows = [json.dumps(_row(side, example)) for side, example in units]
    text = "".join(row + "\n" for row in [header(chosen), *rows])
    arrays: list[tuple[str, np.ndarray]] = [("records", np.frombuffer(text.encode("ascii"), np.uint8))]
    arrays += [(f"{i:08d}", np.asarray(example.content)) for i, (_, example) in enumerate(units)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays:
            # ZipInfo dates a member 1980 unless told otherwise: the same content gives the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        archive.comment = b"0" * _DIGEST  # its length stands before it, and belongs to what is sealed
    body = file.getvalue()[:-_DIGEST]
    return body + _digest(body)


def _unpacked_arrays(data: bytes) -> Selection:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        head, *rows = map(json.loads, archive["records"].tobytes().decode("ascii").splitlines())
        return from_parts(head, _sides(rows, [archive[f"{i:08d}"] for i in range(len(rows))]))


def _row(side: str, example: Example) -> dict[str, Any]:
    return {
        "side": side,
        "digest": example.digest,
        "origin": example.origin,
        "label": example.label,
        "metadata": dict(example.metadata),
    }


def _sides(rows: list[dict[str, Any]], contents: list[Any]) -> dict[str, list[Example]]:
    sides: dict[str, list[Example]] = {side: [] for side in SIDES}
    for row, content in zip(rows, contents):
        sides[row["side"]].append(Example(content, row["label"], row["origin"], row["metadata"]))
    return sides


_DIGEST = 64


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST // 2).hexdigest().encode()


def _gzip_seal(body: bytes) -> bytes:
    """A gzip member that holds the digest in one stored (uncompressed) block, by RFC 1951 and 1952."""
    line = b'{"blake2b": "' + _digest(body) + b'"}\n'
    stored = b"\x01" + struct.pack("<HH", len(line), len(line) ^ 0xFFFF) + line
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + stored + struct.pack("<II", zlib.crc32(line), len(line))


_GZIP_SEAL = len(_gzip_seal(b""))
