"""A weight as it is stored, in torch, with gradients to what may still change: codes, scales, offsets.

Every kind decodes to `scale * level + offset`, with scale and offset as the scheme can keep them, so that what is
trained is what is written to the file. The kinds differ in what may become of the codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.quantization.blocks import Blocks, as_matrix
from tercile.quantization.grids import Grid
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Ranges


class FixedCodes(nn.Module):
    """Codes stay; scales, and offsets where the scheme has them, may change.

    Parameters
    ----------
    tensor
        What is stored.
    weight
        What it stands for, of the same shape: says on which side of a level a weight lies. Not used where codes stay.

    Attributes
    ----------
    growth
        Logarithm of what each scale has grown by, (block rows, block columns).
    shift
        What each offset has moved by, in scales. It has no gradient in symmetric schemes.
    position
        Where each weight stands on the grid, (rows, columns), in the grid's own unit.

    Examples
    --------
    >>> from tercile.quantization import Scheme, ranges
    >>> scheme, x = Scheme.parse("int4-g2-asym-k6"), np.float32([[1.0, -0.5, 0.25, 0.0]])
    >>> q = QTensor.quantize(x, scheme, ranges.min_max(x, scheme))
    >>> stored = FixedCodes(q)
    >>> bool(np.array_equal(stored.tensor().dequantize(), q.dequantize()))
    True
    """

    #: Whether `position` is learnt.
    moves = False

    def __init__(self, tensor: QTensor, weight: np.ndarray | None = None) -> None:
        super().__init__()
        if weight is not None and as_matrix(np.shape(weight)) != as_matrix(tensor.shape):
            raise ValueError(f"weight has shape {np.shape(weight)}, but what is stored has {tensor.shape}")
        if not isinstance(tensor.scheme.grid, Grid):
            raise ValueError(f"codes of {tensor.scheme} stand for no number by themselves; they cannot be trained")
        self.scheme, self.shape = tensor.scheme, tensor.shape
        self.grid = tensor.scheme.grid
        begun = tensor.ranges
        self.growth = nn.Parameter(torch.zeros(begun.scale.shape))
        self.shift = nn.Parameter(torch.zeros(begun.scale.shape), requires_grad=self.scheme.asymmetric)
        self.register_buffer("first", torch.from_numpy(begun.scale.copy()))
        unit = np.where(begun.scale == 0, np.float32(1), begun.scale)
        start = -begun.offset / unit if self.scheme.whole_offsets else begun.offset
        self.register_buffer("start", torch.from_numpy(start.astype(np.float32)))
        self.register_buffer("levels", torch.from_numpy(self.grid.levels.copy()))
        self.register_buffer("middles", (self.levels[1:] + self.levels[:-1]) / 2)
        self._top = float(len(self.grid.table) - 1)
        self.begin(tensor, weight)

    first: torch.Tensor
    start: torch.Tensor
    levels: torch.Tensor
    middles: torch.Tensor
    position: torch.Tensor

    def begin(self, tensor: QTensor, weight: np.ndarray | None) -> None:
        """Sets `position`; here to the levels of the codes."""
        self.register_buffer("position", torch.from_numpy(self.grid.decode(tensor.codes)))

    def level(self) -> torch.Tensor:
        """Level of each weight, (rows, columns)."""
        return self.position

    def _hold(self, nearness: torch.Tensor, moving: float) -> torch.Tensor:
        """Stops the gradients of all but the weights of the greatest nearness, and says which are still."""
        count = round(moving * nearness.numel())
        still = torch.ones_like(nearness, dtype=torch.bool)
        still.view(-1)[nearness.flatten().topk(count).indices] = False
        self.position.requires_grad_(True).register_hook(lambda gradient: gradient.masked_fill(still, 0.0))
        return still

    def blocks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and offsets as the scheme keeps them, (block rows, block columns), with straight-through gradients."""
        scale = self.first * self.growth.exp()
        offset, zero = torch.zeros_like(scale), None
        if self.scheme.whole_offsets:
            zero = (self.start - self.shift).clamp(0, self._top)
            offset = -scale * zero
        elif self.scheme.asymmetric:
            offset = (self.start + self.first * self.shift).clamp(max=0)
        kept = self._kept(scale, offset)
        kept_scale, kept_offset = (torch.from_numpy(one).to(scale.device) for one in (kept.scale, kept.offset))
        scale = scale + (kept_scale - scale).detach()
        if zero is not None:
            whole = torch.where(kept_scale == 0, 0.0, -kept_offset / torch.where(kept_scale == 0, 1.0, kept_scale))
            return scale, -scale * (zero + (whole - zero).detach())
        return scale, offset + (kept_offset - offset).detach()

    def forward(self) -> torch.Tensor:
        """The decoded weight in its own shape."""
        scale, offset = self.blocks()
        matrix = as_matrix(self.shape)
        decoded = self.level() * spread(scale, self.scheme.blocks, matrix)
        if self.scheme.asymmetric:
            decoded = decoded + spread(offset, self.scheme.blocks, matrix)
        return decoded.reshape(self.shape)

    @torch.no_grad()
    def tensor(self) -> QTensor:
        """What is stored now."""
        scale = self.first * self.growth.exp()
        offset = torch.zeros_like(scale)
        if self.scheme.whole_offsets:
            offset = -scale * (self.start - self.shift).clamp(0, self._top)
        elif self.scheme.asymmetric:
            offset = (self.start + self.first * self.shift).clamp(max=0)
        index = torch.bucketize(self.level().detach().contiguous(), self.middles).cpu().numpy()
        codes = self.grid.code_of_level[index]
        return QTensor.from_codes(codes, self.shape, self.scheme, self._kept(scale, offset))

    def _kept(self, scale: torch.Tensor, offset: torch.Tensor) -> Ranges:
        wanted = scale.detach().cpu().numpy()
        return self.scheme.ranges(wanted, offset.detach().cpu().numpy() if self.scheme.asymmetric else None)


