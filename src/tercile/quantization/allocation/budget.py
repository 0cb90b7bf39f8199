"""Allocation under a size budget: one scheme a layer, least summed loss, exactly.

This is the multiple-choice knapsack problem,

    minimise  sum_l loss[l, c_l]   over c   subject to   sum_l nbytes[l, c_l] <= budget.

It is solved by dynamic programming over the Pareto front of the layers seen so far, with every partial
choice thrown out whose Lagrangian bound is above a solution already known (Nemhauser and Ullmann 1969,
"Discrete Dynamic Programming and Capital Allocation"; the bound: Fisher 1981, "The Lagrangian Relaxation
Method for Solving Integer Programming Problems"). A general integer solver counts bytes in floating point and
takes 0.999999 for 1, so that it may break the budget by some bytes; here bytes are integers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tercile.quantization.allocation.sensitivity import SensitivityTable

# Partial choices kept a layer. Tables of models stay hundreds of times below; only puzzles reach it.
MOST_STATES = 20_000


@dataclass(frozen=True)
class Allocation:
    """One scheme a layer.

    Attributes
    ----------
    choices
        Scheme's spelling by layer, in the table's order.
    nbytes
        Bytes of all layers together.
    loss
        Predicted loss: the sum over the layers.
    """

    choices: Mapping[str, str]
    nbytes: int
    loss: float


def allocate(table: SensitivityTable, budget_bytes: int) -> Allocation:
    """The allocation of least summed loss that fits the budget; among equals, the smallest.

    Parameters
    ----------
    table
        Bytes and loss of every layer under every scheme.
    budget_bytes
        Most bytes that all layers together may take.

    Returns
    -------
    Allocation, the exact optimum up to rounding in the last digits of the summed loss. The same table gives
    the same choice, ties included. The problem is NP-hard: on a table made to be hard (dozens of layers whose
    loss is exactly proportional to their bytes, so that only the arithmetic of the byte counts decides) more
    than `MOST_STATES` partial choices would have to be kept; then evenly spaced ones are, and the result is
    near the optimum.

    Raises
    ------
    ValueError
        If nothing fits; the message names the least budget that would.

    Notes
    -----
    About 20 ms for 40 layers x 10 schemes, below 2 s for any table of that size.

    Examples
    --------
    >>> table = SensitivityTable(
    ...     ("a", "b"), ("int8-channel", "int4-g64"), [[80, 40], [8, 4]], [[0.1, 0.9], [0.0, 0.5]]
    ... )
    >>> allocate(table, 50).choices, allocate(table, 1000).loss
    ({'a': 'int4-g64', 'b': 'int8-channel'}, 0.1)
    >>> allocate(table, 43)
    Traceback (most recent call last):
    ValueError: budget_bytes is 43, but no choice takes less than 44 bytes; ask for 44, or add smaller schemes
    """
    budget = operator.index(budget_bytes)
    options = [undominated(table.nbytes[layer], table.loss[layer]) for layer in range(len(table.layers))]
    sizes = [table.nbytes[layer, columns] for layer, columns in enumerate(options)]
    losses = [table.loss[layer, columns] for layer, columns in enumerate(options)]
    least = sum(int(size[-1]) for size in sizes)
    if least > budget:
        raise ValueError(
            f"budget_bytes is {budget}, but no choice takes less than {least} bytes; "
            f"ask for {least}, or add smaller schemes"
        )
    picked = _solve(sizes, losses, budget)
    columns = [int(options[layer][choice]) for layer, choice in enumerate(picked)]
    return Allocation(
        {name: table.schemes[column] for name, column in zip(table.layers, columns)},
        sum(int(table.nbytes[layer, column]) for layer, column in enumerate(columns)),
        math.fsum(table.loss[layer, column] for layer, column in enumerate(columns)),
    )


def undominated(nbytes: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Columns of one layer worth choosing, by rising loss and strictly falling bytes; of equals, the first.

    >>> undominated(np.array([8, 4, 6, 4]), np.array([0.1, 0.5, 0.6, 0.5])).tolist()
    [0, 1]
    """
    order = np.lexsort((np.arange(len(loss)), nbytes, loss))
    order = order[np.isfinite(loss[order])]
    smallest = np.minimum.accumulate(nbytes[order])
    worth: np.ndarray = order[np.append(True, nbytes[order][1:] < smallest[:-1])]
    return worth


