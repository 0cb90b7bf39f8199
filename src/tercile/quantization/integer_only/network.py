"""A convolutional network on integers alone: bytes in, int32 logits out, no float between.

Krishnamoorthi (2018), "Quantizing deep convolutional networks for efficient inference: A whitepaper",
arXiv:1806.08342. Pictures are bytes, weights int8 by channel, values between steps uint8 by tensor with a zero point,
sums and biases int32; a sum comes back to eight bits by a fixed-point multiplication (see `fixed_point`).

It is four times smaller than float32, and the same bits everywhere. It is no faster than float where float has wide
fused multiply-adds: products are taken in pairs of int16, and AVX-512's own instruction for bytes is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tercile import _native
from tercile.quantization.integer_only.fixed_point import FixedPoint, multiply

_LANES = 32  # filters are filled up with zeros to a multiple of this


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
