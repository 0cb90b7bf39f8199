"""Condensation: sums of neighbouring quantized values in which the shaped noise all but vanishes, stored in few bits.

Zhang, Kannan, Cloninger and Saab (2021), arXiv:2106.02614: a row of m values becomes p = m / length numbers, each a
weighted sum of a block. Inner products of the condensed rows estimate the kernel, and a sum of integers takes
no more bits than its range has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Condensation:
    """Weighted sums over blocks.

    Attributes
    ----------
    weights
        float64 (length,): of the values in a block.
    """

    weights: np.ndarray

    def __call__(self, quantized: np.ndarray) -> np.ndarray:
        """float64 (n, p) whose inner products estimate the kernel, from (n, m) with m a multiple of the length.

        Examples
        --------
        >>> sigma_delta_condensation(3)(np.array([[1.0, 1.0, -1.0]])).round(3).tolist()
        [[0.816]]
        """
        length = len(self.weights)
        if quantized.ndim != 2 or quantized.shape[1] % length:
            raise ValueError(f"quantized must be (n, m) with m a multiple of {length}, got {quantized.shape}")
        blocks = quantized.reshape(len(quantized), -1, length)
        factor = math.sqrt(2 / blocks.shape[1]) / np.linalg.norm(self.weights)
        condensed: np.ndarray = factor * (blocks @ self.weights)
        return condensed

    def bits(self, bits: int) -> float:
        """Bits that one sum takes when each value took `bits`: the logarithm of how many sums there are at most.

        Examples
        --------
        >>> sigma_delta_condensation(3).bits(1), distributed_condensation(4, 1.5).bits(1)
        (2.0, 4.0)
        """
        steps = 2**bits - 1
        whole = np.round(self.weights)
        if np.array_equal(whole, self.weights):
            return math.log2(steps * whole.sum() + 1)
        return float(bits * len(self.weights))


def sigma_delta_condensation(length: int, order: int = 1) -> Condensation:
    """For sigma-delta of that order: ones, or for order 2 the triangle 1, 2, ... 2, 1, of odd length.

    Examples
    --------
    >>> sigma_delta_condensation(5, 2).weights.tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0]
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if length < 1 or (order == 2 and length % 2 == 0):
        raise ValueError(f"length must be at least 1, and odd for order 2, got {length}")
    if order == 1:
        return Condensation(np.ones(length))
    ones = np.ones((length + 1) // 2)
    return Condensation(np.convolve(ones, ones))


def distributed_condensation(length: int, beta: float = 1.5) -> Condensation:
    """For distributed noise shaping with that beta: beta^-1, beta^-2, ...

    Examples
    --------
    >>> distributed_condensation(2, 2.0).weights.tolist()
    [0.5, 0.25]
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if not 1 < beta < np.inf:
        raise ValueError(f"beta must be above 1, got {beta}")
    return Condensation(beta ** -np.arange(1.0, length + 1))
