"""Watches what the layers of a running model read, and adds it to Statistics.

A linear layer's inputs are the rows of its input tensor; a convolution's are the patches under its filters,
in the order of `weight.reshape(filters, -1)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tercile.quantization.statistics import Statistics

PATCH_BYTES = 1 << 25  # patches unfolded at a time


class Recorder:
    """Statistics of the inputs of some layers, while it is attached.

    Layers that are given the very same tensor one after the other (query, key and value) share one
    Statistics, which is computed once.

    Parameters
    ----------
    layers
        Linear layers and convolutions, by name.
    sketch
        Keep a quantile sketch a channel.
    """

    def __init__(self, layers: Mapping[str, nn.Module], *, sketch: bool = False) -> None:
        self._layers = dict(layers)
        self._sketch = sketch
        self._sums: dict[tuple[str, ...], Statistics] = {}
        self._tensor: torch.Tensor | None = None  # the input seen last, its rows, and who has read it
        self._rows = np.empty((0, 0), dtype=np.float32)
        self._readers: tuple[str, ...] = ()
        self.mask: torch.Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watches the layers; `mask`, bool (batch, tokens), says which tokens of the running batch count."""
        handles = []
        try:
            for name, layer in self._layers.items():
                watch = (
                    self._watch_patches if isinstance(layer, nn.modules.conv._ConvNd) else self._watch_rows
                )
                handles.append(
                    layer.register_forward_pre_hook(
                        lambda module, args, kwargs, name=name, watch=watch: watch(
                            name, module, args[0] if args else kwargs["input"]
                        ),
                        with_kwargs=True,
                    )
                )
            yield
            self._flush()
        finally:
            for handle in handles:
                handle.remove()
            self._tensor, self._readers = None, ()

    def statistics(self) -> dict[str, Statistics]:
        """What each layer has read; a layer that was never called has a count of 0."""
        found = {}
        for name, layer in self._layers.items():
            parts = [sums for readers, sums in self._sums.items() if name in readers]
            found[name] = reduce(lambda a, b: a | b, parts) if parts else self._empty(columns(layer))
        return found

    def _watch_rows(self, name: str, layer: nn.Module, x: torch.Tensor) -> None:
        rows = kept_rows(x, self.mask)
        # The tensor may have been changed in place since, so being the same object is not enough.
        if (
            x is self._tensor
            and name not in self._readers
            and np.array_equal(rows, self._rows, equal_nan=True)
        ):
            self._readers += (name,)
            return
        self._flush()
        self._tensor, self._rows, self._readers = x, rows, (name,)

    def _flush(self) -> None:
        if self._readers:
            self._add(self._readers, self._rows)
        self._tensor, self._readers = None, ()

    def _watch_patches(self, name: str, layer: nn.Module, x: torch.Tensor) -> None:
        for rows in patches(layer, x):
            self._add((name,), rows)

    def _add(self, readers: tuple[str, ...], rows: np.ndarray) -> None:
        if readers not in self._sums:
            self._sums[readers] = self._empty(rows.shape[1])
        try:
            self._sums[readers].update(rows)
        except ValueError as error:
            raise ValueError(f"layer {readers[0]}: {error}") from None

    def _empty(self, channels: int) -> Statistics:
        return Statistics(channels, sketch=self._sketch)


def columns(layer: nn.Module) -> int:
    """Inputs of a linear layer or convolution: columns of its weight as a matrix."""
    weight: Any = layer.weight
    return int(weight[0].numel())


def kept_rows(x: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """Rows of an input tensor (..., channels) as a float32 copy, those that a mask (batch, tokens) keeps.

    A tensor of which the leading axes are not the mask's (a pooled vector, say) is taken whole.

    Examples
    --------
    >>> x, mask = torch.arange(4.0).reshape(2, 2, 1), torch.tensor([[True, False], [True, True]])
    >>> kept_rows(x, mask).T
    array([[0., 2., 3.]], dtype=float32)
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    if mask is not None and (mask.shape == x.shape[:-1] or (x.dim() == 2 and mask.numel() == len(x))):
        rows = rows[mask.reshape(-1).to(rows.device)]
    kept: np.ndarray = rows.to("cpu", torch.float32, copy=True).contiguous().numpy()
    return kept


def patches(layer: nn.Module, x: torch.Tensor) -> Iterator[np.ndarray]:
    """What the filters of a convolution see, float32 (places, channels * kernel), in pieces of bounded size.

    Parameters
    ----------
    layer
        Conv1d, Conv2d or Conv3d with one group; stride, padding of any mode and dilation are followed.
    x
        (batch, channels, ...) or one example (channels, ...).

    Examples
    --------
    >>> convolution = nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2), bias=False)
    >>> x = torch.randn(2, 3, 9, 8)
    >>> seen = torch.from_numpy(np.concatenate(list(patches(convolution, x))))
    >>> out = seen @ convolution.weight.reshape(4, -1).T
    >>> bool(torch.allclose(out, convolution(x).permute(0, 2, 3, 1).reshape(-1, 4), atol=1e-5))
    True
    """
    convolution: Any = layer
    axes = len(convolution.kernel_size)
    x = x.detach().to("cpu", torch.float32)
    if x.dim() == axes + 1:
        x = x.unsqueeze(0)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    x = F.pad(x, tuple(convolution._reversed_padding_repeated_twice), mode=mode)
    for axis, (size, step, spread) in enumerate(
        zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
    ):
        x = x.unfold(2 + axis, spread * (size - 1) + 1, step)[..., ::spread]
    # A view (batch, places..., channels, kernel...): nothing is copied until a piece is made of it.
    x = x.permute(0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    width = columns(layer)
    line = int(np.prod(x.shape[2 : 1 + axes])) * width * 4  # bytes of one image's places at one first index
    lines = max(PATCH_BYTES // max(line, 1), 1)
    images = max(lines // max(x.shape[1], 1), 1)
    for image in range(0, len(x), images):
        for start in range(0, x.shape[1], lines):
            yield x[image : image + images, start : start + lines].reshape(-1, width).contiguous().numpy()
