"""What rounds an activation: scales found while the model runs, or fixed ones found by calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tercile.quantization.activations.rounding import fake_quantize, stored
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.statistics import Statistics


@dataclass(frozen=True)
class Dynamic:
    """Scales from the values themselves, each time: smallest and largest of every token, group or whole tensor.

    Attributes
    ----------
    scheme
        Its blocks say what shares a scale: `token` everything along `axis`, `g32` 32 neighbours along it, `tensor`
        everything. Needs no calibration and clips nothing.
    axis
        Along which a token lies: the last, but 1 for a convolution's input.
    through_ranges
        Whether gradients also go through the smallest and largest value, which is how a rotation learns to bring them
        closer. Otherwise ranges count as constants.

    Examples
    --------
    >>> x = torch.tensor([[1.0, -8.0], [0.25, 1.75]])
    >>> Dynamic(Scheme.parse("int4-token-f32"))(x).tolist()
    [[1.0, -8.0], [0.25, 1.75]]
    """

    scheme: Scheme
    axis: int = -1
    through_ranges: bool = False

    def __post_init__(self) -> None:
        if self.scheme.blocks.spelling == "channel" or self.scheme.blocks.rows not in (None, 1):
            raise ValueError(
                f"a dynamic scheme has token, tensor or group blocks, got {self.scheme}; a scale a channel is static"
            )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        size = self.scheme.blocks.columns
        if self.scheme.blocks.rows is None and size is None:
            seen = x if self.through_ranges else x.detach()
            low, high = seen.amin(), seen.amax()
            return fake_quantize(x, self.scheme, *stored(low, high, self.scheme))
        rows = x.movedim(self.axis, -1)
        width = rows.shape[-1]
        if size is not None:
            # A last group that does not fit is filled with zeros, which lie within every range.
            rows = torch.nn.functional.pad(rows, (0, -width % size)).unflatten(-1, (-1, size))
        seen = rows if self.through_ranges else rows.detach()
        low, high = seen.amin(-1, keepdim=True), seen.amax(-1, keepdim=True)
        out = fake_quantize(rows, self.scheme, *stored(low, high, self.scheme))
        if size is not None:
            out = out.flatten(-2)[..., :width]
        return out.movedim(-1, self.axis)


@dataclass(frozen=True, eq=False)
class Static:
    """Fixed scales: one for the tensor, or one a channel.

    Attributes
    ----------
    scheme
        What grid they scale.
    scale, offset
        float32 (1,) or (channels,); tensors that need gradients are trained through.
    axis
        Of the channels.

    Examples
    --------
    >>> halves = Static(Scheme.parse("int8-tensor"), torch.tensor([0.5]), torch.tensor([0.0]))
    >>> halves(torch.tensor([0.3, 1.1])).tolist()
    [0.5, 1.0]
    """

    scheme: Scheme
    scale: torch.Tensor
    offset: torch.Tensor
    axis: int = -1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale.numel() == 1:
            return fake_quantize(x, self.scheme, self.scale, self.offset.to(x.device))
        shape = [1] * x.dim()
        shape[self.axis] = -1
        return fake_quantize(x, self.scheme, self.scale.reshape(shape), self.offset.to(x.device).reshape(shape))


def from_values(
    values: np.ndarray,
    scheme: Scheme,
    *,
    axis: int = -1,
    ranges: RangeEstimator = mse,
    importance: np.ndarray | None = None,
) -> Static:
    """Fixed scales for values like these.

    Parameters
    ----------
    values
        float32 (rows, channels): a sample of what the site reads.
    scheme
        With `tensor` or `channel` blocks.
    axis
        Of the channels, in the tensors to come.
    ranges
        How the range is found; least squares by default.
    importance
        Optional weight of each channel's error, (channels,): the squared length of the column of the weight that reads
        it, for example. Only for a scale a tensor; alone, a channel's weight changes nothing.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    >>> from_values(x * [1, 2, 3], Scheme.parse("int8-channel-f32")).scale.shape
    torch.Size([3])
    """
    kind = scheme.blocks.spelling
    if kind not in ("tensor", "channel"):
        raise ValueError(f"fixed scales are one a tensor or one a channel, got {scheme}; token and group are dynamic")
    if kind == "channel":
        found = ranges(np.ascontiguousarray(values.T), scheme, None)
    else:
        found = ranges(values, scheme, importance)
    scale, offset = found.scale.reshape(-1), found.offset.reshape(-1)
    return Static(scheme, torch.from_numpy(scale.copy()), torch.from_numpy(offset.copy()), axis)


def from_statistics(statistics: Statistics, scheme: Scheme, *, axis: int = -1, level: float = 1.0) -> Static:
    """Fixed scales from what calibration saw: smallest and largest value, or quantiles, of the tensor or each channel.

    Parameters
    ----------
    statistics
        Of the site's channels. Quantiles need a sketch.
    level
        1 takes the extremes; below it the `1 - level` and `level` quantiles of each channel, and for a scale a tensor
        the outermost of them.

    Examples
    --------
    >>> seen = Statistics(2)
    >>> seen.update(np.float32([[-1.0, 7.0], [1.0, 0.0]]))
    >>> from_statistics(seen, Scheme.parse("int4-tensor-f32")).scale.tolist()
    [1.0]
    """
    if not 0.5 < level <= 1:
        raise ValueError(f"level must be above 0.5 and at most 1, got {level}")
    if not statistics.count:
        raise ValueError("statistics saw nothing; run calibration data through the model first")
    low, high = statistics.minimum, statistics.maximum
    if level < 1:
        if statistics.sketch is None:
            raise ValueError("statistics keep no quantiles; collect them with sketch=True, or use level=1")
        low, high = statistics.sketch.quantile(1 - level), statistics.sketch.quantile(level)
    if scheme.blocks.spelling == "tensor":
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    elif scheme.blocks.spelling != "channel":
        raise ValueError(f"fixed scales are one a tensor or one a channel, got {scheme}; token and group are dynamic")
    lower, upper = (torch.from_numpy(np.array(end, dtype=np.float32)) for end in (low, high))
    return Static(scheme, *stored(lower, upper, scheme), axis)
