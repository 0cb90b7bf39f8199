"""The ladder: allocations along the front of size and loss, from the safest to the smallest."""

from __future__ import annotations

import operator

import numpy as np

from tercile.quantization.allocation.budget import Allocation, allocate
from tercile.quantization.allocation.sensitivity import SensitivityTable


def pareto_ladder(table: SensitivityTable, rungs: int = 20) -> tuple[Allocation, ...]:
    """Exact optima under budgets spaced evenly in log bytes, between the least loss and the fewest bytes.

    Parameters
    ----------
    table
        Bytes and loss of every layer under every scheme.
    rungs
        Most rungs; budgets that give the same allocation share one.

    Returns
    -------
    tuple of Allocation: sizes fall strictly and predicted losses do not fall. The first has the least loss
    there is, the last (where rungs is above 1) the fewest bytes.

    Notes
    -----
    Costs one `allocate` a rung.

    Examples
    --------
    >>> table = SensitivityTable(
    ...     ("a", "b"), ("int8-channel", "int4-g64"), [[80, 40], [8, 4]], [[0.1, 0.9], [0.0, 0.5]]
    ... )
    >>> [rung.nbytes for rung in pareto_ladder(table)]
    [88, 84, 48, 44]
    """
    if operator.index(rungs) < 1:
        raise ValueError(f"rungs must be at least 1, got {rungs}")
    possible = np.where(np.isfinite(table.loss), table.nbytes, np.iinfo(np.int64).max)
    least = sum(int(size) for size in possible.min(axis=1))
    safest = allocate(table, sum(int(size) for size in table.nbytes.max(axis=1)))
    ladder = [safest]
    for budget in np.geomspace(max(safest.nbytes, 1), max(least, 1), rungs)[1:]:
        rung = allocate(table, max(int(budget), least))
        if rung.nbytes < ladder[-1].nbytes:
            ladder.append(rung)
    # An optimum is exact but for rounding: of two rungs whose losses differ by less, the smaller one stays.
    kept: list[Allocation] = []
    for rung in ladder:
        while kept and kept[-1].loss > rung.loss:
            kept.pop()
        kept.append(rung)
    return tuple(kept)
