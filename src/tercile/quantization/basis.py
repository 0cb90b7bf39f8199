"""The basis that a scheme stores a matrix in: columns rotated (`-rot`), rows in another order (`-mix`), or both.

Both follow from the size of the matrix alone, so nothing has to be stored to take them back. Another order of the rows
changes nothing where each row is rounded by itself. A grid whose codes run down a column shares its bits among
neighbours: where rows differ in what their errors cost, as those of a word table do, mixing them puts rows that matter
next to rows that do not.
"""

from __future__ import annotations

import functools

import numpy as np

from tercile.quantization.hadamard import rotate, rotate_back
from tercile.quantization.scheme import Scheme


def into_basis(matrix: np.ndarray, scheme: Scheme) -> np.ndarray:
    """A matrix (rows, columns) as the scheme stores it, before it is rounded.

    Examples
    --------
    >>> x = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    >>> scheme = Scheme.parse("trellis2-channel-rot-mix")
    >>> bool(np.allclose(out_of_basis(into_basis(x, scheme), scheme), x, atol=1e-5))
    True
    """
    turned = rotate(matrix) if scheme.rotated else matrix
    return np.ascontiguousarray(turned[row_order(len(turned))]) if scheme.mixed else turned


def out_of_basis(values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """What `into_basis` was given."""
    if scheme.mixed:
        values = values[row_place(len(values))]
    return rotate_back(values) if scheme.rotated else values


@functools.lru_cache(maxsize=64)
def row_order(rows: int) -> np.ndarray:
    """Which row is stored at each place, int64 (rows,), read-only: in the order of a hash of their numbers.

    Examples
    --------
    >>> order = row_order(1000)
    >>> sorted(order.tolist()) == list(range(1000)), order[:4].tolist()
    (True, [249, 499, 947, 417])
    """
    x = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)  # wraps round
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    order = np.argsort(x ^ (x >> np.uint64(29)), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=64)
def row_place(rows: int) -> np.ndarray:
    """At which place each row is stored, int64 (rows,), read-only: the inverse of `row_order`."""
    place = np.empty(rows, dtype=np.int64)
    place[row_order(rows)] = np.arange(rows)
    place.flags.writeable = False
    return place
