"""ViT of Transformers: a pre-norm encoder over patches that a convolution embeds.

Each norm feeds only the projections after it. Values pass a factor on to the output projection; the first
layer of the feed-forward part does so only with ReLU.
"""

from __future__ import annotations

from torch import nn

from tercile.quantization.families.family import Family, Scaling, Stream
from tercile.quantization.families.layers import Inventory, has_gain, model_type, stack
from tercile.quantization.families.stacked import stacked

MODEL_TYPES = ("vit",)
ATTENTION_NORM, FEED_NORM, UP, DOWN = "layernorm_before", "layernorm_after", "mlp.fc1", "mlp.fc2"
QUERY, KEY, VALUE, OUTPUT = (f"attention.{each}_proj" for each in "qkvo")


def describe_vit(model: nn.Module, found: Inventory) -> Family | None:
    """The family, or None if the model is not of it."""
    names = stack(model, ATTENTION_NORM, FEED_NORM, QUERY, KEY, VALUE, OUTPUT, UP, DOWN)
    if model_type(model) not in MODEL_TYPES or not names:
        return None
    relu = getattr(model.config, "hidden_act", "") == "relu"
    blocks = {}
    for name in names:
        projections = tuple(f"{name}.{each}" for each in (QUERY, KEY, VALUE))
        scalings = [
            Scaling(f"{name}.{ATTENTION_NORM}", projections, "norm"),
            Scaling(f"{name}.{FEED_NORM}", (f"{name}.{UP}",), "norm"),
            Scaling(f"{name}.{VALUE}", (f"{name}.{OUTPUT}",), "linear"),
        ]
        if relu:
            scalings.append(Scaling(f"{name}.{UP}", (f"{name}.{DOWN}",), "linear"))
        blocks[name] = scalings
    return stacked("vit", found, blocks, _head(model, found), stream=_stream(model, names))


def _stream(model: nn.Module, names: tuple[str, ...]) -> Stream | None:
    """Patches, the class token and positions begin it; in the bare model the last norm's output is the model's."""
    modules = dict(model.named_modules())
    patches, norm, head = "vit.embeddings.patch_embeddings.projection", "vit.layernorm", "classifier"
    begin = modules.get(patches)
    if not isinstance(begin, nn.Conv2d) or norm not in modules or not isinstance(modules.get(head), nn.Linear):
        return None
    added = ("vit.embeddings.cls_token", "vit.embeddings.position_embeddings")
    norms: list[tuple[str, tuple[str, ...]]] = [(norm, (head,))]
    for name in names:
        norms.append((f"{name}.{ATTENTION_NORM}", tuple(f"{name}.{each}" for each in (QUERY, KEY, VALUE))))
        norms.append((f"{name}.{FEED_NORM}", (f"{name}.{UP}",)))
    return Stream(
        width=begin.out_channels,
        writers=(patches, *(f"{name}.{each}" for name in names for each in (OUTPUT, DOWN))),
        parameters=tuple(name for name, _ in model.named_parameters() if name in added),
        norms=tuple(norms),
        centred=True,
    )


def _head(model: nn.Module, found: Inventory) -> tuple[Scaling, ...]:
    """In a classifier the last norm feeds the head alone; in the bare model its output is the model's."""
    norm, head = "vit.layernorm", "classifier"
    modules = dict(model.named_modules())
    linear = isinstance(modules.get(head), nn.Linear) and head not in found.shared
    return (Scaling(norm, (head,), "norm"),) if linear and norm in modules and has_gain(modules[norm]) else ()
