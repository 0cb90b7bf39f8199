"""The fallback: any module. Its layers are quantized like others; what lies between them is not known."""

from __future__ import annotations

import re

from torch import nn

from tercile.quantization.families.family import Block, Family, Layer
from tercile.quantization.families.layers import Inventory


def describe_unknown(model: nn.Module, found: Inventory) -> Family:
    """The family; it fits every model."""
    return Family(
        name="unknown",
        sequential=False,
        blocks=by_container(found),
        embeddings=found.of("embedding"),
        tied=found.tied,
        skipped=found.skipped,
    )


def by_container(found: Inventory) -> tuple[Block, ...]:
    """Layers by the member of the first list that they are in (`layers.3`), or first name (`head`)."""
    groups: dict[str, list[Layer]] = {}
    for layer in found.layers:
        if layer.kind != "embedding":
            match = re.match(r"(?:.*?\.)?\d+(?=\.|$)", layer.name)
            groups.setdefault(match.group() if match else layer.name.partition(".")[0], []).append(layer)
    return tuple(Block(name, tuple(layers)) for name, layers in groups.items())
