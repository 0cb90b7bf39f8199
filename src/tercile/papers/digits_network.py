"""The digit classifier that experiments on convolutional networks share, and its held-out pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tercile.quantization.families.cnn import batch_norm_pairs
from tercile.zoo.digits_cnn import build
from tercile.zoo.entries import find

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_thread(run: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Runs a function with one torch thread: on a network this small, several mostly wait for each other."""

    @wraps(run)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return wrapped


def folded_network() -> nn.Module:
    """The zoo's digits-cnn in eval mode, each batch norm folded into the convolution before it."""
    model = build()
    for convolution, norm in batch_norm_pairs(model):
        before, after = model.get_submodule(convolution), model.get_submodule(norm)
        assert isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
        model.set_submodule(convolution, fuse_conv_bn_eval(before, after))
        model.set_submodule(norm, nn.Identity())
    return model.requires_grad_(False)


def layers_of(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def pictures(part: int, parts: int) -> tuple[torch.Tensor, np.ndarray]:
    """One of `parts` disjoint shares of the zoo's held-out digits: floats (n, 1, 28, 28), labels (n,).

    The share is the same every time, whatever is done with the others.
    """
    with np.load(find("digits-cnn").sample) as stored:
        images, labels = stored["images"], stored["labels"]
    chosen = np.random.default_rng(20).permutation(len(images))[part::parts]
    return torch.from_numpy(images[chosen]).float() / 255, labels[chosen]


@torch.no_grad()
def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (n, 10), a hundred pictures at a time."""
    return torch.cat([model(images[start : start + 100]) for start in range(0, len(images), 100)])
