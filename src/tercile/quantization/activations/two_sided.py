"""A scale for what is below zero and another for what is above: for activations whose two sides differ in size.

What SiLU and GELU give out reaches far up and a fraction of one down, and many values lie in that fraction. On an even
grid with one scale the negative side gets a few levels only; with its own it gets as many as the positive side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tercile.quantization.activations.quantizers import Dynamic, Static, from_values
from tercile.quantization.activations.rounding import fake_quantize
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme


@dataclass(frozen=True, eq=False)
class TwoSided:
    """Fixed scales for a tensor: one below zero, one above, on the same grid. No more bits than with one scale.

    Attributes
    ----------
    scheme
        A symmetric grid.
    negative, positive
        float32 (1,).

    Notes
    -----
    A product with such activations is the sum of two: `W min(x, 0) + W max(x, 0)`, each of whole numbers and one scale.
    That is twice the work of one.

    Examples
    --------
    >>> sides = TwoSided(Scheme.parse("int4-tensor-f32"), torch.tensor([0.125]), torch.tensor([1.0]))
    >>> sides(torch.tensor([-0.26, -2.0, 0.26, 3.2])).tolist()
    [-0.25, -1.0, 0.0, 3.0]
    """

    scheme: Scheme
    negative: torch.Tensor
    positive: torch.Tensor

    def __post_init__(self) -> None:
        if self.scheme.asymmetric or self.scheme.blocks.spelling != "tensor":
            raise ValueError(f"two sides have a symmetric grid and a scale a tensor each, got {self.scheme}")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x, any shape, rounded."""
        return fake_quantize(x, self.scheme, torch.where(x < 0, self.negative, self.positive))


def two_sided(values: np.ndarray, scheme: Scheme, *, ranges: RangeEstimator = mse) -> TwoSided:
    """The scales of both sides for values like these.

    Parameters
    ----------
    values
        float32 (rows, channels): a sample of what the site reads.
    scheme
        Symmetric, with a scale a tensor.
    ranges
        How the range of each side is found; least squares by default.

    Raises
    ------
    ValueError
        If the scheme is none of these.

    Source
    ------
    DualScale of "SegQuant" (2025), arXiv:2507.14811, which takes the largest magnitude of each side.

    Examples
    --------
    >>> x = torch.nn.functional.silu(4 * torch.randn(500, 8, generator=torch.Generator().manual_seed(0))).numpy()
    >>> found = two_sided(x, Scheme.parse("int8-tensor-f32"))
    >>> bool(20 < found.positive / found.negative < 80)
    True
    """
    below, above = np.minimum(values, 0), np.maximum(values, 0)
    sides = [from_values(side, scheme, ranges=ranges).scale for side in (below, above)]
    return TwoSided(scheme, sides[0], sides[1])


def polarity_gain(values: np.ndarray, scheme: Scheme, *, ranges: RangeEstimator = mse) -> float:
    """How many times smaller the squared rounding error is with a scale for each side than with one.

    Parameters
    ----------
    values, scheme, ranges
        As for `two_sided`.

    Returns
    -------
    About 1 where both sides reach as far, or one is empty; at most one over the share of values above zero where these
    reach farther, since their error stays. Infinite where only two scales round without error.

    Examples
    --------
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> scheme = Scheme.parse("int8-tensor-f32")
    >>> gains = [polarity_gain(each.numpy(), scheme) for each in (x, x.relu(), torch.nn.functional.silu(4 * x))]
    >>> [round(gain, 1) for gain in gains]
    [1.0, 1.0, 1.8]
    """
    one, two = from_values(values, scheme, ranges=ranges), two_sided(values, scheme, ranges=ranges)
    seen = torch.from_numpy(values)
    errors = [float((rounded(seen) - seen).double().square().mean()) for rounded in (one, two)]
    return errors[0] / errors[1] if errors[1] else (1.0 if not errors[0] else float("inf"))


def one_scale(values: np.ndarray, scheme: Scheme) -> Static | Dynamic:
    """Fixed scales for values like these, or dynamic ones where the scheme's blocks are tokens or groups.

    Parameters
    ----------
    values, scheme
        As for `two_sided`; any scheme.

    Examples
    --------
    >>> [type(one_scale(np.ones((2, 4), np.float32), Scheme.parse(s))).__name__ for s in ("int8-token", "int8-tensor")]
    ['Dynamic', 'Static']
    """
    return from_values(values, scheme) if scheme.blocks.spelling in ("tensor", "channel") else Dynamic(scheme)


def fitted_sides(
    values: np.ndarray, scheme: Scheme, *, least_gain: float = 1.25, ranges: RangeEstimator = mse
) -> Static | TwoSided:
    """Two scales where calibration shows that they pay for a second product, one elsewhere.

    Parameters
    ----------
    values, scheme, ranges
        As for `two_sided`.
    least_gain
        The `polarity_gain` from which there are two.

    Examples
    --------
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> scheme = Scheme.parse("int8-tensor-f32")
    >>> [type(fitted_sides(each.numpy(), scheme)).__name__ for each in (x, torch.nn.functional.gelu(x))]
    ['Static', 'TwoSided']
    """
    if polarity_gain(values, scheme, ranges=ranges) < least_gain:
        return from_values(values, scheme, ranges=ranges)
    return two_sided(values, scheme, ranges=ranges)
