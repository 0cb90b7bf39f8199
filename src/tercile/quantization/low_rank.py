"""A low-rank branch beside a stored weight: what rounding took away, as far as a few directions can give it back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.round_to_nearest import check_channels, check_shape, checked_weight, round_to_nearest
from tercile.quantization.statistics import Statistics

#: How factors are stored unless it is said: a scale a direction, which is one a row of either.
FACTORS = Scheme.parse("int8-channel-f32")


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, each factor stored under a scheme of its own.

    Attributes
    ----------
    left, right
        (outputs, rank) and (rank, inputs). Both are kept with their rank along the rows, so that a scale a channel is
        a scale a direction: left is stored turned.
    """

    left: QTensor
    right: QTensor

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.right.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return self.left.nbytes + self.right.nbytes

    def dequantize(self) -> np.ndarray:
        """The product, float32 (outputs, inputs)."""
        product: np.ndarray = self.left.dequantize().T @ self.right.dequantize()
        return product


def compensate(
    weight: np.ndarray,
    quantized: QTensor,
    rank: int,
    *,
    statistics: Statistics | None = None,
    scheme: Scheme = FACTORS,
) -> LowRank:
    """The branch of given rank that is closest to what rounding took from a weight.

    Parameters
    ----------
    weight
        Float (outputs, inputs...), finite.
    quantized
        What is stored of it.
    rank
        1 to the smaller side of the matrix.
    statistics
        Of the layer's inputs: directions are then those in which its outputs change most, (W - Q) H (W - Q)' instead of
        (W - Q) (W - Q)'.
    scheme
        Of both factors.

    Raises
    ------
    ValueError
        If shapes differ or the rank is not possible.

    Notes
    -----
    Costs one singular value decomposition of the matrix, and with statistics an eigendecomposition of their second
    moment.

    Source
    ------
    Low-rank compensation as in Wu, Yao, He (2023), "ZeroQuant-FP", arXiv:2307.09782; with statistics it minimises the
    output error instead.

    Examples
    --------
    >>> w = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    >>> q = round_to_nearest(w, None, Scheme.parse("int2-channel"))
    >>> branch = compensate(w, q, 4)
    >>> before, after = (float(np.square(w - q.dequantize() - more).sum()) for more in (0, branch.dequantize()))
    >>> branch.rank, after < 0.75 * before
    (4, True)
    """
    matrix = checked_weight(weight)
    check_shape(quantized, weight)
    most = min(matrix.shape)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ValueError(f"rank must be a whole number from 1 to {most} for a matrix {matrix.shape}, got {rank!r}")
    missing = (matrix - quantized.dequantize().reshape(matrix.shape)).astype(np.float64)
    if statistics is None:
        left, right = _closest(missing, rank)
    else:
        check_channels(statistics, matrix)
        root, inverse = _roots(statistics.second_moment.astype(np.float64))
        left, right = _closest(missing @ root, rank)
        right = right @ inverse
    # The factors share the size of the product: neither is so small that its scales vanish.
    sizes = np.sqrt(np.linalg.norm(right, axis=1) / np.maximum(np.linalg.norm(left, axis=0), 1e-30))
    left, right = left * sizes, right / np.maximum(sizes, 1e-30)[:, None]
    stored = [round_to_nearest(factor.astype(np.float32), None, scheme) for factor in (left.T, right)]
    return LowRank(*stored)


def _closest(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the closest matrix of that rank (Eckart and Young 1936)."""
    u, s, vt = linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def _roots(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric root of a second moment and its inverse; directions that were hardly seen count a little."""
    values, vectors = linalg.eigh(moment)
    floor = max(float(values.max()) * 1e-6, 1e-30)
    root = np.sqrt(np.maximum(values, floor))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
