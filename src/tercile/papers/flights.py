"""The flights that several experiments on private statistics are measured on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tercile.zoo

SAMPLE = Path(tercile.zoo.__file__).parent / "samples" / "flights.npz"


@cache
def flights() -> dict[str, NDArray]:
    """All 327,346 flights that left New York City in 2013 and arrived, in order of departure (`zoo.make_flights`).

    >>> table = flights()
    >>> table["arrival_delay"].size, sorted(table)[:4]
    (327346, ['air_time', 'aircraft', 'arrival_delay', 'day'])
    """
    with np.load(SAMPLE) as packed:
        return {name: packed[name] for name in packed.files}


def rank_error(ordered: NDArray, answers: NDArray, levels: NDArray) -> NDArray:
    """How far each level is from the ranks that its answer has among the ordered values, as shares of them.

    >>> rank_error(np.array([1.0, 2.0, 2.0, 3.0]), np.array([2.0, 3.0]), np.array([0.5, 0.5])).tolist()
    [0.0, 0.25]
    """
    below = np.searchsorted(ordered, answers, side="left") / ordered.size
    upto = np.searchsorted(ordered, answers, side="right") / ordered.size
    return np.maximum(0.0, np.maximum(below - levels, levels - upto))
