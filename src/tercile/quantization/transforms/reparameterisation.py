"""Makes the channels that a norm gives out equally wide, so that one scale for all of them loses no more than one each.

A norm followed by linear layers can absorb a factor and a shift a channel, and the layers undo both:

    W (r * (y + b)) + c  =  (W diag(r)) y + (c + W (r * b)),    y = x / r - b

so the finer quantizer, with a scale and zero point a channel, is turned into one for the whole tensor at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from tercile.quantization.families import Family
from tercile.quantization.statistics import Statistics
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite
from tercile.quantization.transforms.smoothing import LIMIT

#: Picks the one scale, or zero point, that all channels are brought to.
Centre = Callable[[np.ndarray], float]


def mean(values: np.ndarray) -> float:
    """Their mean.

    Examples
    --------
    >>> mean(np.array([1.0, 2.0, 9.0]))
    4.0
    """
    return float(np.mean(values))


def median(values: np.ndarray) -> float:
    """Their median, which is also the number of least mean absolute deviation: a few wide channels do not move it.

    Yang, Gong, Lin, Wu, Sun, Gu (2024), "DopQ-ViT", arXiv:2408.03291, choose the scale so.

    Examples
    --------
    >>> median(np.array([1.0, 2.0, 9.0]))
    2.0
    """
    return float(np.median(values))


def reparameterise_norms(
    model: nn.Module, family: Family, statistics: Mapping[str, Statistics], *, centre: Centre = mean
) -> Rewrite:
    """Brings every channel that a norm gives out to one range, and its readers' weights to fit.

    Parameters
    ----------
    model, family
        The model, changed in place, and what `describe` says of it. Norms that something else than linear layers reads
        are left: post-norm blocks, as in BERT, offer nothing.
    statistics
        By layer name; the extremes of each channel are used.
    centre
        What range and zero point the channels are brought to: `mean`, `median` or any function of them all.

    Returns
    -------
    Rewrite
        `divided` and `shifted` say what became of the inputs of each reader. Without a bias in the norm and in all its
        readers there is no shift.

    Raises
    ------
    TypeError, ValueError
        If family or statistics are of another model, centre gives no positive range, or a product is not finite in the
        model's type; nothing is changed then.

    Notes
    -----
    Costs one pass over the weights of norms and readers, and a copy of them while it runs.

    Source
    ------
    Li, Xiao, Yang, Gu (2022), "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
    Transformers", arXiv:2212.08254.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from tercile.quantization.families import Scaling, describe
    >>> model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))
    >>> with torch.no_grad(): _ = model[0].weight.copy_(torch.tensor([1.0, 5.0, 0.2]))
    >>> family = replace(describe(model), scalings=(Scaling("0", ("1",), "norm"),))
    >>> x, seen = torch.randn(50, 3), Statistics(3)
    >>> seen.update(model[0](x).detach().numpy())
    >>> before = model(x)
    >>> _ = reparameterise_norms(model, family, {"1": seen})
    >>> y = model[0](x).detach()
    >>> torch.allclose(model(x), before, atol=1e-5), float(np.ptp((y.amax(0) - y.amin(0)).numpy())) < 1e-5
    (True, True)
    """
    new = NewParameters(model, family)
    scalings = [scaling for scaling in family.all_scalings if scaling.kind == "norm"]
    if scalings and not any(reader in statistics for scaling in scalings for reader in scaling.readers):
        raise ValueError(f"statistics has none of {scalings[0].readers[0]} and the other layers; collect() them first")
    merged, left = [], []
    divided: dict[str, np.ndarray] = {}
    shifted: dict[str, np.ndarray] = {}
    for scaling in scalings:
        seen = next((statistics[reader] for reader in scaling.readers if reader in statistics), None)
        if seen is None or not seen.count:
            left.append((f"range of {scaling.producer}", f"no statistics of {', '.join(scaling.readers)}"))
            continue
        weight_name, bias_name = f"{scaling.producer}.weight", f"{scaling.producer}.bias"
        if len(new.get(weight_name)) != seen.channels:
            raise ValueError(f"statistics of {scaling.readers[0]} are of {seen.channels} inputs, not its own")
        shiftable = bias_name in new and all(f"{reader}.bias" in new for reader in scaling.readers)
        factor, shift = _target(seen, centre, shiftable)
        r, b = torch.from_numpy(factor), torch.from_numpy(shift)
        new.put(weight_name, new.get(weight_name) / r.to(new.get(weight_name).device))
        if bias_name in new:
            bias = new.get(bias_name)
            new.put(bias_name, bias / r.to(bias.device) - b.to(bias.device))
        for reader in scaling.readers:
            weight = new.get(f"{reader}.weight")
            weight = weight * r.to(weight.device)
            new.put(f"{reader}.weight", weight)
            divided[reader] = factor
            if shiftable:
                new.put(f"{reader}.bias", new.get(f"{reader}.bias") + weight @ b.to(weight.device))
                shifted[reader] = shift
        what = "range and zero" if shiftable else "range"
        merged.append((f"{what} of {scaling.producer}", ", ".join(scaling.readers)))
    new.apply()
    return Rewrite(tuple(merged), tuple(left), divided, shifted)


def _target(seen: Statistics, centre: Centre, shiftable: bool) -> tuple[np.ndarray, np.ndarray]:
    """Factor r and shift b of each channel, float64."""
    low, high = seen.minimum.astype(np.float64), seen.maximum.astype(np.float64)
    if not shiftable:  # zero has to stay where it is
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    width = high - low
    alive = width > 0
    if not alive.any():
        return np.ones_like(width), np.zeros_like(width)
    wanted = float(centre(width[alive]))
    if not (np.isfinite(wanted) and wanted > 0):
        raise ValueError(f"centre must give a positive range, got {wanted} for {int(alive.sum())} channels")
    factor = np.ones_like(width)
    factor[alive] = np.clip(width[alive] / wanted, 1 / LIMIT, LIMIT)
    shift = np.zeros_like(width)
    if shiftable:
        # The zero point as a share of the range, which does not depend on the number of bits.
        lowest = -float(centre(-low[alive] / width[alive])) * wanted
        shift[alive] = low[alive] / factor[alive] - lowest
    return factor, shift
