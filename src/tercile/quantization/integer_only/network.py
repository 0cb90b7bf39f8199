"""A convolutional network on integers alone: bytes in, int32 logits out, no float between.

Krishnamoorthi (2018), "Quantizing deep convolutional networks for efficient inference: A whitepaper",
arXiv:1806.08342. Pictures are bytes, weights int8 by channel, values between steps uint8 by tensor with a zero point,
sums and biases int32; a sum comes back to eight bits by a fixed-point multiplication (see `fixed_point`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tercile import _native
from tercile.quantization.integer_only.fixed_point import NARROW, FixedPoint, fixed_point, multiply

if TYPE_CHECKING:
    from tercile.quantization.training.fake_quantize import RoundedLayer, RoundedNetwork

_LANES = 32  # filters are filled up with zeros to a multiple of this
_LARGEST_FILTER = (2**31 - 1) // (255 * 128) // 2  # products that surely fit an int32, with half of it for the bias


@dataclass(frozen=True, eq=False)
class Weighted:
    """A convolution or linear layer. All arrays are integers.

    Attributes
    ----------
    reads, gives
        Names of values.
    weight
        int8 (filters, height, width, channels).
    bias
        int32 (filters,), what the zero point of the inputs adds up to taken off already.
    factor
        To the codes of the result; None for the last layer, whose sums are the logits.
    """

    reads: str
    gives: str
    weight: np.ndarray
    bias: np.ndarray
    factor: FixedPoint | None
    stride: int
    padding: int
    zero_in: int
    zero_out: int
    low: int
    high: int

    @cached_property
    def wide(self) -> np.ndarray:
        """Filters as kernels read them: int16 (filters, columns), zeros at the end. Made once, and not stored."""
        rows = self.weight.reshape(len(self.weight), -1)
        columns = -(-rows.shape[1] // _LANES) * _LANES
        return np.pad(rows, ((0, 0), (0, columns - rows.shape[1]))).astype(np.int16)


@dataclass(frozen=True, eq=False)
class Sum:
    """Two values added: `zero_out + (a - zeros[0]) * factors[0] + (b - zeros[1]) * factors[1]`, under one shift."""

    reads: tuple[str, str]
    gives: str
    zeros: tuple[int, int]
    multipliers: tuple[int, int]
    shift: int
    zero_out: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Mean:
    """Mean over height and width; the factor holds the division by their number."""

    reads: str
    gives: str
    factor: FixedPoint
    zero_in: int
    zero_out: int
    high: int


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Steps on integers, made by `integer_network`.

    Attributes
    ----------
    steps
        In order; the last gives the logits.
    logit_scale
        What one unit of a logit is worth: not used by `logits`, and not needed to compare them.
    """

    steps: tuple[Weighted | Sum | Mean, ...]
    logit_scale: float

    @property
    def nbytes(self) -> int:
        """Bytes of everything that has to be stored: weights, biases, multipliers and shifts, zero points."""
        total = 0
        for step in self.steps:
            if isinstance(step, Weighted):
                total += step.weight.nbytes + step.bias.nbytes + 2
                if step.factor is not None:
                    total += step.factor.multiplier.nbytes + step.factor.shift.astype(np.uint8).nbytes
            else:
                total += 16
        return total

    def logits(self, pictures: np.ndarray, *, plain: bool = False) -> np.ndarray:
        """Logits of pictures, int32 (n, classes).

        Parameters
        ----------
        pictures
            uint8 (n, channels, height, width).
        plain
            By NumPy's integers, as the steps are defined, and not by the compiled kernels: the same numbers, slowly.

        Raises
        ------
        ValueError, TypeError
            If pictures are not bytes, or of another shape than the network reads.
        """
        given = np.asarray(pictures)
        if given.dtype != np.uint8:
            raise TypeError(f"pictures must be bytes (uint8), got {given.dtype}; give them as they are, not scaled")
        first = next(step for step in self.steps if isinstance(step, Weighted))
        if given.ndim != 4 or given.shape[1] != first.weight.shape[3] or not len(given):
            raise ValueError(f"pictures must be (n, {first.weight.shape[3]}, height, width), got {given.shape}")
        values = {"input": np.ascontiguousarray(given.transpose(0, 2, 3, 1))}
        for step in self.steps:
            if isinstance(step, Weighted):
                values[step.gives] = (plain_weighted if plain else _weighted)(step, values[step.reads])
            elif isinstance(step, Sum):
                pair = values[step.reads[0]], values[step.reads[1]]
                values[step.gives] = (plain_sum if plain else _sum)(step, *pair)
            else:
                values[step.gives] = _mean(step, values[step.reads])
        return values[self.steps[-1].gives].reshape(len(given), -1)


