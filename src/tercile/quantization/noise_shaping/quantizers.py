"""Quantizers of sequences in [-1, 1] that carry their error on to the values that follow, and one that does not.

Zhang, Kannan, Cloninger and Saab (2021), "Sigma-Delta and Distributed Noise-Shaping Quantization Methods for Random
Fourier Features", arXiv:2106.02614. Each writes q with y - q = a filter of a bounded state u: a sum of neighbours that
the filter is small for hardly feels the error, however few bits q has.
"""

from __future__ import annotations

import numpy as np

#: Distance of the taps of the second-order filter; farther apart it stays stable for larger inputs, with larger errors.
SPREAD = 6


def alphabet(bits: int) -> np.ndarray:
    """The 2^bits evenly spaced values from -1 to 1, float32: +-1/(2K - 1), +-3/(2K - 1), ... +-1 with K = 2^(bits - 1).

    Examples
    --------
    >>> alphabet(1).tolist(), [round(v, 3) for v in alphabet(2).tolist()]
    ([-1.0, 1.0], [-1.0, -0.333, 0.333, 1.0])
    """
    if isinstance(bits, bool) or bits not in range(1, 9):
        raise ValueError(f"bits must be a whole number from 1 to 8, got {bits!r}")
    return np.linspace(-1, 1, 2**bits, dtype=np.float32)


def memoryless(values: np.ndarray, bits: int) -> np.ndarray:
    """The nearest value of the alphabet to each, float32 in the shape of values: what the others are compared with.

    Examples
    --------
    >>> memoryless(np.float32([[0.2, -0.9]]), 1).tolist()
    [[1.0, -1.0]]
    """
    return _nearest(_checked(values), alphabet(bits))


def sigma_delta(values: np.ndarray, bits: int, order: int = 1) -> np.ndarray:
    """Sigma-delta quantization of every row, first or second order.

    Parameters
    ----------
    values
        Float (n, m) in [-1, 1].
    bits
        1 to 8, of the alphabet.
    order
        1: q_i = nearest to y_i + u_{i-1}, u_i = u_{i-1} + y_i - q_i.
        2: the same with h = 7/6 u_{i-1} - 1/6 u_{i-7} in place of u_{i-1}, the sparse filter that the authors take from
        Guentuerk (2003) and Deift, Krahmer and Guentuerk (2011).

    Returns
    -------
    float32 (n, m), values of the alphabet.

    Raises
    ------
    ValueError
        If values are no matrix, not finite or beyond [-1, 1], or bits or order is out of range.

    Notes
    -----
    First order keeps |u| within half a step for all inputs. Second order does for |y| up to 1 less a sixth of a step:
    2/3 with one bit, 8/9 with two; the cosines of random features go beyond that now and then, and the state comes
    back. Costs m steps over n rows at a time.

    Examples
    --------
    >>> y = np.full((1, 6), 0.5)
    >>> sigma_delta(y, 1).tolist()
    [[1.0, 1.0, -1.0, 1.0, 1.0, 1.0]]
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    y, levels = _checked(values), alphabet(bits)
    states = np.zeros((len(y), y.shape[1] + SPREAD + 1), dtype=np.float64)  # before the first value all are 0
    out = np.empty_like(y)
    far = 1 / SPREAD if order == 2 else 0.0
    for i in range(y.shape[1]):
        at = i + SPREAD + 1
        target = (1 + far) * states[:, at - 1] - far * states[:, at - 1 - SPREAD] + y[:, i]
        out[:, i] = _nearest(target, levels)
        states[:, at] = target - out[:, i]
    return out


def distributed(values: np.ndarray, bits: int, block: int, beta: float = 1.5) -> np.ndarray:
    """Distributed noise shaping: in every block of a row, u_i = beta u_{i-1} + y_i - q_i with u = 0 before the block.

    Parameters
    ----------
    values, bits
        As for `sigma_delta`.
    block
        Length of a block; the last may be shorter.
    beta
        Above 1. Up to 2^bits - (2^bits - 1) max|y| the state stays bounded for all inputs; beyond that, up to 2^bits,
        for most.

    Returns
    -------
    float32 (n, m), values of the alphabet.

    Examples
    --------
    >>> distributed(np.full((1, 4), 0.5), 1, 2).tolist()
    [[1.0, -1.0, 1.0, -1.0]]
    """
    y, levels = _checked(values), alphabet(bits)
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if not 1 < beta < 2**bits:
        raise ValueError(f"beta must be above 1 and below {2**bits} for {bits} bits, got {beta}")
    out, state = np.empty_like(y), np.zeros(len(y))
    for i in range(y.shape[1]):
        target = y[:, i] + (beta * state if i % block else 0)
        out[:, i] = _nearest(target, levels)
        state = target - out[:, i]
    return out


def _nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    step = 2 / (len(levels) - 1)
    found: np.ndarray = levels[np.clip(np.floor((values + 1) / step + 0.5), 0, len(levels) - 1).astype(np.int64)]
    return found


def _checked(values: np.ndarray) -> np.ndarray:
    y = np.asarray(values, dtype=np.float32)
    if y.ndim != 2:
        raise ValueError(f"values must be (n, m), got shape {y.shape}")
    if not (np.abs(y) <= 1 + 1e-6).all():  # false for NaN
        raise ValueError("values must lie in [-1, 1]; cosines do, other features have to be scaled")
    return y
