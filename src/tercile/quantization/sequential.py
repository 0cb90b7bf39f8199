"""Quantizes a model layer by layer in running order, each from what it reads once those before it are quantized."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from tercile.quantization.block_inputs import Batch, Forward, quiet
from tercile.quantization.cross_moment import CrossMoment
from tercile.quantization.layer_inputs import columns, patches
from tercile.quantization.qtensor import QTensor
from tercile.quantization.statistics import Statistics

#: (weight, statistics of what the layer reads now, cross moment with what it read originally) -> stored weight.
Follow = Callable[[np.ndarray, Statistics, CrossMoment], QTensor]


class _Reached(Exception):
    """The layer that was waited for has been called."""


def quantize_in_order(
    model: nn.Module,
    layers: Sequence[str],
    batches: Sequence[Batch],
    forward: Forward,
    follow: Follow,
    *,
    every: Callable[[str], int] = lambda name: 1,
) -> dict[str, QTensor]:
    """Quantizes layers one after the other; each makes good what those before it changed.

    Parameters
    ----------
    model
        Its weights are replaced by what is stored, layer by layer.
    layers
        Names of linear layers and convolutions, in the order in which they run. One that runs more than once in a
        forward is measured where it runs first.
    batches, forward
        Calibration data, and what runs the model on a batch.
    follow
        Solves one layer, for example ``lambda w, now, cross: gpfq(w, now, scheme, original=cross)``.
    every
        Of each piece of rows of a layer, one in so many counts: a convolution has far more patches than it needs.

    Returns
    -------
    dict of QTensor by name.

    Raises
    ------
    ValueError
        If a layer is never called.

    Notes
    -----
    The original is copied once. For every layer both models run on every batch, up to that layer.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import gpfq
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> scheme = Scheme.parse("int4-channel")
    >>> stored = quantize_in_order(
    ...     model, ["0", "2"], [torch.randn(64, 8)], lambda m, x: m(x),
    ...     lambda w, now, cross: gpfq(w, now, scheme, original=cross))
    >>> bool(np.array_equal(model[2].weight.detach(), stored["2"].dequantize()))
    True
    """
    original, stored = copy.deepcopy(model), {}
    for name in layers:
        layer = model.get_submodule(name)
        now, cross = Statistics(columns(layer)), CrossMoment(columns(layer))
        for batch in batches:
            pair = [_rows_read(one, name, batch, forward) for one in (model, original)]
            for rows, before in zip(*pair, strict=True):
                now.update(rows[:: every(name)])
                cross.update(rows[:: every(name)], before[:: every(name)])
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        stored[name] = follow(weight.detach().to("cpu", torch.float32, copy=True).numpy(), now, cross)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(stored[name].dequantize()))
    return stored


def _rows_read(model: nn.Module, name: str, batch: Batch, forward: Forward) -> list[np.ndarray]:
    """What a layer reads on a batch, as rows of its weight's width, in pieces."""
    read: list[np.ndarray] = []

    def keep(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if isinstance(layer, nn.modules.conv._ConvNd):
            read.extend(patches(layer, args[0]))
        else:
            read.append(args[0].detach().reshape(-1, args[0].shape[-1]).float().cpu().numpy())
        raise _Reached

    handle = model.get_submodule(name).register_forward_pre_hook(keep)
    try:
        with quiet(model):
            forward(model, batch)
    except _Reached:
        return read
    finally:
        handle.remove()
    raise ValueError(f"layer {name!r} is not called by the model's forward; leave it out of layers")
