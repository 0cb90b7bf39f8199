"""Items named by their codes, coarse to fine, and found by writing the name one token after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def item_tokens(codes: ArrayLike) -> NDArray[np.int64]:
    """Return a name for each item, (items, pieces + 1): its codes, and a number that tells apart those with the same.

    Raises
    ------
    ValueError
        Codes are no table of whole numbers from 0.

    >>> item_tokens([[3, 1], [0, 2], [3, 1]]).tolist()
    [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
    """
    kept = np.asarray(codes)
    if kept.ndim != 2 or kept.dtype.kind not in "iu" or (kept.size and kept.min() < 0):
        raise ValueError(f"codes must be whole numbers from 0, (items, pieces), got {kept.dtype} {kept.shape}")
    _, group = np.unique(kept, axis=0, return_inverse=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    last = np.empty(len(kept), dtype=np.int64)
    last[order] = np.arange(len(kept)) - np.repeat(starts, np.diff(starts, append=len(kept)))
    return np.column_stack([kept.astype(np.int64), last])


@dataclass(frozen=True)
class Level:
    """Nodes of one depth: the token that leads to each, and where the children of each parent begin."""

    token: NDArray[np.int64]
    first_child_of: NDArray[np.int64]  # for each node above, and the end


class TokenTree:
    """All items' names as a tree, so that a search writes only names that exist.

    Scoring walks down level by level and keeps the best few beginnings, as generative recommenders decode: of a
    catalogue of millions, a few thousand sums are computed.

    Parameters
    ----------
    tokens
        (items, depth), a different row for each item, as `item_tokens` gives them.

    Notes
    -----
    Source: Rajput et al., "Recommender Systems with Generative Retrieval", 2023: semantic ids from residual codes, a
    last token against collisions, beam search over names. Here the sums of a query's tables are the scores, where
    theirs come from a Transformer. Cost of a search: at most depth * beam * codewords additions.

    Examples
    --------
    >>> tree = TokenTree(item_tokens([[0, 0], [0, 1], [1, 0]]))
    >>> tree.best(np.float32([[0.0, 5.0], [1.0, 2.0]]), k=2, beam=2)[0].tolist()  # 1 + 0: item 2 scores 5 + 1
    [2, 1]
    """

    def __init__(self, tokens: ArrayLike) -> None:
        names = np.asarray(tokens)
        if names.ndim != 2 or not names.size or names.dtype.kind not in "iu":
            raise ValueError(f"tokens must be whole numbers (items, depth), got {names.dtype} {names.shape}")
        self.order = np.lexsort(names.T[::-1])
        ordered = names[self.order]
        new = np.ones(len(names), dtype=bool)
        new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        if not new.all():
            twice = ordered[int(np.flatnonzero(~new)[0])]
            raise ValueError(f"tokens must differ from item to item, but {twice.tolist()} comes twice; use item_tokens")
        self.levels: list[Level] = []
        above = np.array([0, len(names)])
        begins = np.zeros(len(names), dtype=bool)
        begins[0] = True
        for column in ordered.T:
            begins = begins | np.concatenate([[True], column[1:] != column[:-1]])
            nodes = np.flatnonzero(begins)
            self.levels.append(Level(column[nodes], np.searchsorted(nodes, above)))
            above = np.concatenate([nodes, [len(names)]])

    def best(self, table: NDArray[np.float32], k: int, beam: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return at most `k` items with the highest sums among the names that the beam writes, best first.

        Parameters
        ----------
        table, k, beam
            As for `best_counted`.
        """
        return self.best_counted(table, k, beam)[:2]

    def best_counted(
        self, table: NDArray[np.float32], k: int, beam: int
    ) -> tuple[NDArray[np.intp], NDArray[np.float32], int]:
        """Return what `best` does, and how many additions it took.

        Parameters
        ----------
        table
            (pieces, codewords), what each code adds, as `ResidualQuantizer.tables` gives it for one query. Tokens
            after the last piece add nothing.
        k
            Items.
        beam
            Beginnings that are kept at each level, at least `k`.
        """
        if not 1 <= k <= beam:
            raise ValueError(f"beam must be at least k, and k at least 1, got k={k} and beam={beam}")
        nodes, scores, additions = np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.float32), 0
        for depth, level in enumerate(self.levels):
            first, last = level.first_child_of[nodes], level.first_child_of[nodes + 1]
            counts = last - first
            children = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            scores = np.repeat(scores, counts)
            if depth < len(table):
                scores = scores + table[depth, level.token[children]]
                additions += len(children)
            if len(children) > beam:
                kept = np.argpartition(-scores, beam - 1)[:beam]
                children, scores = children[kept], scores[kept]
            nodes = children
        best = np.lexsort((self.order[nodes], -scores))[:k]
        return self.order[nodes[best]], scores[best], additions
