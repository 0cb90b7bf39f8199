"""Turns a network that was trained, or calibrated, with rounding into the integers that it stands for."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tercile.quantization.integer_only.fixed_point import NARROW, fixed_point
from tercile.quantization.integer_only.network import IntegerNetwork, Mean, Sum, Weighted

if TYPE_CHECKING:
    from tercile.quantization.families.steps import Step
    from tercile.quantization.training.fake_quantize import RoundedLayer, RoundedNetwork

#: Products that surely fit an int32, with half of it left for the bias.
LARGEST_FILTER = (2**31 - 1) // (255 * 128) // 2


@dataclass(frozen=True)
class _Codes:
    """What the codes of a value mean: (code - zero) * scale, codes from 0 to top."""

    scale: float
    zero: int
    top: int


def integer_network(rounded: RoundedNetwork, size: tuple[int, int]) -> IntegerNetwork:
    """The integers that a network trained, or calibrated, with rounding stands for.

    Parameters
    ----------
    rounded
        Its pictures must be bytes (8-bit inputs for the first layer), all values at most 8 bits.
    size
        Height and width of the pictures; the network reads no others.

    Returns
    -------
    IntegerNetwork. Its logits, times `logit_scale`, are those of `rounded` but for rare roundings: a sum that float32
    and integers put on either side of a half.

    Raises
    ------
    ValueError
        If the pictures are not bytes, the network does not end in a linear layer, or sums could overflow.

    Examples
    --------
    >>> import torch
    >>> from tercile.quantization.training.fake_quantize import RoundedNetwork
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> pictures = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    >>> rounded = RoundedNetwork(model).watch(pictures / 255)
    >>> network = integer_network(rounded, (4, 4))
    Traceback (most recent call last):
    ValueError: 2 reads 2 x 2 places at once: put a mean, or a convolution, before the linear layer
    """
    last = rounded.steps[-1]
    if last.kind != "linear":
        raise ValueError(f"the last step, {last.name}, is a {last.kind}; a network must end in a linear layer")
    codes = {}
    for name in ("input", *(step.name for step in rounded.steps[:-1])):
        value = rounded.value_of(name)
        codes[name] = _Codes(float(value.scale), int(value.zero), value.top)
    if codes["input"].top != 255 or codes["input"].zero != 0:
        raise ValueError("pictures must be bytes: give 8 bits to the inputs of the first layer")
    steps: list[Weighted | Sum | Mean] = []
    sizes = {"input": size}
    for step in rounded.steps:
        before = sizes[step.reads[0]]
        sizes[step.name] = before
        if step.kind == "sum":
            steps.append(_sum_of(step, codes))
        elif step.kind == "mean":
            steps.append(_mean_of(step, codes, before[0] * before[1]))
            sizes[step.name] = (1, 1)
        else:
            layer = rounded.layer_of(step.name)
            # Logits are compared with each other: they need one scale, so the coarsest channel's is taken.
            layer = _one_scale(layer) if step is last else layer
            steps.append(_weighted_of(step, layer, codes))
            sizes[step.name] = _size_after(step, layer, before)
    logit_scale = float(_one_scale(rounded.layer_of(last.name)).scale[0]) * codes[last.reads[0]].scale
    return IntegerNetwork(tuple(steps), logit_scale)


def _weighted_of(step: Step, layer: RoundedLayer, codes: dict[str, _Codes]) -> Weighted:
    (read,) = step.reads
    source, gives = codes[read], codes.get(step.name, _Codes(1.0, 0, 0))
    values, bias = (one.detach().numpy() for one in layer.stored())
    scale = layer.scale.detach().numpy()
    units = scale.astype(np.float64) * source.scale
    whole = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1)))
    weight = whole.reshape(*whole.shape, *[1] * (4 - whole.ndim)).transpose(0, 2, 3, 1)
    weight = np.ascontiguousarray(weight, dtype=np.int8)
    if weight[0].size > LARGEST_FILTER:
        raise ValueError(f"a filter of {step.name} has {weight[0].size} weights, beyond {LARGEST_FILTER}")
    # Codes stand off zero by the inputs' zero point; what that adds up to over a filter is known, and taken off.
    shift = np.rint(bias.astype(np.float64) / units) - source.zero * weight.astype(np.int64).sum(axis=(1, 2, 3))
    if np.abs(shift).max() >= 2**30:
        raise ValueError(f"a bias of {step.name} overflows 32 bits: its channel is all but dead; prune it")
    return Weighted(
        reads=read,
        gives=step.name,
        weight=weight,
        bias=shift.astype(np.int32),
        factor=fixed_point(units / gives.scale) if step.name in codes else None,
        stride=layer.stride,
        padding=layer.padding,
        zero_in=source.zero,
        zero_out=gives.zero,
        low=gives.zero if step.relu else 0,
        high=gives.top,
    )


def _size_after(step: Step, layer: RoundedLayer, size: tuple[int, int]) -> tuple[int, int]:
    if step.kind == "linear":
        if size != (1, 1):
            many = f"{size[0]} x {size[1]} places"
            raise ValueError(f"{step.name} reads {many} at once: put a mean, or a convolution, before the linear layer")
        return size
    height, width = (
        (side + 2 * layer.padding - kernel) // layer.stride + 1
        for side, kernel in zip(size, layer.weight.shape[2:], strict=True)
    )
    return height, width


def _mean_of(step: Step, codes: dict[str, _Codes], places: int) -> Mean:
    (read,) = step.reads
    source, gives = codes[read], codes[step.name]
    factor = fixed_point(np.array([source.scale / gives.scale / places]))
    return Mean(read, step.name, factor, source.zero, gives.zero, gives.top)


def _sum_of(step: Step, codes: dict[str, _Codes]) -> Sum:
    a, b = step.reads
    gives = codes[step.name]
    larger = fixed_point(np.array([max(codes[a].scale, codes[b].scale) / gives.scale]), NARROW)
    # Products stay below 2^23; a shift of 30 keeps half a unit within 32 bits too.
    shift = min(int(larger.shift[0]), 30)
    first, second = (round(codes[name].scale / gives.scale * 2**shift) for name in (a, b))
    zeros = codes[a].zero, codes[b].zero
    low = gives.zero if step.relu else 0
    return Sum((a, b), step.name, zeros, (first, second), shift, gives.zero, low, gives.top)


def _one_scale(layer: RoundedLayer) -> RoundedLayer:
    import torch

    one = copy.deepcopy(layer)
    with torch.no_grad():
        one.log_scale.copy_(one.log_scale.max().expand_as(one.log_scale))
    return one.eval()
