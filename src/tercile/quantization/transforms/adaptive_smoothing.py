"""Smoothing that leaves ordinary channels alone: only those of the inputs that stand out are divided, down to a limit.

Dividing every channel, as `balance` does, makes weights harder to round in exchange for inputs; with weights of 4 bits
that is a bad bargain for all channels but the few that spoil the inputs' scale. So a limit is tried from the largest
input down, and the one is kept with which the layers' outputs, inputs and weights rounded, change least.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tercile.quantization.activations import Dynamic
from tercile.quantization.families import Family
from tercile.quantization.ranges import min_max
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.statistics import Statistics
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite
from tercile.quantization.transforms.smoothing import smooth

FOUR_BITS, TOKENS = Scheme.parse("int4-channel"), Scheme.parse("int8-token")


def smooth_outliers(
    model: nn.Module,
    family: Family,
    inputs: Mapping[str, np.ndarray],
    weights: Scheme = FOUR_BITS,
    activations: Scheme = TOKENS,
    *,
    steps: int = 100,
) -> Rewrite:
    """Divides the channels of inputs that stand out, where what produces them can take it; see `smooth`.

    Parameters
    ----------
    model, family
        The model, changed in place, and what `describe` says of it.
    inputs
        By layer name a sample of what it reads, float32 (rows, channels). Places none of whose readers is named are
        left.
    weights, activations
        How both are going to be rounded; by default to 4 bits with a scale a row, and 8 bits with a scale a token.
    steps
        Limits that are tried at each place, evenly from the largest magnitude to a hundredth of it.

    Returns
    -------
    What was merged, and what the inputs of each reader are divided by.

    Raises
    ------
    ValueError
        If steps is below 1, or as `smooth`.

    Source
    ------
    Zhang et al. (2024), "QQQ: Quality Quattuor-Bit Quantization for Large Language Models", arXiv:2406.09904, adaptive
    smoothing. There the error of query, key and value is that of attention's output, here that of their own outputs.

    Notes
    -----
    Costs, at each place, `steps` roundings of the readers' weights and products with the sample.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from tercile.quantization.families import Scaling, describe
    >>> model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    >>> family = replace(describe(model), scalings=(Scaling("0", ("1",), "norm"),))
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) * [1, 1, 1, 60]
    >>> smooth_outliers(model, family, {"1": x.astype(np.float32)}).divided["1"][:3].tolist()
    [1.0, 1.0, 1.0]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    NewParameters(model, family)  # refuses a family of another model
    statistics: dict[str, Statistics] = {}
    factors: dict[int, np.ndarray] = {}
    for scaling in family.all_scalings:
        seen = [inputs[reader] for reader in scaling.readers if reader in inputs]
        if not seen:
            continue
        kept = Statistics(seen[0].shape[1], second_moment=False)
        kept.update(seen[0])
        readers = [model.get_parameter(f"{reader}.weight").detach().float() for reader in scaling.readers]
        matrix = torch.cat([reader.reshape(len(reader), -1) for reader in readers]).cpu().numpy()
        columns = outlier_factors(seen[0], matrix, weights, activations, steps=steps)
        factors[id(kept)] = columns
        statistics |= dict.fromkeys((reader for reader in scaling.readers if reader in inputs), kept)
    return smooth(model, family, statistics, factors=lambda seen, largest, alpha: factors[id(seen)])


def outlier_factors(
    x: np.ndarray, matrix: np.ndarray, weights: Scheme, activations: Scheme, *, steps: int = 100
) -> np.ndarray:
    """What each channel is divided by: its magnitude over the limit that costs least, 1 for channels below it.

    Parameters
    ----------
    x
        float32 (rows, channels).
    matrix
        float32 (outputs, channels): the weights of all layers that read x.
    weights, activations, steps
        As in `smooth_outliers`.

    Returns
    -------
    float64 (channels,), 1 or more. All 1 unless some limit changes the outputs less than none does.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    >>> factors = outlier_factors(x, np.eye(8, dtype=np.float32), FOUR_BITS, TOKENS)
    >>> factors.shape, bool((factors >= 1).all())
    ((8,), True)
    """
    largest = np.abs(x).max(axis=0).astype(np.float64)
    wanted = x @ matrix.T
    rounded = Dynamic(activations)
    best, least = np.ones(len(largest)), np.inf
    for limit in np.linspace(largest.max(), largest.max() / 100, steps):
        factors = np.maximum(largest / limit, 1.0) if limit > 0 else np.ones(len(largest))
        scale = factors.astype(np.float32)
        stored = round_to_nearest(matrix * scale, None, weights, min_max).dequantize()
        read = rounded(torch.from_numpy(x / scale)).numpy()
        error = float(((read @ stored.T - wanted) ** 2).sum(dtype=np.float64))
        if error < least:
            best, least = factors, error
    return best
