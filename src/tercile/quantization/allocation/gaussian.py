"""Bits for each tensor if all were normal and quantizers ideal: what any choice of schemes can be measured against.

Lee and Song (2025), "Q-Palette: Fractional-Bit Quantizers Toward Optimal Bit Allocation for Efficient LLM Deployment",
arXiv:2509.20214, set it up for weights that a rotation has made normal. No quantizer loses less than 2^(-2 r) of the
variance of normal values at r bits, so the loss of a model whose tensors add up is

    minimise  sum_l cost[l] * 2^(-2 r[l])   over r   subject to   sum_l size[l] * r[l] <= bits

and at the optimum every tensor pays the same for its last bit: r[l] = log2(cost[l] / size[l]) / 2 + constant, within
what is allowed (water is poured in from the costliest down).
"""

from __future__ import annotations

import numpy as np


def gaussian_rates(
    cost: np.ndarray, size: np.ndarray, bits: float, *, least: float = 0.0, most: float = 16.0
) -> np.ndarray:
    """The rates of least summed loss under a budget.

    Parameters
    ----------
    cost
        float (tensors,): loss of the model if a tensor were stored with no bits at all, 0 or more.
    size
        (tensors,): numbers in each.
    bits
        Most bits that all together may take.
    least, most
        Bounds of a rate.

    Returns
    -------
    float64 (tensors,), bits a number; they use up the budget unless every tensor has `most`. Tensors of no cost get
    `least`.

    Raises
    ------
    ValueError
        If shapes differ, something is negative or not finite, or the budget is below `least` for all.

    Examples
    --------
    >>> gaussian_rates(np.array([16.0, 1.0]), np.array([10, 10]), 60.0).round(6).tolist()
    [4.0, 2.0]
    """
    cost, size = np.asarray(cost, dtype=np.float64), np.asarray(size, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != size.shape or not cost.size:
        raise ValueError(f"cost and size must be (tensors,) alike and not empty, got {cost.shape} and {size.shape}")
    if not (np.isfinite(cost).all() and (cost >= 0).all()):
        raise ValueError("cost must be finite and not negative")
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError("size must be finite and above 0")
    if not 0 <= least <= most < np.inf:
        raise ValueError(f"least and most must be finite and in order, got {least} and {most}")
    if bits < least * size.sum():
        raise ValueError(f"bits is {bits:g}, but {least:g} for every number take {least * size.sum():g}; ask for more")
    with np.errstate(divide="ignore"):
        level = 0.5 * np.log2(cost / size)  # minus infinity where there is no cost
    paying = np.isfinite(level)
    if not paying.any():
        return np.full(cost.shape, least)

    def rates(constant: float) -> np.ndarray:
        return np.where(paying, np.clip(np.where(paying, level, 0.0) + constant, least, most), least)

    low, high = least - level[paying].max(), most - level[paying].min()
    for _ in range(200):  # halves until neighbours in floating point
        middle = 0.5 * (low + high)
        if rates(middle) @ size <= bits:
            low = middle
        else:
            high = middle
    return rates(high) if rates(high) @ size <= bits else rates(low)