class StraightThrough(FixedCodes):
    """Every weight may move to any level: the forward pass rounds, the backward pass acts as if it did not.

    A weight starts where `weight` stands within the cell of its code, so that those near a border cross it first.
    Bengio, Leonard and Courville (2013), "Estimating or Propagating Gradients Through Stochastic Neurons".

    Examples
    --------
    >>> from tercile.quantization import Scheme, ranges
    >>> scheme, x = Scheme.parse("int4-g2-f32"), np.float32([[1.0, -0.5, 0.25, 0.0]])
    >>> stored = StraightThrough(QTensor.quantize(x, scheme, ranges.min_max(x, scheme)), x)
    >>> stored().sum().backward()
    >>> stored.position.grad.shape, bool((stored.position.grad == spread(stored.first, scheme.blocks, (1, 4))).all())
    (torch.Size([1, 4]), True)
    """

    moves = True
    #: A weight starts at least this share of a cell away from its border.
    MARGIN = 0.05

    def begin(self, tensor: QTensor, weight: np.ndarray | None) -> None:
        grid, codes = self.grid, tensor.codes
        level = grid.decode(codes)
        where = level if weight is None else _within_cells(level, weight, tensor, self.MARGIN)
        self.position = nn.Parameter(torch.from_numpy(where))

    def level(self) -> torch.Tensor:
        rounded: torch.Tensor = _Round.apply(self.position, self.levels, self.middles)
        return rounded

    def hold(self, moving: float) -> None:
        """Lets only this share of the weights move, those that stand nearest to another level; for good."""
        index = torch.bucketize(self.position.detach().contiguous(), self.middles)
        self._hold((self.position.detach() - self.levels[index]).abs(), moving)

    @torch.no_grad()
    def clip(self) -> None:
        """Keeps positions where a step can bring them back: at most half a cell beyond the last levels."""
        low, high = self.levels[:2], self.levels[-2:]
        self.position.clamp_(float(1.5 * low[0] - 0.5 * low[1]), float(1.5 * high[1] - 0.5 * high[0]))


