"""The vision transformer that experiments share; its pictures are those of `digits_network`."""

from __future__ import annotations

import torch
from torch import nn

from tercile.quantization.families import describe
from tercile.zoo.entries import find


def transformer() -> nn.Module:
    """The zoo's digits-vit in eval mode, with attention that can be differentiated twice."""
    from transformers import ViTForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: nn.Module = ViTForImageClassification.from_pretrained(find("digits-vit").source, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def transformer_layers(model: nn.Module) -> list[str]:
    """Its linear layers, the patch embedding and the classifier, in order."""
    names = {layer.name for layer in describe(model).layers}
    return [name for name, _ in model.named_modules() if name in names]


@torch.no_grad()
def transformer_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (n, 10), a hundred pictures at a time."""
    return torch.cat([model(images[start : start + 100]).logits for start in range(0, len(images), 100)])
