"""Items as vectors of what they are called: something to make codes of where nobody has taken an item yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds


@dataclass(frozen=True)
class Content:
    """Items made of features: an item is the sum of its features' vectors, by weight.

    Both tables can be kept as codes (`CodedItems`): the items to share codewords with items of like names, the
    features because there are more of them than items.

    Parameters
    ----------
    weights
        (items, features).
    features
        float32 (features, width).
    """

    weights: sparse.csr_array
    features: NDArray[np.float32]

    def items(self, features: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the items' vectors, float32 (items, width), from these features or from others in their place."""
        table = self.features if features is None else features
        if table.shape[0] != self.weights.shape[1]:
            raise ValueError(f"features must be {self.weights.shape[1]}, got {table.shape[0]}")
        return np.asarray(self.weights @ table, dtype=np.float32)


def content_of(
    names: Sequence[str], width: int = 64, *, lengths: Sequence[int] = (3, 4, 5), fewest: int = 2, seed: int = 0
) -> Content:
    """Features are runs of characters of the names, and vectors their principal directions.

    Parameters
    ----------
    names
        At least `width` + 1.
    lengths
        Of the runs; a name's ends count as a character each.
    fewest
        Names that a run must be in to be a feature.
    seed
        Of the start of the decomposition.

    Raises
    ------
    ValueError
        Names or runs that they have in common are not more than `width`.

    Notes
    -----
    The rarer a run, the more it weighs, log(1 + names / names with it); each item's weights have length one: latent
    semantic indexing (Deerwester et al., 1990). Cost: a truncated singular value decomposition, some dozens of products
    with the weights for each direction.

    Examples
    --------
    >>> names = ["libfoo1", "libfoo-dev", "python3-bar", "python3-foo", "python3-bar-doc"]
    >>> items = content_of(names, 3).items()
    >>> bool(items[0] @ items[1] > items[0] @ items[2])
    True
    """
    runs = [Counter(_runs(f"<{name}>", lengths)) for name in names]
    shared = Counter(run for own in runs for run in own)
    number = {run: i for i, run in enumerate(sorted(run for run, count in shared.items() if count >= fewest))}
    if not 0 < width < min(len(names), len(number)):
        raise ValueError(f"width must be below {min(len(names), len(number))}, the names and what they share: {width}")
    rare = np.log1p(len(names) / np.array([shared[run] for run in number]))
    rows, columns = [], []
    for row, own in enumerate(runs):
        kept = [number[run] for run in own if run in number]
        rows += [row] * len(kept)
        columns += kept
    weights = sparse.csr_array((rare[columns], (rows, columns)), shape=(len(names), len(number)))
    lengths_of = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1))).ravel()
    weights = sparse.csr_array(sparse.diags_array(1 / np.maximum(lengths_of, 1e-12)) @ weights)
    start = np.random.default_rng(seed).normal(size=min(weights.shape))
    directions = svds(weights, width, v0=start, return_singular_vectors="vh")[2]
    return Content(weights, np.ascontiguousarray(directions[::-1].T, dtype=np.float32))


def _runs(name: str, lengths: Sequence[int]) -> list[str]:
    return [name[start : start + length] for length in lengths for start in range(len(name) - length + 1)]
