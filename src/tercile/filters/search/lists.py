"""Lists of rows around centres: k-means, and how near a list may come to a query."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tercile import _native
from tercile.filters.search.summaries import ListSummary

ROUNDS = 8
#: Rows of a sample for each centre.
SAMPLE = 64
#: Rows that pass in the lists that are read first, whatever their distance; twice k if that is more.
FIRST = 32
#: Shares of rows at which it is measured how far a search must look, and the recalls that it is measured for.
SHARES = (0.01, 0.1, 1.0)
RECALLS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Reach:
    """How far a search must look, as measured on the rows themselves.

    `deviations[r]` is how many standard deviations below its mean distance a list must be taken to come so that a share
    RECALLS[r] of the nearest rows is found. `read[i][r]` is the share of the lists that is then read when a share
    `shares[i]` of the rows passes, in ascending order.
    """

    deviations: tuple[float, ...]
    shares: tuple[float, ...]
    read: tuple[tuple[float, ...], ...]

    def allowed(self, recall: float) -> float:
        """Deviations to allow for, between the recalls that were measured."""
        return float(np.interp(recall, RECALLS, self.deviations))

    def lists_read(self, share: float, recall: float) -> float:
        """The share of the lists that will be read, between the shares of rows that were measured."""
        at = [math.log(measured) for measured in self.shares]
        read = [float(np.interp(recall, RECALLS, one)) for one in self.read]
        return float(np.interp(math.log(max(share, 1e-12)), at, read))


@dataclass(frozen=True)
class Lists:
    """Rows in lists: list i is rows begins[i] to begins[i + 1].

    A row x of a list with centre c is as far from a query q as
        |q - x|^2 = |q - c|^2 + |x - c|^2 - 2 (q - c)'(x - c).
    `spread` and `variance` are mean and variance of the second term in each list; the third has mean 0 and, if the rows
    lie alike in all directions, variance 4 |q - c|^2 `lateral` with lateral = spread / dimension. How many
    deviations matter is measured on the rows themselves (`reach`), which mends what is wrong with that condition.
    """

    begins: np.ndarray
    packed: np.ndarray
    center_norms: np.ndarray
    spread: np.ndarray
    variance: np.ndarray
    lateral: np.ndarray
    reach: Reach | None = None
    summaries: dict[str, ListSummary] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many lists there are."""
        return len(self.begins) - 1

    @property
    def centers(self) -> np.ndarray:
        """The centres, shape (lists, dimension)."""
        return unpacked(self.packed, self.count)

    def products(self, queries: np.ndarray) -> np.ndarray:
        """Inner products of queries and centres, shape (queries, lists rounded up to 16)."""
        out = np.empty((len(queries), 16 * len(self.packed)), dtype=np.float32)
        _native.search_products(np.ascontiguousarray(queries), self.packed, out)
        return out

    def bounds(self, queries: np.ndarray, products: np.ndarray, deviations: float, squared: bool) -> np.ndarray:
        """How near each list may come to each query, shape (queries, lists)."""
        out = np.empty((len(queries), self.count), dtype=np.float32)
        norms = np.einsum("qd,qd->q", queries, queries)
        _native.search_bounds(
            products, norms, self.center_norms, self.spread, self.variance, self.lateral, deviations, squared, out
        )
        return out


def packed(centers: np.ndarray) -> np.ndarray:
    """Vectors sixteen side by side, as the kernels read them: shape (blocks, dimension, 16)."""
    count, dimension = centers.shape
    out = np.zeros((-(-count // 16) * 16, dimension), dtype=np.float32)
    out[:count] = centers
    return np.ascontiguousarray(out.reshape(-1, 16, dimension).transpose(0, 2, 1))


def unpacked(blocks: np.ndarray, count: int) -> np.ndarray:
    """What was packed."""
    return blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1])[:count]


def nearest_center(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The number of the nearest centre of each vector; the first of equals.

    >>> nearest_center(np.array([[0.0, 0.1], [5, 5]], dtype=np.float32), np.eye(2, dtype=np.float32) * 4).tolist()
    [1, 0]
    """
    half = np.full(-(-len(centers) // 16) * 16, np.inf, dtype=np.float32)
    half[: len(centers)] = 0.5 * np.einsum("cd,cd->c", centers, centers, dtype=np.float64)
    label = np.empty(len(vectors), dtype=np.int32)
    _native.search_nearest(np.ascontiguousarray(vectors, dtype=np.float32), packed(centers), half, label)
    return label


def k_means(vectors: np.ndarray, count: int, seed: int, rounds: int = ROUNDS) -> np.ndarray:
    """Centres by Lloyd's rounds from rows picked at random; an empty list takes half of the largest.

    Parameters
    ----------
    vectors : (n, dimension) float32. count : how many centres, at most n. seed : of the picks. rounds : how many.

    Returns
    -------
    (count, dimension) float32.

    Raises
    ------
    ValueError : fewer vectors than centres.

    Cost: rounds * n * count * dimension multiplications, compiled.

    >>> points = np.repeat(np.array([[0.0, 0], [9, 9]], dtype=np.float32), 50, axis=0)
    >>> sorted(k_means(points, 2, seed=1).tolist())
    [[0.0, 0.0], [9.0, 9.0]]
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count must be between 1 and the {len(vectors):,} vectors, got {count:,}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    random = np.random.default_rng(seed)
    centers = vectors[random.choice(len(vectors), count, replace=False)]
    for _ in range(rounds):
        label = nearest_center(vectors, centers)
        sums, sizes = np.zeros((count, vectors.shape[1])), np.zeros(count, dtype=np.int64)
        _native.search_sums(vectors, label, sums, sizes)
        # Splitting the largest list needs no second pass: its centre is shaken twice.
        for empty in np.flatnonzero(sizes == 0):
            largest = int(sizes.argmax())
            if sizes[largest] < 2:
                break
            half = sizes[largest] // 2
            shaken = sums[largest] / sizes[largest] * (1 + 1e-3 * random.standard_normal(vectors.shape[1]))
            sums[largest], sums[empty] = sums[largest] / sizes[largest] * (sizes[largest] - half), shaken * half
            sizes[largest], sizes[empty] = sizes[largest] - half, half
        centers = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centers).astype(np.float32)
    return centers
