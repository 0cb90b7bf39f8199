"""Rounds torch tensors to a Scheme's grid and lets gradients through: fake quantization."""

from __future__ import annotations

from functools import cache

import torch

from tercile.quantization.grids import Grid
from tercile.quantization.scales import Float8, Plain, PowerOfTwo
from tercile.quantization.scheme import Scheme

_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def fake_quantize(
    x: torch.Tensor, scheme: Scheme, scale: torch.Tensor, offset: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """What x comes back as when it is stored with these scales: scale * nearest level of (x - offset) / scale + offset.

    Parameters
    ----------
    x
        Any shape, any float type; computed in float32.
    scheme
        Only its grid is used: any grid of the room.
    scale, offset
        Broadcast against x. A scale of 0 stands for a block of zeros.

    Returns
    -------
    Tensor of the shape and type of x. The gradient passes straight through the rounding: to x where it is within
    the grid, and to scale and offset as in learned step size quantization, so that both can be trained.

    Notes
    -----
    Costs a rounding an element for integers, a binary search among the levels for other grids.

    Examples
    --------
    >>> x = torch.tensor([0.26, -3.0, 0.9], requires_grad=True)
    >>> y = fake_quantize(x, Scheme.parse("int4-tensor"), torch.tensor(0.25))
    >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([0.25, -2.0, 1.0], [1.0, 0.0, 1.0])
    """
    low, high = float(scheme.grid.levels[0]), float(scheme.grid.levels[-1])
    scale = torch.as_tensor(scale, dtype=torch.float32, device=x.device)
    # Scales may be negative where a grid is used the other way round; zero scales divide by one and multiply by zero.
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    unit = ((x.float() - offset) / divisor).clamp(low, high)
    rounded = unit + (nearest_level(unit.detach(), scheme.scalar_grid) - unit.detach())
    return (rounded * scale + offset).to(x.dtype)


def nearest_level(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Nearest value of a grid for each element; half-way values go to either neighbour.

    Examples
    --------
    >>> from tercile.quantization import grids
    >>> nearest_level(torch.tensor([0.4, 7.0]), grids.parse("fp4-e2m1")).tolist()
    [0.5, 6.0]
    """
    levels, middles, whole = _tables(grid)
    if whole:
        return x.round().clamp(float(levels[0]), float(levels[-1]))
    levels, middles = levels.to(x.device), middles.to(x.device)
    return levels[torch.bucketize(x.contiguous(), middles)]


@cache
def _tables(grid: Grid) -> tuple[torch.Tensor, torch.Tensor, bool]:
    levels = torch.from_numpy(grid.levels.copy())
    whole = bool((levels[1:] - levels[:-1] == 1).all() and (levels == levels.round()).all())
    return levels, (levels[1:] + levels[:-1]) / 2, whole


def stored(low: torch.Tensor, high: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset, as the scheme can store them, that make the grid reach from low to high.

    Parameters
    ----------
    low, high
        Ends of the range of each block, any shape; zero is always within.

    Raises
    ------
    ValueError
        If the scheme keeps its scales under super-scales, which needs all of them at once and costs more than it
        saves at run time.

    Examples
    --------
    >>> scale, offset = stored(torch.tensor(-1.0), torch.tensor(2.0), Scheme.parse("int4-token-asym-f32"))
    >>> round(float(scale), 3), round(float(offset), 3)
    (0.2, -1.0)
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    first, last = float(scheme.grid.levels[0]), float(scheme.grid.levels[-1])
    if scheme.asymmetric:
        scale = _format((high - low) / (last - first), scheme)
        zero = (-low / torch.where(scale == 0, torch.ones_like(scale), scale)).round().clamp(0, last)
        return scale, -scale * zero
    scale = torch.maximum(high / last if last > 0 else high * 0, low / first if first < 0 else low * 0)
    return _format(scale, scheme), torch.zeros_like(scale)


def _format(scale: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Scales rounded to the scheme's format, as `tercile.quantization.scales` does."""
    kept = scheme.scale_format
    if isinstance(kept, Plain):
        limit = torch.finfo(_TYPES[kept.spelling]).max
        return scale.clamp(max=limit).to(_TYPES[kept.spelling]).float()
    if isinstance(kept, PowerOfTwo):
        return torch.exp2(scale.clamp(min=2.0**-126).log2().round().clamp(-126, 127))
    if isinstance(kept, Float8):
        largest = scale.max().clamp(min=2.0**-100)
        unit = torch.exp2((largest / 448).log2().ceil())
        return (scale / unit).to(torch.float8_e4m3fn).float() * unit
    raise ValueError(f"activations cannot have {kept.spelling} scales; use f32, f16, bf16, e8m0 or e4m3")
