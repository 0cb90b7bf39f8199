"""Randomised Hadamard rotation of the columns of a matrix, of any size.

A rotation spreads what is large over all columns: the entries of a rotated weight are close to normal, whatever they
were, which is what grids for normal values are made for (Chee et al. 2023, "QuIP", call it incoherence). It is
orthogonal, cheap (n log n) and follows from the size alone, so that nothing has to be stored to take it back.
"""

from __future__ import annotations

import functools

import numpy as np

from tercile import _native


def rotate(matrix: np.ndarray) -> np.ndarray:
    """The rows of a matrix times R', float32: R flips signs of columns at random and mixes them by a Hadamard matrix.

    Parameters
    ----------
    matrix
        (rows, n), read as float32, finite.

    Raises
    ------
    ValueError
        If it has not two dimensions, no columns, or sums overflow float32.

    Notes
    -----
    n = m * 2^a with the largest a that leaves a Hadamard matrix of order m (1, 12, 20, 28, 36, ... by Paley's
    constructions); where there is none, m is odd and a discrete cosine transform stands in for it. Costs n * (a + m)
    additions a row, in native threaded code; the same bits on every machine.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(384, dtype=np.float32)[:1]
    >>> y = rotate(x)
    >>> bool(np.allclose(np.abs(y), 384**-0.5)), bool(np.allclose(rotate_back(y), x, atol=1e-6))
    (True, True)
    """
    turned = _checked(matrix) * signs(np.shape(matrix)[1])
    _native.hadamard_rows(turned, factor(turned.shape[1]), False)
    return _finite(turned)


def rotate_back(matrix: np.ndarray) -> np.ndarray:
    """The rows of a matrix times R, float32: the inverse of `rotate`."""
    turned = _checked(matrix)
    _native.hadamard_rows(turned, factor(turned.shape[1]), True)
    turned *= signs(turned.shape[1])
    return _finite(turned)


@functools.cache
def signs(n: int) -> np.ndarray:
    """+-1, float32 (n,), from a hash of the column's number."""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # wraps round
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.where(x >> np.uint64(63), np.float32(-1), np.float32(1))


@functools.cache
def factor(n: int) -> np.ndarray:
    """The orthogonal matrix, float32 (m, m), that mixes m pieces of 2^a columns; n = m * 2^a."""
    odd, power = n, 1
    while odd % 2 == 0:
        odd, power = odd // 2, power * 2
    if odd == 1:
        return np.ones((1, 1), dtype=np.float32)
    order = 4 * odd
    if power >= 4:
        found = paley(order)
        if found is not None:
            return (found / np.sqrt(order)).astype(np.float32)
    i = np.arange(odd)
    cosine = np.cos(np.pi * i[:, None] * (2 * i + 1) / (2 * odd)) * np.sqrt(2 / odd)
    cosine[0] = np.sqrt(1 / odd)
    return cosine.astype(np.float32)


def paley(order: int) -> np.ndarray | None:
    """A Hadamard matrix, +-1 (order, order), by Paley's constructions for primes; None where they give none.

    Paley (1933), "On Orthogonal Matrices": order q + 1 for a prime q = 3 mod 4, order 2 (q + 1) for q = 1 mod 4.

    Examples
    --------
    >>> h = paley(12)
    >>> bool((h @ h.T == 12 * np.eye(12)).all()), paley(92) is None
    (True, True)
    """
    if order >= 4 and order % 4 == 0 and _prime(order - 1):
        jacobsthal = _residues(order - 1)
        skew = np.block([[np.zeros((1, 1)), np.ones((1, order - 1))], [-np.ones((order - 1, 1)), jacobsthal]])
        return skew + np.eye(order)
    q = order // 2 - 1
    if order >= 12 and order % 4 == 0 and q % 4 == 1 and _prime(q):
        conference = np.block([[np.zeros((1, 1)), np.ones((1, q))], [np.ones((q, 1)), _residues(q)]])
        even = np.array([[1, 1], [1, -1]])
        return np.kron(conference, even) + np.kron(np.eye(q + 1), np.array([[1, -1], [-1, -1]]))
    return None


def _residues(q: int) -> np.ndarray:
    """Whether i - j is a square modulo the prime q (1), none (-1), or zero, (q, q)."""
    kind = -np.ones(q)
    kind[np.arange(1, q) ** 2 % q] = 1
    kind[0] = 0
    return kind[(np.arange(q)[:, None] - np.arange(q)) % q]


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _checked(matrix: np.ndarray) -> np.ndarray:
    """A float32 copy."""
    copy = np.array(matrix, dtype=np.float32, order="C")
    if copy.ndim != 2 or not copy.shape[1]:
        raise ValueError(f"matrix must be (rows, columns) with at least one column, got shape {copy.shape}")
    return copy


def _finite(matrix: np.ndarray) -> np.ndarray:
    if not np.isfinite(matrix).all():
        raise ValueError("matrix rotated holds NaN or infinity: it did before, or its sums go beyond float32")
    return matrix
