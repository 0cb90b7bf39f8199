"""Users and items as vectors from who took what: the float tables that codes are held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True)
class Factors:
    """Vectors whose inner products say how much a user wants an item, float32 (users, width) and (items, width)."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]


def factorize(
    taken: sparse.csr_array,
    width: int = 64,
    *,
    weight: float = 20.0,
    penalty: float = 5.0,
    rounds: int = 10,
    seed: int = 0,
) -> Factors:
    """Implicit alternating least squares: every pair is wanted (1) or not (0), those that were taken count more.

    Parameters
    ----------
    taken
        (users, items), above zero where a user took an item.
    width
        Of the vectors.
    weight
        How much more a pair counts that was taken.
    penalty
        On squared lengths.
    rounds
        Over items and users by turns, users last.

    Notes
    -----
    Source: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", 2008. Cost of a round:
    (pairs * width^2 + (users + items) * width^3) products.

    Raises
    ------
    ValueError
        No pair was taken, or a number is out of range.

    Examples
    --------
    >>> halves = sparse.csr_array(np.kron(np.eye(2), np.ones((4, 5))))
    >>> found = factorize(halves, 2, rounds=5)
    >>> wanted = found.users @ found.items.T
    >>> bool(wanted[0, :5].min() > 0.7 > 0.3 > wanted[0, 5:].max())
    True
    """
    pairs = as_pairs(taken)
    for name, value in (("width", width), ("rounds", rounds)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    users, items = pairs.shape
    random = np.random.default_rng(seed)
    of_users = random.normal(0, 1 / np.sqrt(width), (users, width)).astype(np.float32)
    turned = pairs.T.tocsr()
    of_items = np.zeros((items, width), dtype=np.float32)
    for _ in range(rounds):
        of_items = wanted_by(of_users, turned, weight=weight, penalty=penalty)
        of_users = wanted_by(of_items, pairs, weight=weight, penalty=penalty)
    return Factors(of_users, of_items)


def wanted_by(
    items: NDArray[np.float32], taken: sparse.csr_array, *, weight: float = 20.0, penalty: float = 5.0
) -> NDArray[np.float32]:
    """The vectors of users, float32 (users, width), that fit what they took best, given the items' vectors.

    It needs no table of users: whoever brings a history gets a vector, from coded items as well as from exact ones.

    Parameters
    ----------
    items
        (items, width).
    taken
        (users, items).
    weight, penalty
        As for `factorize`.
    """
    if not (0 <= weight < np.inf and 0 < penalty < np.inf):
        raise ValueError(f"weight must be at least 0 and penalty above it, got {weight!r} and {penalty!r}")
    pairs = as_pairs(taken)
    width = items.shape[1]
    shared = items.T @ items + penalty * np.eye(width, dtype=np.float32)
    found = np.zeros((pairs.shape[0], width), dtype=np.float32)
    sizes = np.diff(pairs.indptr)
    order = np.argsort(sizes, kind="stable")
    # A batch of users with histories of nearly one length, padded by an item of zeros that changes nothing.
    padded = np.concatenate([items, np.zeros((1, width), dtype=np.float32)])
    start = 0
    while start < len(order):
        longest = 1.25 * max(8, sizes[order[start]])
        stop = min(start + 512, int(np.searchsorted(sizes[order], longest, side="right")))
        rows = order[start:stop]
        chosen = np.full((len(rows), int(sizes[rows].max(initial=0))), len(items))
        for i, row in enumerate(rows):
            chosen[i, : sizes[row]] = pairs.indices[pairs.indptr[row] : pairs.indptr[row + 1]]
        own = padded[chosen]
        left = shared + weight * (own.swapaxes(1, 2) @ own)
        found[rows] = np.linalg.solve(left, (1 + weight) * own.sum(axis=1)[..., None])[..., 0]
        start = stop
    return found


def as_pairs(taken: sparse.csr_array) -> sparse.csr_array:
    """A sparse table of pairs with each row's items in order, or an error that names it."""
    if not sparse.issparse(taken) or taken.ndim != 2 or not taken.nnz:
        raise ValueError("taken must be a sparse table (users, items) with at least one pair, such as csr_array")
    pairs = sparse.csr_array(taken)
    pairs.eliminate_zeros()
    pairs.sum_duplicates()
    return pairs
