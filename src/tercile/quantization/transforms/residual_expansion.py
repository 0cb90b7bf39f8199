"""A weight as a sum of low-bit tensors: each stores what rounding took from the ones before it.

Yvinec, Dapogny, Cord and Bailly (2022), "REx: Data-Free Residual Quantization Error Expansion", arXiv:2203.14645. A
device that knows one bit width only gets any accuracy from it, at the price of more products of that width; it takes no
data. Terms after the first may cover the rows with most left to repair and leave out the others (group sparsity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, min_max
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.solvers.round_to_nearest import checked_weight


@dataclass(frozen=True, eq=False)
class Expansion:
    """W = terms[0] + terms[1] on its rows + ...

    Attributes
    ----------
    shape
        Of the weight.
    terms
        Quantized; the first has all rows.
    rows
        Sorted int64 rows that each term covers.
    """

    shape: tuple[int, ...]
    terms: tuple[QTensor, ...]
    rows: tuple[np.ndarray, ...]

    @property
    def order(self) -> int:
        """Number of terms."""
        return len(self.terms)

    @property
    def nbytes(self) -> int:
        """Bytes stored: the terms, and a bit a row for each term that leaves some out."""
        masks = sum(-(-self.shape[0] // 8) for rows in self.rows if len(rows) < self.shape[0])
        return sum(term.nbytes for term in self.terms) + masks

    @property
    def products(self) -> float:
        """Multiplications as a multiple of the weight's own."""
        return sum(len(rows) for rows in self.rows) / self.shape[0]

    def dequantize(self, order: int | None = None) -> np.ndarray:
        """The float32 sum of the first `order` terms; of all by default.

        Raises
        ------
        ValueError
            If there are not that many.
        """
        if order is not None and not 1 <= order <= self.order:
            raise ValueError(f"order must be from 1 to {self.order}, got {order}")
        matrix = np.zeros(as_matrix(self.shape), dtype=np.float32)
        for term, rows in zip(self.terms[:order], self.rows[:order], strict=True):
            matrix[rows] += term.dequantize()
        return matrix.reshape(self.shape)

    def bound(self) -> np.ndarray:
        """Largest possible error of a number in each row, float64 (rows,), for integers with a scale a row, by min-max.

        Rounding leaves half a step, and the next step is that by the grid's largest value: s / 2 * (1 / (2 L))^(k - 1)
        for a row that k terms cover, L = 2^(bits - 1) - 1 (1 for ternary). The paper's Lemma says the same.

        Raises
        ------
        ValueError
            If the terms are stored otherwise.
        """
        scheme = self.terms[0].scheme
        levels = scheme.grid.levels
        if not np.array_equal(np.diff(levels), np.ones(len(levels) - 1)) or scheme.blocks.spelling != "channel":
            raise ValueError(f"the bound is for integers with a scale a channel, not {scheme}")
        covered = np.zeros(as_matrix(self.shape)[0], dtype=np.int64)
        for rows in self.rows:
            covered[rows] += 1
        step = np.abs(self.terms[0].ranges.scale[:, 0].astype(np.float64))
        bound: np.ndarray = step / 2 / (2 * float(levels[-1])) ** (covered - 1)
        return bound

    def members(self, count: int) -> tuple[np.ndarray, ...]:
        """Weights of `count` networks to run side by side; the mean of their outputs stands for the whole expansion's.

        Each has the first term, and `count` times its own share of the later ones. To first order in the later terms
        the mean output of networks with such layers is that of the network with all terms, and what is missing is of
        second order: an ensemble in which nobody waits for anybody. (Our form of the paper's ensemble approximation,
        of which we could read no more than the abstract.)

        Raises
        ------
        ValueError
            If count is below 1 or there are fewer later terms than networks.
        """
        if not 1 <= count <= max(self.order - 1, 1):
            raise ValueError(
                f"count must be from 1 to {max(self.order - 1, 1)}, the terms after the first, got {count}"
            )
        first = self.dequantize(1)
        shares = [np.zeros(as_matrix(self.shape), dtype=np.float32) for _ in range(count)]
        for number, (term, rows) in enumerate(zip(self.terms[1:], self.rows[1:], strict=True)):
            shares[number % count][rows] += np.float32(count) * term.dequantize()
        return tuple(first + share.reshape(self.shape) for share in shares)


def expand(
    weight: np.ndarray, scheme: Scheme, order: int, *, keep: float = 1.0, ranges: RangeEstimator = min_max
) -> Expansion:
    """Expands a weight into `order` tensors under one scheme, without data.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    scheme
        Of every term. float32 scales keep the bound exact.
    order
        Number of terms, at least 1.
    keep
        Share of the rows, above 0, that each later term covers: those with most error left.
    ranges
        Finds the scales of each term. The bound holds for `min_max`.

    Raises
    ------
    ValueError
        If weight is empty or not finite, or a number is out of range.

    Notes
    -----
    Costs a rounding of the weight for each term. A row of zeros, or one that is exact already, stays exact.

    Examples
    --------
    >>> w = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    >>> expansion = expand(w, Scheme.parse("int3-channel-f32"), 4)
    >>> [round(float(np.abs(expansion.dequantize(k) - w).max()), 4) for k in (1, 2, 3, 4)]
    [0.4764, 0.0763, 0.0118, 0.0018]
    """
    matrix = checked_weight(weight)
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order must be a whole number of at least 1, got {order!r}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
    left, terms, covered = matrix.copy(), [], []
    rows = np.arange(len(matrix))
    for number in range(order):
        if number and keep < 1:
            error = np.square(left, dtype=np.float64).sum(axis=1)
            count = max(1, round(keep * len(matrix)))
            rows = np.sort(np.argsort(-error, kind="stable")[:count])
        term = round_to_nearest(left[rows], None, scheme, ranges)
        left[rows] -= term.dequantize()
        terms.append(term)
        covered.append(rows)
    return Expansion(tuple(np.shape(weight)), tuple(terms), tuple(covered))
