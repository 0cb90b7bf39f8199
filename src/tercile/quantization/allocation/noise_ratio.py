"""Signal-to-quantization-noise ratio, and which parts of a model it singles out for more bits or for care.

Yang, Dai, Wang, Zhang and Zhang (2023), "Efficient Quantization Strategies for Latent Diffusion Models",
arXiv:2312.05431: quantization error is looked at as relative noise. Globally, blocks whose noise is strongest get
higher precision (a hybrid); locally, modules that are sensitive, or sensitive at some time steps only, are treated one
by one.
Of the paper only its abstract and a summary could be read. Here a block's ratio is that at the model's output when this
block alone is quantized, so that blocks can be compared with each other whatever comes after them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tercile.quantization.allocation.budget import allocate
from tercile.quantization.allocation.sensitivity import SensitivityTable


def noise_ratio(signal: np.ndarray, approximation: np.ndarray) -> float:
    """10 log10 of squared signal over squared error, in decibels; 300 where there is no error.

    Parameters
    ----------
    signal, approximation
        Of one shape, finite.

    Raises
    ------
    ValueError
        If the shapes differ, or one is empty or not finite.

    Examples
    --------
    >>> round(noise_ratio(np.array([3.0, 4.0]), np.array([3.0, 4.5])), 6)
    20.0
    """
    a, b = np.asarray(signal, dtype=np.float64), np.asarray(approximation, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"signal has shape {a.shape}, approximation {b.shape}; they must match and hold something")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("signal and approximation must be finite")
    power, error = float(np.square(a).sum()), float(np.square(a - b).sum())
    return 300.0 if error == 0 else min(300.0, 10 * math.log10(max(power, 1e-300) / error))


def hybrid(ratios: Mapping[str, Sequence[float]], extra: Mapping[str, int], budget: int) -> tuple[str, ...]:
    """Blocks that get higher precision: of all sets whose extra bytes fit, the one that takes away most noise.

    Parameters
    ----------
    ratios
        Of each block, in decibels, at each group (time step); their mean counts, as relative noise.
    extra
        Bytes that higher precision costs each block.
    budget
        Most extra bytes of all together.

    Returns
    -------
    Names, noisiest first. Where costs are alike these are the blocks of the lowest ratios.

    Raises
    ------
    ValueError
        If a block has no ratio or no cost, or budget is negative.

    Examples
    --------
    >>> hybrid({"in": [12.0, 8.0], "mid": [30.0, 31.0], "out": [20.0, 20.0]}, {"in": 5, "mid": 5, "out": 50}, 20)
    ('in', 'mid')
    """
    if budget < 0:
        raise ValueError(f"budget must not be negative, got {budget}")
    for name, values in ratios.items():
        if not len(values) or name not in extra:
            raise ValueError(f"block {name!r} needs a ratio and the bytes that higher precision costs it")
    noise = {name: 10 ** (-float(np.mean(values)) / 10) for name, values in ratios.items()}
    table = SensitivityTable(
        tuple(noise),
        ("as it is", "raised"),
        np.array([[0, extra[name]] for name in noise], dtype=np.int64),
        np.array([[value, 0.0] for value in noise.values()]),
    )
    choices = allocate(table, budget).choices
    return tuple(sorted((name for name in noise if choices[name] == "raised"), key=lambda name: -noise[name]))


def time_sensitive(ratios: Mapping[str, Sequence[float]], share: float = 0.25) -> tuple[str, ...]:
    """Modules that need care: the share of them with the lowest ratio at their worst group, worst first.

    Examples
    --------
    >>> time_sensitive({"a": [40.0, 9.0], "b": [20.0, 21.0], "c": [30.0, 30.0], "d": [35.0, 36.0]})
    ('a',)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    worst = sorted(ratios, key=lambda name: min(ratios[name]))
    return tuple(worst[: max(1, round(share * len(worst)))])
