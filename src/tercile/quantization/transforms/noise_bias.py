"""A fixed noise added before rounding and taken off after it, which the next layer's bias can do.

    W (Q(x + N) - N) + c  =  W Q(x + N) + (c - W N)

A value that lies on its level has nothing to win from being moved; one half-way between two levels is best moved at
random, so that its error is no longer the worst one every time. Which of the two is the rule decides whether noise
helps, and that is known before it is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tercile.quantization.activations import Static


@dataclass(frozen=True, eq=False)
class Noisy:
    """A quantizer with a noise bias in front: x -> Q(x + noise) - noise.

    Attributes
    ----------
    quantizer
        Any quantizer of activations.
    noise
        float32 (channels,): the same for every token, drawn once.
    axis
        Of the channels.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> whole = Static(Scheme.parse("int8-tensor"), torch.ones(1), torch.zeros(1))
    >>> Noisy(whole, torch.tensor([0.0, 0.25]))(torch.tensor([[1.3, 1.3]])).tolist()
    [[1.0, 1.75]]
    """

    quantizer: Callable[[torch.Tensor], torch.Tensor]
    noise: torch.Tensor
    axis: int = -1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shape = [1] * x.dim()
        shape[self.axis] = -1
        noise = self.noise.to(x.device, x.dtype).reshape(shape)
        return self.quantizer(x + noise) - noise


def expected_error(values: np.ndarray, step: float, spread: float) -> np.ndarray:
    """Mean squared error of rounding each value to even steps after uniform noise from -spread to spread was added.

    Parameters
    ----------
    values
        Any shape.
    step, spread
        Distance of the levels, above 0, and half the width of the noise, not negative.

    Returns
    -------
    float64 in the shape of values. Without noise it is the squared distance to the nearest level; as the noise grows it
    tends to step^2 / 12, whatever the value. Noise pays where it lowers the mean over a tensor's values.

    Source
    ------
    Liu et al., "NoisyQuant: Noisy Bias-Enhanced Post-Training Activation Quantization for Vision Transformers",
    arXiv:2211.16056, gives a condition under which this falls; the closed form is the integral itself.

    Examples
    --------
    >>> expected_error(np.array([0.0, 0.5]), 1.0, 0.0).tolist()
    [0.0, 0.25]
    >>> expected_error(np.array([0.0, 0.5]), 1.0, 0.5).round(4).tolist()
    [0.0833, 0.0833]
    """
    if not step > 0 or not spread >= 0:
        raise ValueError(f"step must be above 0 and spread not negative, got {step} and {spread}")
    unit = np.asarray(values, dtype=np.float64) / step
    half = spread / step
    if half == 0:
        distance: np.ndarray = (unit - np.round(unit)) ** 2 * step**2
        return distance
    mean: np.ndarray = (_integral(unit + half) - _integral(unit - half)) / (2 * half) * step**2
    return mean


def _integral(x: np.ndarray) -> np.ndarray:
    """Integral from 0 to x of the squared distance to the nearest whole number: 1/12 for each whole one."""
    whole = np.round(x)
    rest = x - whole
    result: np.ndarray = whole / 12 + rest**3 / 3
    return result


def noise_bias(
    sample: np.ndarray, quantizer: Static, weight: np.ndarray | None = None, *, tries: int = 24, seed: int = 0
) -> Noisy:
    """Finds a noise bias for a quantizer with one scale: the shift, then the width of the noise, of least error.

    Parameters
    ----------
    sample
        float32 (rows, channels): what the site reads.
    quantizer
        Found for the same sample; one scale for the tensor.
    weight
        (outputs, channels) of the layer that reads it: its outputs are compared. Without it the inputs are.
    tries
        Shifts, and widths, that are tried, each up to one step. Every other row of the sample chooses; the rest says
        whether the best of them is kept.
    seed
        Of the noise.

    Returns
    -------
    Noisy
        With a noise of zeros where none helps.

    Notes
    -----
    Costs 2 * tries roundings of the sample and products with the weight.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.activations import from_values
    >>> from tercile.quantization.ranges import min_max
    >>> x = np.random.default_rng(0).uniform(0.2, 0.5, size=(200, 8)).astype(np.float32)
    >>> x[0, 0] = 3  # one value makes the steps so wide that all others are rounded to zero
    >>> plain = from_values(x, Scheme.parse("int3-tensor-f32"), ranges=min_max)
    >>> error = lambda quantizer: float((quantizer(torch.from_numpy(x)) - torch.from_numpy(x)).square().mean())
    >>> error(noise_bias(x, plain)) < error(plain)
    True
    """
    if quantizer.scale.numel() != 1:
        raise ValueError(f"quantizer has {quantizer.scale.numel()} scales; a noise bias is for one scale a tensor")
    if sample.ndim != 2 or not len(sample):
        raise ValueError(f"sample must be (rows, channels) and not empty, got shape {sample.shape}")
    x = torch.from_numpy(np.ascontiguousarray(sample, dtype=np.float32))
    fitted, checked = x[::2], x[1::2] if len(x) > 1 else x
    readers = None if weight is None else torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32)).T
    levels = torch.from_numpy(quantizer.scheme.grid.levels.copy())
    step = float(quantizer.scale.abs() * (levels[1:] - levels[:-1]).min())

    def error(noise: torch.Tensor, rows: torch.Tensor = fitted) -> float:
        change = Noisy(quantizer, noise)(rows) - rows
        return float((change if readers is None else change @ readers).square().mean())

    still = torch.zeros(x.shape[1])
    shift = min([still] + [still + step * (share - 0.5) for share in np.linspace(0, 1, tries)], key=error)
    drawn = torch.rand(x.shape[1], generator=torch.Generator().manual_seed(seed)) * 2 - 1
    widths = np.linspace(0, 1, tries + 1)[1:]
    noise = min([shift] + [shift + step * share * drawn for share in widths], key=error)
    # The best of many is a little better by chance: it has to be so on rows that did not choose it.
    helps = error(noise, checked) < error(still, checked)
    return Noisy(quantizer, noise if helps else still, quantizer.axis)
