"""What compressing does to a use of the model: one search, by the original and by the small model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercile.papers import catalogue

MODEL, MAX_LOSS, CONFIDENCE = "minilm", 0.02, 0.95
QUERIES = (
    "how few bits can a language model be stored in?",
    "prediction intervals that stay valid when the data drift",
    "tracking a hidden state from noisy observations",
    "finding similar vectors that also match a condition",
)

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Found:
    """What two models find for one query.

    Parameters
    ----------
    query
        What was asked.
    original, small
        The nearest titles, nearest first.
    """

    query: str
    original: tuple[str, ...]
    small: tuple[str, ...]

    @property
    def overlap(self) -> int:
        """How many titles both found, wherever they stand."""
        return len(set(self.original) & set(self.small))


def titles() -> tuple[str, ...]:
    """The titles of all methods in the catalogue.

    >>> len(titles())
    166
    """
    return tuple(paper.title for paper in catalogue())


def nearest(queries: NDArray[np.float32], others: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """The `k` rows of `others` with the largest inner product, for each query, largest first.

    Parameters
    ----------
    queries, others
        Shapes (q, d) and (n, d); of unit length where the cosine is meant.
    k
        At most n.

    Returns
    -------
    ndarray of shape (q, k)
        Row numbers; of equal ones the first. O(q n d).

    >>> nearest(np.eye(2, dtype=np.float32), np.array([[0, 1], [1, 0], [1, 1]], dtype=np.float32), 2)
    array([[1, 2],
           [0, 2]])
    """
    if not 0 < k <= len(others):
        raise ValueError(f"k must be between 1 and {len(others)}, the number of rows, got {k}")
    return np.argsort(-(queries @ others.T), axis=1, kind="stable")[:, :k]


def search_both(
    original: Encode, small: Encode, queries: Sequence[str] = QUERIES, k: int = 5
) -> tuple[Found, ...]:
    """Search all titles for each query, by either model.

    Parameters
    ----------
    original, small
        Texts -> rows of unit length.
    queries
        What to look for.
    k
        How many titles to find.

    >>> shout = lambda texts: np.array([[len(text), 1.0] for text in texts], dtype=np.float32)
    >>> search_both(shout, shout, ["any"])[0].overlap
    5
    """
    every = titles()
    ranked = [nearest(encode(queries), encode(every), k) for encode in (original, small)]
    return tuple(
        Found(query, *(tuple(every[number] for number in rows[place]) for rows in ranked))
        for place, query in enumerate(queries)
    )