class SoftRounding(FixedCodes):
    """Every weight goes to one of the two levels around it, by a gate between 0 and 1 that is pressed to its ends.

    Nagel, Amjad, van Baalen, Louizos and Blankevoort (2020), "Up or Down? Adaptive Rounding for Post-Training
    Quantization": the rectified sigmoid of equation 23, pressed by `pressure`, equation 24.

    Examples
    --------
    >>> from tercile.quantization import Scheme, ranges
    >>> scheme, x = Scheme.parse("int4-g2-f32"), np.float32([[1.0, -0.5, 0.25, 0.0]])
    >>> stored = SoftRounding(QTensor.quantize(x, scheme, ranges.min_max(x, scheme)), x)
    >>> bool(np.allclose(stored().detach(), x, atol=1e-5))
    True
    """

    moves = True
    #: How far the sigmoid is stretched beyond 0 and 1, so that a gate reaches its ends.
    LOW, HIGH = -0.1, 1.1

    def begin(self, tensor: QTensor, weight: np.ndarray | None) -> None:
        grid = self.grid
        level = grid.decode(tensor.codes)
        where = level if weight is None else _positions(weight, tensor)
        below = np.clip(np.searchsorted(grid.levels, where, side="right") - 1, 0, len(grid.levels) - 2)
        self.register_buffer("below", torch.from_numpy(grid.levels[below]))
        self.register_buffer("gap", torch.from_numpy(np.diff(grid.levels)[below]))
        share = torch.from_numpy(np.clip((where - grid.levels[below]) / np.diff(grid.levels)[below], 0, 1))
        inner = ((share - self.LOW) / (self.HIGH - self.LOW)).clamp(1e-4, 1 - 1e-4)
        self.position = nn.Parameter(torch.log(inner / (1 - inner)))

    below: torch.Tensor
    gap: torch.Tensor

    def gate(self) -> torch.Tensor:
        """0 is the lower level, 1 the upper."""
        return (torch.sigmoid(self.position) * (self.HIGH - self.LOW) + self.LOW).clamp(0, 1)

    def level(self) -> torch.Tensor:
        return self.below + self.gap * self.gate()

    def hold(self, moving: float) -> None:
        """Lets only this share of the weights move, those that stand nearest to the middle; for good."""
        gate = self.gate().detach()
        still = self._hold(0.5 - (gate - 0.5).abs(), moving)
        with torch.no_grad():  # what is still is rounded now: far out, where a gate has no slope
            self.position[still] = torch.where(gate[still] < 0.5, -20.0, 20.0)

    def pressure(self, exponent: float) -> torch.Tensor:
        """Mean of 1 - |2 gate - 1|^exponent: 0 when every gate is at an end."""
        return (1 - (2 * self.gate() - 1).abs().pow(exponent)).mean()


Rounding = type[FixedCodes]


class _Round(torch.autograd.Function):
    """Nearest level, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, position: torch.Tensor, levels: torch.Tensor, middles: torch.Tensor) -> torch.Tensor:
        step = levels[1] - levels[0]
        if bool((levels[1:] - levels[:-1] == step).all()):
            return ((position - levels[0]) / step).round_().clamp_(0, len(levels) - 1).mul_(step).add_(levels[0])
        return levels[torch.bucketize(position.contiguous(), middles)]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0], None, None


def spread(parameters: torch.Tensor, blocks: Blocks, matrix: tuple[int, int]) -> torch.Tensor:
    """One parameter a block as one an element, or as what broadcasts to that; `Blocks.spread` in torch.

    >>> from tercile.quantization.blocks import tile
    >>> spread(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), tile(2, 2), (3, 3)).tolist()
    [[1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [3.0, 3.0, 4.0]]
    """
    rows, columns = matrix
    if parameters.shape[0] not in (1, rows):
        parameters = _repeat(parameters.T, blocks.rows or rows, rows).T
    return parameters if parameters.shape[1] == 1 else _repeat(parameters, blocks.columns or columns, columns)


def _repeat(parameters: torch.Tensor, size: int, length: int) -> torch.Tensor:
    count, width = parameters.shape
    return parameters[:, :, None].expand(count, width, size).reshape(count, width * size)[:, :length]


def _positions(weight: np.ndarray, tensor: QTensor) -> np.ndarray:
    """Where a weight stands on the grid of what stores it, in the grid's own unit; 0 where the scale is 0."""
    matrix, ranges, blocks = as_matrix(tensor.shape), tensor.ranges, tensor.scheme.blocks
    scale, offset = (blocks.spread(one, matrix) for one in (ranges.scale, ranges.offset))
    values = np.asarray(weight, dtype=np.float32).reshape(matrix) - offset
    scale = np.broadcast_to(scale, matrix)
    return np.divide(values, scale, out=np.zeros(matrix, np.float32), where=scale != 0)


def _within_cells(level: np.ndarray, weight: np.ndarray, tensor: QTensor, margin: float) -> np.ndarray:
    """Positions moved into the cells of the levels that were chosen for them."""
    grid = tensor.scheme.grid
    assert isinstance(grid, Grid)
    middles = (grid.levels[1:] + grid.levels[:-1]) / 2
    first, last = 2 * grid.levels[0] - middles[0], 2 * grid.levels[-1] - middles[-1]
    borders = np.concatenate([[first], middles, [last]]).astype(np.float32)
    index = grid.level_of_code[tensor.codes]
    low, high = borders[:-1][index], borders[1:][index]
    room = margin * (high - low)
    moved: np.ndarray = np.clip(_positions(weight, tensor), low + room, high - room).astype(np.float32)
    return moved
