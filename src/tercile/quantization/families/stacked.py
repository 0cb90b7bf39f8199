"""What BERT, Llama and ViT have in common: a stack of like blocks, and everything else outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tercile.quantization.families.family import Block, Family, Scaling, Stream
from tercile.quantization.families.layers import Inventory


def stacked(
    name: str,
    found: Inventory,
    blocks: Mapping[str, Sequence[Scaling]],
    head: tuple[Scaling, ...],
    *,
    sequential: bool = True,
    stream: Stream | None = None,
) -> Family:
    """The family of a stack of blocks.

    Parameters
    ----------
    name
        Of the family.
    found
        Every layer of the model.
    blocks
        By module name, in order: where scales could move within the block. Places that touch a shared weight are left
        out, since a factor there would be felt elsewhere.
    head, sequential, stream
        As in `Family`.
    """
    described = []
    for block, scalings in blocks.items():
        legal = tuple(each for each in scalings if not found.shared & {each.producer, *each.readers})
        described.append(Block(block, found.under(block), legal))
    inside = {layer.name for block in described for layer in block.layers}
    return Family(
        name=name,
        sequential=sequential,
        blocks=tuple(described),
        embeddings=found.of("embedding"),
        outside=tuple(each for each in found.layers if each.kind != "embedding" and each.name not in inside),
        scalings=head,
        tied=found.tied,
        skipped=found.skipped,
        stream=stream,
    )