def _solve(sizes: list[np.ndarray], losses: list[np.ndarray], budget: int) -> list[int]:
    """Best choice of each layer, whose options are sorted by rising loss and falling size."""
    if sum(int(size[0]) for size in sizes) <= budget:
        return [0] * len(sizes)
    price, fitting = _relaxed(sizes, losses, budget)
    known = math.fsum(float(loss[choice]) for loss, choice in zip(losses, fitting))
    # What the layers from l on can do at best: fewest bytes, and least loss + price * bytes.
    fewest = np.append(np.cumsum([size[-1] for size in sizes][::-1])[::-1], 0)
    cheapest = [float((loss + price * size).min()) for size, loss in zip(sizes, losses)]
    ahead = np.append(np.cumsum(cheapest[::-1])[::-1], 0.0)
    # Sums are rounded, so a bound that only just misses must not throw out the optimum.
    magnitude = price * budget + sum(float(np.abs(loss).max()) for loss in losses)
    limit = known + 1e-12 * magnitude

    used, lost = np.zeros(1, dtype=np.int64), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    for layer, (size, loss) in enumerate(zip(sizes, losses)):
        now_used = (used[:, None] + size).ravel()
        now_lost = (lost[:, None] + loss).ravel()
        bound = now_lost + price * (now_used - budget) + ahead[layer + 1]
        keep = np.flatnonzero((now_used + fewest[layer + 1] <= budget) & (bound <= limit))
        keep = keep[np.lexsort((keep, now_used[keep], now_lost[keep]))]
        falling = np.minimum.accumulate(now_used[keep])
        keep = keep[np.append(True, now_used[keep][1:] < falling[:-1])[: len(keep)]]
        if len(keep) > MOST_STATES:
            keep = keep[np.linspace(0, len(keep) - 1, MOST_STATES).astype(np.intp)]
        used, lost = now_used[keep], now_lost[keep]
        trail.append(np.divmod(keep, len(size)))
    if not len(lost) or lost[0] > limit:
        return fitting
    state, picked = 0, []  # the first state has the least loss
    for parent, choice in reversed(trail):
        picked.append(int(choice[state]))
        state = int(parent[state])
    return picked[::-1]


def _relaxed(sizes: list[np.ndarray], losses: list[np.ndarray], budget: int) -> tuple[float, list[int]]:
    """The price of a byte that makes the Lagrangian bound best, and a good choice within the budget.

    At a given price every layer decides alone; the bytes asked for fall as the price rises. The price is
    found by bisection between one at which they do not fit and one at which they do.
    """

    def demand(price: float) -> list[int]:
        return [int(np.argmin(loss + price * size)) for size, loss in zip(sizes, losses)]

    def taken(picked: list[int]) -> int:
        return sum(int(size[choice]) for size, choice in zip(sizes, picked))

    low, high = 0.0, 1e-300 + max(float(np.ptp(loss)) for loss in losses)
    while taken(fitting := demand(high)) > budget and high < 1e300:
        low, high = high, 4 * high
    if taken(fitting) > budget:
        fitting = [len(size) - 1 for size in sizes]
    for _ in range(60):
        price = 0.5 * (low + high)
        if taken(picked := demand(price)) > budget:
            low = price
        else:
            high, fitting = price, picked
    room = budget - taken(fitting)
    # What is left over is spent on the layers that gain most from it.
    for layer in sorted(range(len(sizes)), key=lambda one: losses[one][0] - losses[one][fitting[one]]):
        extra = sizes[layer] - sizes[layer][fitting[layer]]
        better = int(np.flatnonzero(extra <= room)[0])
        room -= int(extra[better])
        fitting[layer] = better
    return high, fitting
