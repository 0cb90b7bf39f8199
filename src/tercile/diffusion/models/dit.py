"""DiT: a transformer over patches whose norms are set by time step and class (Peebles and Xie 2023, adaLN-Zero)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Shape:
    """How large a DiT is.

    Attributes
    ----------
    size, patch, channels
        Height and width of the square pictures, of a patch, and their channels.
    width, depth, heads
        Of the transformer.
    classes
        What pictures are conditioned on.

    Raises
    ------
    ValueError
        If patches do not fill the picture or heads the width, or the width is odd.
    """

    size: int = 16
    patch: int = 4
    channels: int = 1
    width: int = 128
    depth: int = 6
    heads: int = 4
    classes: int = 10

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill pictures of {self.size}; choose a divisor")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width must be even and a multiple of heads {self.heads}, got {self.width}")


class Attention(nn.Module):
    """Self-attention with one layer for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) to the same."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed: torch.Tensor = self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and an MLP, each behind a norm that is shifted and scaled, and before a gate; gates start at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (n, tokens, width) and condition (n, width) to (n, tokens, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class TimeEmbedding(nn.Module):
    """Cosines and sines of the time step, through a small MLP."""

    def __init__(self, width: int, waves: int = 128) -> None:
        super().__init__()
        self.register_buffer("rates", torch.exp(-math.log(10_000) * torch.arange(waves) / waves), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width))

    rates: torch.Tensor

    def forward(self, step: torch.Tensor) -> torch.Tensor:
        """(n,) to (n, width)."""
        angles = step[:, None].float() * self.rates
        embedded: torch.Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return embedded


class DiT(nn.Module):
    """Predicts the noise in pictures at a time step, given their class.

    Parameters
    ----------
    shape
        How large it is.

    Notes
    -----
    As it starts, it is the zero function: all gates and the last layer are zero.

    Examples
    --------
    >>> model = DiT(Shape(width=32, depth=2, heads=2))
    >>> model(torch.ones(3, 1, 16, 16), torch.tensor([1, 50, 900]), torch.tensor([0, 1, 2])).shape
    torch.Size([3, 1, 16, 16])
    """

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.shape = shape
        self.side = shape.size // shape.patch
        numbers = shape.channels * shape.patch**2
        self.patches = nn.Linear(numbers, shape.width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.side**2, shape.width))
        self.time = TimeEmbedding(shape.width)
        self.label = nn.Embedding(shape.classes, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(shape.width, 2 * shape.width))
        self.head = nn.Linear(shape.width, numbers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.label.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("modulation.1.weight", "head.weight")):
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, step: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Noise in x (n, channels, size, size), at whole steps (n,), of classes (n,)."""
        patch, side = self.shape.patch, self.side
        # (n, channels, side, patch, side, patch) to (n, side * side, channels * patch * patch), and back at the end.
        cut = x.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        tokens = self.patches(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.positions
        condition = self.time(step) + self.label(label)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        out = self.head(self.norm(tokens) * (1 + scale) + shift)
        pieces = out.unflatten(2, (self.shape.channels, patch, patch)).unflatten(1, (side, side))
        return pieces.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
