"""BERT and its kin with the same blocks: post-norm encoders of Transformers.

A norm stands after each residual sum, and its output is the next residual: a factor moved out of its gain
would have to come out of the residual too, which passes through every later norm. So no norm can be scaled.
What can: the value projection, whose outputs are only averaged before the output projection reads them; and
the first layer of the feed-forward part if its activation is ReLU, which a positive factor passes through
(GELU lets none through).
"""

from __future__ import annotations

from torch import nn

from tercile.quantization.families.family import Family, Scaling
from tercile.quantization.families.layers import Inventory, has_gain, model_type, stack
from tercile.quantization.families.stacked import stacked

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
VALUE, OUTPUT = "attention.self.value", "attention.output.dense"
UP, DOWN = "intermediate.dense", "output.dense"


def describe_bert(model: nn.Module, found: Inventory) -> Family | None:
    """The family, or None if the model is not of it."""
    names = stack(model, VALUE, OUTPUT, UP, DOWN)
    if model_type(model) not in MODEL_TYPES or not names:
        return None
    relu = getattr(model.config, "hidden_act", "") == "relu"
    blocks = {}
    for name in names:
        scalings = [Scaling(f"{name}.{VALUE}", (f"{name}.{OUTPUT}",), "linear")]
        if relu:
            scalings.append(Scaling(f"{name}.{UP}", (f"{name}.{DOWN}",), "linear"))
        blocks[name] = scalings
    # A decoder's cross-attention reads the encoder's output: one more argument, the same for every block.
    return stacked("bert", found, blocks, _head(model, found))


def _head(model: nn.Module, found: Inventory) -> tuple[Scaling, ...]:
    """The masked-language-model head: its norm feeds the decoder alone, which takes a factor unless tied."""
    norm, decoder = "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"
    modules = dict(model.named_modules())
    if norm in modules and decoder in modules and has_gain(modules[norm]) and decoder not in found.shared:
        return (Scaling(norm, (decoder,), "norm"),)
    return ()