def plain_weighted(step: Weighted, x: np.ndarray) -> np.ndarray:
    """The definition of a convolution or linear layer on codes, in NumPy's integers."""
    _, height, width, _ = step.weight.shape
    pad = (0, 0), (step.padding, step.padding), (step.padding, step.padding), (0, 0)
    seen = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, pad, constant_values=step.zero_in), (height, width), axis=(1, 2)
    )[:, :: step.stride, :: step.stride]
    # seen is (n, y, x, channel, height, width); filters are (height, width, channel).
    sums = np.einsum("nyxchw,fhwc->nyxf", seen.astype(np.int64), step.weight.astype(np.int64)) + step.bias
    if step.factor is None:
        return sums.astype(np.int32)
    return np.clip(step.zero_out + multiply(sums, step.factor), step.low, step.high).astype(np.uint8)


def plain_sum(step: Sum, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition of a sum of two values on codes."""
    first = (a.astype(np.int64) - step.zeros[0]) * step.multipliers[0]
    second = (b.astype(np.int64) - step.zeros[1]) * step.multipliers[1]
    total = step.zero_out + ((first + second + (1 << (step.shift - 1))) >> step.shift)
    return np.clip(total, step.low, step.high).astype(np.uint8)


def _weighted(step: Weighted, x: np.ndarray) -> np.ndarray:
    filters, height, width, _ = step.weight.shape
    wide = step.wide
    if step.factor is None:
        rows = np.zeros((len(x), wide.shape[1]), dtype=np.int16)
        rows[:, : step.weight[0].size] = x.reshape(len(x), -1)
        sums = np.empty((len(x), filters), dtype=np.int32)
        _native.integer_products(rows, wide, sums)
        return sums + step.bias
    down = (x.shape[1] + 2 * step.padding - height) // step.stride + 1
    across = (x.shape[2] + 2 * step.padding - width) // step.stride + 1
    out = np.empty((len(x), down, across, filters), dtype=np.uint8)
    _native.integer_convolution(
        x, wide, step.bias, step.factor.multiplier, step.factor.shift, (height, width), step.stride, step.padding,
        step.zero_in, step.zero_out, step.low, step.high, out,
    )  # fmt: skip
    return out


def _sum(step: Sum, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.empty(a.shape, dtype=np.uint8)
    flat = a.reshape(-1), b.reshape(-1)
    _native.integer_sum(
        *flat, *step.zeros, *step.multipliers, step.shift, step.zero_out, step.low, step.high, out.reshape(-1)
    )
    return out


def _mean(step: Mean, x: np.ndarray) -> np.ndarray:
    places = x.shape[1] * x.shape[2]
    sums = x.sum(axis=(1, 2), dtype=np.int64) - places * step.zero_in
    codes = np.clip(step.zero_out + multiply(sums, step.factor), 0, step.high).astype(np.uint8)
    return codes[:, None, None]


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
        If the pictures are not bytes, or a filter is so long that sums could overflow.

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
    scale, zero, top = {}, {}, {}
    for name in ("input", *(step.name for step in rounded.steps[:-1])):
        value = rounded.value_of(name)
        scale[name], zero[name], top[name] = float(value.scale), int(value.zero), value.top
    if top["input"] != 255 or zero["input"] != 0:
        raise ValueError("pictures must be bytes: give 8 bits to the inputs of the first layer")
    steps: list[Weighted | Sum | Mean] = []
    logit_scale = 1.0
    sizes = {"input": size}
    for step in rounded.steps:
        last = step is rounded.steps[-1]
        low = zero.get(step.name, 0) if step.relu else 0
        sizes[step.name] = sizes[step.reads[0]]
        if step.kind == "sum":
            steps.append(_sum_of(step.reads, step.name, scale, zero, low, top[step.name]))
        elif step.kind == "mean":
            (read,) = step.reads
            factor = fixed_point(np.array([scale[read] / scale[step.name] / np.prod(sizes[read])]))
            sizes[step.name] = (1, 1)
            steps.append(Mean(read, step.name, factor, zero[read], zero[step.name], top[step.name]))
        else:
            (read,) = step.reads
            layer = rounded.layer_of(step.name)
            if last:
                # Logits are compared with each other: they need one scale, so the coarsest channel's is taken.
                layer = _one_scale(layer)
            height, width = (
                (side + 2 * layer.padding - kernel) // layer.stride + 1
                for side, kernel in zip(sizes[read], layer.weight.shape[2:] or (1, 1), strict=True)
            )
            if step.kind == "linear" and sizes[read] != (1, 1):
                many = f"{sizes[read][0]} x {sizes[read][1]} places"
                raise ValueError(
                    f"{step.name} reads {many} at once: put a mean, or a convolution, before the linear layer"
                )
            sizes[step.name] = height, width
            units = layer.scale.detach().numpy().astype(np.float64) * scale[read]
            values, bias = layer.stored()
            codes = np.rint(
                values.detach().numpy() / layer.scale.detach().numpy().reshape(-1, *[1] * (values.dim() - 1))
            )
            weight = codes.reshape(*codes.shape, *[1] * (4 - codes.ndim)).transpose(0, 2, 3, 1).astype(np.int8)
            weight = np.ascontiguousarray(weight)
            if weight[0].size > _LARGEST_FILTER:
                raise ValueError(f"a filter of {step.name} has {weight[0].size} weights, beyond {_LARGEST_FILTER}")
            offset = zero[read] * weight.astype(np.int64).sum(axis=(1, 2, 3))
            whole = np.rint(bias.detach().numpy().astype(np.float64) / units) - offset
            if np.abs(whole).max() >= 2**30:
                raise ValueError(f"a bias of {step.name} overflows 32 bits: its channel is all but dead; prune it")
            factor_out = None if last else fixed_point(units / scale[step.name])
            steps.append(
                Weighted(
                    read,
                    step.name,
                    weight,
                    whole.astype(np.int32),
                    factor_out,
                    layer.stride,
                    layer.padding,
                    zero[read],
                    zero.get(step.name, 0),
                    low,
                    top.get(step.name, 0),
                )
            )
            logit_scale = float(units[0])
    return IntegerNetwork(tuple(steps), logit_scale)


def _one_scale(layer: RoundedLayer) -> RoundedLayer:
    import torch

    one = copy.deepcopy(layer)
    with torch.no_grad():
        one.log_scale.copy_(one.log_scale.max().expand_as(one.log_scale))
    return one.eval()


def _sum_of(
    reads: tuple[str, ...], gives: str, scale: dict[str, float], zero: dict[str, int], low: int, high: int
) -> Sum:
    a, b = reads
    larger = fixed_point(np.array([max(scale[a], scale[b]) / scale[gives]]), NARROW)
    # Products stay below 2^23; a shift of 30 keeps half a unit within 32 bits too.
    shift = min(int(larger.shift[0]), 30)
    multipliers = tuple(round(scale[name] / scale[gives] * 2**shift) for name in reads)
    return Sum((a, b), gives, (zero[a], zero[b]), (multipliers[0], multipliers[1]), shift, zero[gives], low, high)
