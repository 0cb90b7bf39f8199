"""The places in a model where an activation is read by a matrix product, and can be rounded before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from tercile.quantization.families import Family
from tercile.quantization.families.layers import CONVOLUTIONS

Operand = Literal["input", "query", "key", "probabilities", "value"]
#: Operands of attention, in the order in which they are met.
ATTENTION: tuple[Operand, ...] = ("query", "key", "probabilities", "value")
#: Families whose blocks are modules that call attention themselves.
STACKED = ("bert", "llama", "vit")


@dataclass(frozen=True)
class Site:
    """One operand of one matrix product.

    Attributes
    ----------
    module
        A layer, or the module inside which attention is computed: a block, or the model where blocks are not known.
    operand
        "input" of a linear layer or convolution; "query", "key", "probabilities" (the output of softmax) or "value".
    channel_axis
        Axis that a scale a channel runs along: the channels of an input, the heads of an operand of attention.
    token_axis
        Axis along which lies what a scale a token is shared by.

    Examples
    --------
    >>> Site("encoder.0", "value").name, Site("encoder.0.dense").name
    ('encoder.0:value', 'encoder.0.dense')
    """

    module: str
    operand: Operand = "input"
    channel_axis: int = -1
    token_axis: int = -1

    @property
    def name(self) -> str:
        """The layer's name, or the block's and the operand."""
        return self.module if self.operand == "input" else f"{self.module}:{self.operand}"


def sites(model: nn.Module, family: Family, *, attention: bool = True) -> tuple[Site, ...]:
    """Every place of a model where an activation can be quantized, in the order of its modules.

    Parameters
    ----------
    model, family
        The model and what `describe` says of it.
    attention
        Whether the operands of attention are listed too. A model of no known family is looked at as one module whose
        calls of attention share a site; that is enough for dynamic schemes.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4))
    >>> [(site.name, site.channel_axis) for site in sites(model, describe(model))]
    [('0', 1), ('2', -1)]
    """
    names = [layer.name for layer in family.layers if layer.kind != "embedding"]
    names += [name for group in family.tied for name in group[1:]]
    found = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, CONVOLUTIONS):
            found.append(Site(name, "input", 1, 1))
        elif isinstance(module, nn.Linear):
            found.append(Site(name))
    if attention:
        inside = [block.name for block in family.blocks] if family.name in STACKED else [""]
        if family.name != "cnn":
            found += [Site(name, operand, 1, -1) for name in inside for operand in ATTENTION]
    return tuple(found)
