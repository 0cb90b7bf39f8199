"""A matrix with few entries that gives a layer's outputs: which entries, and what stands in them."""

from __future__ import annotations

import numpy as np

#: Entries chosen one by one, or whole inputs at a time.
UNSTRUCTURED, STRUCTURED = "weights", "inputs"


def largest_entries(matrix: np.ndarray, sizes: np.ndarray, share: float, kind: str) -> np.ndarray:
    """The matrix with zeros in all but the share of its entries, or columns, that are largest times their size."""
    kept = np.zeros_like(matrix)
    weighed = np.square(matrix * sizes)
    if kind == STRUCTURED:
        count = round(share * matrix.shape[1])
        at = np.argsort(-weighed.sum(axis=0), kind="stable")[:count]
        kept[:, at] = matrix[:, at]
        return kept
    count = round(share * matrix.size)
    if count:
        at = np.argpartition(-weighed.reshape(-1), count - 1)[:count]
        kept.reshape(-1)[at] = matrix.reshape(-1)[at]
    return kept


def fitted(target: np.ndarray, places: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """The sparse matrix in those places that leaves the least error in the H-norm of target - sparse."""
    sparse = np.zeros_like(target)
    wanted = target @ hessian
    for row in range(len(target)):
        at = np.flatnonzero(places[row])
        if len(at):
            sparse[row, at] = np.linalg.solve(hessian[np.ix_(at, at)].astype(np.float64), wanted[row, at])
    return sparse


def largest_eigenvalue(hessian: np.ndarray) -> float:
    """Of a symmetric matrix with no eigenvalue below 0, by power iteration; a hundredth more, to be above it."""
    vector = np.ones(len(hessian)) / len(hessian) ** 0.5
    vector += np.linspace(0, 1e-3, len(hessian))  # not at a right angle to what it looks for
    for _ in range(50):
        vector = hessian @ vector
        size = float(np.linalg.norm(vector))
        vector /= size
    return 1.01 * size
