"""Moves scale between inputs and weights: a channel of a layer's inputs is divided by a factor, its column of
the weight multiplied by it, and whatever produces the channel (a norm's gain, another layer's rows) divided.

Two formulas for the factors: `balance` evens out what both have to represent, for quantizing inputs too;
`emphasis` enlarges the columns that large inputs read, so that rounding the weights hurts these less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from tercile.quantization.families import Family, Scaling
from tercile.quantization.statistics import Statistics
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite

LIMIT = 1e4  # factors outside 1/LIMIT to LIMIT gain nothing and endanger float16

Factors = Callable[[Statistics, np.ndarray, float], np.ndarray]


def balance(statistics: Statistics, largest_weight: np.ndarray, alpha: float) -> np.ndarray:
    """max|x|^alpha / max|w|^(1 - alpha) for each input channel; 1 where either is zero.

    At alpha = 0.5 inputs and weights get the same largest magnitude, the root of the product of both.

    Parameters
    ----------
    statistics
        Of the inputs.
    largest_weight
        Largest magnitude in each column over all readers, (channels,).
    alpha
        0 leaves the inputs alone but for the weights' own scale, 1 makes all inputs as large.

    Source
    ------
    Xiao et al. (2023), "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
    Models", equation 4.

    Examples
    --------
    >>> seen = Statistics(2, second_moment=False)
    >>> seen.update(np.float32([[8.0, -2.0]]))
    >>> balance(seen, np.array([0.5, 0.5]), 0.5).tolist()
    [4.0, 2.0]
    """
    largest = statistics.maximum_magnitude.astype(np.float64)
    seen = (largest > 0) & (largest_weight > 0)
    top, bottom = np.where(seen, largest, 1.0) ** alpha, np.where(seen, largest_weight, 1.0) ** (1 - alpha)
    return _limited(top / bottom)


def emphasis(statistics: Statistics, largest_weight: np.ndarray, alpha: float) -> np.ndarray:
    """rms(x)^alpha for each input channel, with the middle of smallest and largest brought to 1.

    Parameters are those of `balance`; largest_weight is not used.

    Source
    ------
    Lin et al. (2024), "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and
    Acceleration", equation 5, with the root mean square for the mean magnitude. The paper searches alpha for
    each layer; here it is given.

    Examples
    --------
    >>> seen = Statistics(2, second_moment=False)
    >>> seen.update(np.float32([[16.0, -1.0]]))
    >>> emphasis(seen, np.ones(2), 0.5).tolist()
    [2.0, 0.5]
    """
    size = np.sqrt(statistics.mean_square)
    power = np.where(size > 0, size, 1.0) ** alpha
    return _limited(power / np.sqrt(power.max() * power.min()))


def smooth(
    model: nn.Module,
    family: Family,
    statistics: Mapping[str, Statistics],
    alpha: float = 0.5,
    *,
    factors: Factors = balance,
) -> Rewrite:
    """Moves scale between the inputs and the weights of layers, where what produces the inputs can take it.

    Parameters
    ----------
    model, family
        The model, changed in place, and what `describe` says of it. Factors go between a norm and its
        readers, values and output projection, up- and down-projection, as the family lists them.
    statistics
        By layer name, as `collect` gathers them. Places whose readers have none are left.
    alpha
        0 to 1, see `factors`.
    factors
        `balance`, `emphasis` or any function (statistics, largest weight of each column, alpha) -> positive
        factors.

    Returns
    -------
    Rewrite
        What was merged, and what the inputs of each reader are divided by.

    Raises
    ------
    TypeError, ValueError
        If family or statistics are of another model, alpha is outside 0 to 1, factors are not positive, or a
        product is not finite in the model's type; nothing is changed then.

    Notes
    -----
    Costs one pass over the weights of producers and readers, and a copy of them while it runs.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))
    >>> family = replace(describe(model), scalings=(Scaling("0", ("1",), "norm"),))
    >>> x, seen = torch.randn(50, 3), Statistics(3)
    >>> before = model(x)
    >>> seen.update(model[0](x).detach().numpy())
    >>> smooth(model, family, {"1": seen}).merged
    (('scale of 0', '1'),)
    >>> torch.allclose(model(x), before, atol=1e-5)
    True
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}; the usual value is 0.5")
    new = NewParameters(model, family)
    scalings = family.all_scalings
    if scalings and not any(reader in statistics for scaling in scalings for reader in scaling.readers):
        raise ValueError(f"statistics has none of {scalings[0].readers[0]} and the other layers; collect() them first")
    merged, left, found = [], [], []
    for scaling in scalings:
        seen = [statistics[reader] for reader in scaling.readers if reader in statistics]
        if not seen or not seen[0].count:
            left.append((f"scale of {scaling.producer}", f"no statistics of {', '.join(scaling.readers)}"))
            continue
        # All factors come from the weights as they are, before any is applied.
        found.append((scaling, _factors(new, scaling, seen[0], alpha, factors)))
    divided = {}
    for scaling, channels in found:
        spread = scaling.spread(channels)
        for part in ("weight", "bias"):
            name = f"{scaling.producer}.{part}"
            if name in new:
                value = new.get(name)
                scale = torch.from_numpy(1 / channels).to(value.device)
                new.put(name, value * (scale[:, None] if value.dim() == 2 else scale))
        for reader in scaling.readers:
            weight = new.get(f"{reader}.weight")
            new.put(f"{reader}.weight", weight * torch.from_numpy(spread).to(weight.device))
            divided[reader] = spread
        merged.append((f"scale of {scaling.producer}", ", ".join(scaling.readers)))
    new.apply()
    return Rewrite(tuple(merged), tuple(left), divided)


def _limited(factors: np.ndarray) -> np.ndarray:
    limited: np.ndarray = np.clip(factors, 1 / LIMIT, LIMIT)
    return limited


def _factors(new: NewParameters, scaling: Scaling, seen: Statistics, alpha: float, factors: Factors) -> np.ndarray:
    """One factor a channel of the producer, float64."""
    weights = [new.get(f"{reader}.weight") for reader in scaling.readers]
    if any(weight.shape[1] != seen.channels for weight in weights):
        raise ValueError(f"statistics of {scaling.readers[0]} are of {seen.channels} inputs, not {weights[0].shape[1]}")
    largest = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0).cpu().numpy()
    columns = np.asarray(factors(seen, largest, alpha), dtype=np.float64)
    if columns.shape != largest.shape or not (np.isfinite(columns).all() and (columns > 0).all()):
        raise ValueError(f"factors must be {len(largest)} positive finite numbers for {scaling.readers[0]}")
    return scaling.largest(columns)
