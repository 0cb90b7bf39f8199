"""Picks the family of a model by what it is made of."""

from __future__ import annotations

from torch import nn

from tercile.quantization.families.bert import describe_bert
from tercile.quantization.families.cnn import describe_cnn
from tercile.quantization.families.family import Family
from tercile.quantization.families.layers import inventory
from tercile.quantization.families.llama import describe_llama
from tercile.quantization.families.unknown import describe_unknown
from tercile.quantization.families.vit import describe_vit

KNOWN = (describe_bert, describe_llama, describe_vit, describe_cnn)


def describe(model: nn.Module) -> Family:
    """What a model looks like: its blocks, layers, what can be scaled, what cannot be quantized and why.

    Reads names, shapes and code; runs nothing on data and changes nothing.

    Parameters
    ----------
    model
        Any torch module. Those of Transformers are known by their type and structure; others that hold
        convolutions are CNNs; the rest is "unknown".

    Raises
    ------
    TypeError
        If model is no torch module.
    ValueError
        If nothing in it can be quantized.

    Examples
    --------
    >>> family = describe(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.LSTM(8, 8)))
    >>> family.name, [layer.name for layer in family.layers], [name for name, reason in family.skipped]
    ('unknown', ['0'], ['2'])
    """
    found = inventory(model)
    for attempt in KNOWN:
        family = attempt(model, found)
        if family is not None:
            return family
    return describe_unknown(model, found)
