"""Codewords by k-means, for one piece of the vectors of a product code at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tercile import _native
from tercile.filters.search.lists import nearest_center


def nearest_codewords(points: NDArray[np.float32], codewords: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the codeword next to each point in Euclidean distance; the first of several.

    Parameters
    ----------
    points
        (n, width).
    codewords
        (count, width).

    Cost: n * count * width products, compiled; a copy of the points.

    >>> nearest_codewords(np.float32([[0.1], [0.9]]), np.float32([[0.0], [1.0]])).tolist()
    [0, 1]
    """
    # From the middle of the codewords: far from the origin, differences of squares would cancel.
    middle = codewords.mean(axis=0)
    return nearest_center(points - middle, codewords - middle).astype(np.intp)


def k_means(
    points: NDArray[np.float32], count: int, iterations: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return `count` codewords, float32 (count, width), that are the means of the points next to them.

    Lloyd's iteration from randomly chosen points. A codeword that no point is next to is put beside the codeword
    with the most points, and shares them from then on.

    Parameters
    ----------
    points
        (n, width), n at least `count`.

    >>> sorted(k_means(np.float32([[0], [0], [4], [4]]), 2, 5, np.random.default_rng(0)).ravel().tolist())
    [0.0, 4.0]
    """
    codewords = points[random.choice(len(points), count, replace=False)]
    for _ in range(iterations):
        chosen = nearest_codewords(points, codewords)
        moved = means(points, chosen, count)
        population = np.bincount(chosen, minlength=count)
        empty = np.flatnonzero(population == 0)
        crowded = np.argsort(population, kind="stable")[::-1][: len(empty)]
        moved[empty] = moved[crowded]
        # The two part by a step that is small beside the codeword, in opposite directions.
        apart = 1e-4 * (np.abs(moved[crowded]) + np.abs(moved[crowded]).max(initial=1e-12))
        apart *= random.choice(np.array([-1, 1], dtype=np.float32), size=apart.shape)
        moved[empty] += apart
        moved[crowded] -= apart
        if np.array_equal(moved, codewords):
            break
        codewords = moved
    return codewords


def means(points: NDArray[np.float32], chosen: NDArray[np.integer], count: int) -> NDArray[np.float32]:
    """Return the mean of the points that chose each codeword, zero where none did."""
    sums, sizes = np.zeros((count, points.shape[1])), np.zeros(count, dtype=np.int64)
    _native.search_sums(np.ascontiguousarray(points, dtype=np.float32), chosen.astype(np.int32), sums, sizes)
    return (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
