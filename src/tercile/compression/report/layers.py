"""Bits layer by layer, and block by block where there are many layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEW = 24  # up to here every layer has a row of its own


@dataclass(frozen=True)
class Row:
    """A layer, or the layers of a block together.

    Parameters
    ----------
    name
        Of the layer or the block.
    bits
        Stored bits a weight, everything counted.
    nbytes, original_nbytes
        After and before.
    members
        Bits of each layer of the block, in order; one for a layer.
    schemes
        The different schemes, in order of appearance.
    """

    name: str
    bits: float
    nbytes: int
    original_nbytes: int
    members: tuple[float, ...]
    schemes: tuple[str, ...]


def rows(layers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a layer, or one a block when there are more than `FEW` layers.

    >>> layer = {"scheme": "int4-g64", "shape": [8, 8], "nbytes": 32, "original_nbytes": 256}
    >>> layer["bits_per_weight"] = 4.0
    >>> names = [f"layer.{i}.{part}" for i in range(13) for part in "qk"]
    >>> [row.name for row in rows([{"name": name, **layer} for name in names])][:2]
    ['layer.0', 'layer.1']
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        name = layer["name"] if len(layers) <= FEW else block(layer["name"])
        groups.setdefault(name, []).append(layer)
    return [_together(name, members) for name, members in groups.items()]


def block(name: str) -> str:
    """The block that a layer belongs to: its name up to the first number, or without its last part.

    >>> block("encoder.layer.3.attention.self.query"), block("embeddings.word_embeddings"), block("head")
    ('encoder.layer.3', 'embeddings', 'head')
    """
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: position + 1])
    return ".".join(parts[:-1]) or name


def widest(found: Sequence[Row]) -> float:
    """The bits at the full width of the bars: enough for all rows but those kept in float.

    >>> widest([Row("a", 3.2, 1, 1, (2.1, 4.3), ())]), widest([Row("a", 32.0, 1, 1, (32.0,), ())])
    (5, 32.0)
    """
    quantized = [bits for row in found for bits in row.members if bits < 16]
    return math.ceil(max(quantized)) if quantized else max(row.bits for row in found)


def _together(name: str, members: Sequence[Mapping[str, Any]]) -> Row:
    weights = [math.prod(layer["shape"]) for layer in members]
    bits = sum(w * layer["bits_per_weight"] for w, layer in zip(weights, members)) / max(sum(weights), 1)
    return Row(
        name=name,
        bits=bits,
        nbytes=sum(layer["nbytes"] for layer in members),
        original_nbytes=sum(layer["original_nbytes"] for layer in members),
        members=tuple(layer["bits_per_weight"] for layer in members),
        schemes=tuple(dict.fromkeys(layer["scheme"] or "kept in float" for layer in members)),
    )
