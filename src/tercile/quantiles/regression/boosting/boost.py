"""Gradient boosting with second derivatives (Chen and Guestrin 2016, section 2) over column blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercile import _native
from tercile.quantiles.regression.boosting.column_blocks import ColumnBlocks
from tercile.quantiles.regression.boosting.losses import Loss

Splits = Literal["exact", "global", "local"]


@dataclass(frozen=True)
class Growth:
    """How trees are grown; the estimators explain each."""

    trees: int
    depth: int
    rate: float
    reg_lambda: float
    least_gain: float
    least_weight: float
    bins: int
    splits: Splits


@dataclass(frozen=True)
class Trees:
    """A constant and the nodes of all trees one after another.

    Tree t starts at node `root[t]`, and the numbers of children count from there. A leaf has feature -1. Rows below
    the threshold go left, and those where the value is missing if `missing_left`.
    """

    start: float
    root: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    value: NDArray[np.float64]
    gain: NDArray[np.float64]
    cover: NDArray[np.float64]

    def margin(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """The constant plus what every tree says, for each row of a float32 table with NaN where it is missing.

        Cost: one walk down each tree for each row; blocks of rows in parallel.
        """
        out = np.full(len(table), self.start)
        _native.predict_trees(
            table, self.feature, self.threshold, self.left, self.right, self.missing_left, self.value, self.root, out
        )
        return out

    def gain_by_feature(self, features: int) -> NDArray[np.float64]:
        """(features,): how much the splits on each column lowered the loss, as shares that add up to 1 (or to 0)."""
        inner = self.feature >= 0
        total = np.zeros(features)
        np.add.at(total, self.feature[inner], self.gain[inner])
        return total / max(float(total.sum()), np.finfo(np.float64).tiny)


def boost(
    blocks: ColumnBlocks, y: NDArray[np.float64], weight: NDArray[np.float64], loss: Loss, growth: Growth
) -> Trees:
    """Grow trees one after another, each on the derivatives of the loss at what those before it say.

    Parameters
    ----------
    blocks : the table; for ``splits="exact"`` in one block.
    y, weight : (rows,).
    loss, growth : what to minimise and how.

    Returns
    -------
    Trees

    Notes
    -----
    In memory: some 60 bytes a row, and of the table what `ColumnBlocks` keeps. Each level reads every column once
    ("local": twice) and the columns it splits on once more.
    """
    start = loss.start(y, weight)
    margin = np.full(y.size, start)
    position = np.zeros(y.size, dtype=np.int32)
    proposed: tuple[NDArray[np.float64], Any] | None = None
    grown = []
    for _ in range(growth.trees):
        gradient = loss.derivatives(y, margin, weight)
        options = (growth.reg_lambda, growth.least_gain, growth.least_weight, 1.0, growth.depth)
        if growth.splits == "exact":
            nodes = blocks.native.grow_exact(gradient, position, *options)
        elif growth.splits == "local":
            nodes = blocks.native.grow_local(gradient, position, *options, growth.bins)
        else:
            # Candidates depend on the second derivatives only; where these stay, so do the candidates.
            if proposed is None or not np.array_equal(proposed[0], gradient[:, 1]):
                proposed = gradient[:, 1].copy(), blocks.native.propose(gradient, position, growth.bins)
            nodes = blocks.native.grow_global(gradient, position, *options, proposed[1])
        values = loss.leaf_values(position, y - margin, weight, np.asarray(nodes[5])) * growth.rate
        margin += values[position]
        grown.append((*nodes[:5], values, *nodes[6:]))
    types = (np.int32, np.float32, np.int32, np.int32, np.uint8, np.float64, np.float64, np.float64)
    columns = [np.concatenate([np.asarray(tree[i], dtype=kind) for tree in grown]) for i, kind in enumerate(types)]
    root = np.cumsum([0] + [len(tree[0]) for tree in grown[:-1]]).astype(np.int64)
    return Trees(start, root, *columns)
