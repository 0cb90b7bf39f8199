"""Packed folders made at once, by rounding to nearest: for tests of what comes after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tercile.compression.bank import Stored
from tercile.compression.package import save_package
from tercile.compression.source import Source
from tercile.compression.units import save_certification
from tercile.filters.data import Example, Selection
from tercile.quantization import Scheme
from tercile.quantization.families import Layer, describe
from tercile.quantization.solvers import round_to_nearest

TEXTS = ["In the beginning was the word, and 1234 of them.", "An iterator"]


def along_a_line() -> torch.nn.Module:
    """A network with a convolution in one dimension, which no packed kernel runs."""
    torch.manual_seed(3)
    layers = torch.nn.Linear(16, 16), torch.nn.Conv1d(4, 8, 3), torch.nn.ReLU(), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(112, 5))


def pack(source: Source, folder: Path, choose: Callable[[int, Layer], str | None]) -> Path:
    """Every layer under the scheme that is chosen for it by number and layer; None leaves it as it is."""
    folder.mkdir()
    stored = {}
    for number, layer in enumerate(describe(source.module).layers):
        spelling = choose(number, layer)
        if spelling is not None:
            weight = source.module.get_submodule(layer.name).weight.detach().float().numpy()
            stored[layer.name] = Stored(round_to_nearest(weight, None, Scheme.parse(spelling)), None, 0.0)
    save_package(folder, source, stored)
    save_certification(Selection((), (), tuple(Example(text) for text in TEXTS), 0, 2, 2), folder)
    return folder


@torch.no_grad()
def answers(module: torch.nn.Module, source: Source) -> torch.Tensor:
    """What a module says of the texts."""
    inputs = source.prepare(TEXTS)
    out = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    return out.logits if hasattr(out, "logits") else out
