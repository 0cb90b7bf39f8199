"""Ways to do the same thing, timed turn by turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch


def least_seconds(ways: Mapping[str, Callable[[], object]], turns: int = 5, calls: int = 1) -> dict[str, float]:
    """Seconds of a call of each way, on one thread: of its least disturbed turn, after one that is not counted.

    Parameters
    ----------
    ways
        What to call, by name.
    turns
        Each way has its turn before any has its next, so that what disturbs the machine disturbs all alike.
    calls
        In a turn.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with _one_thread():
        for turn in range(turns + 1):
            for name, call in ways.items():
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                if turn:
                    taken[name].append((time.perf_counter() - start) / calls)
    return {name: min(seconds) for name, seconds in taken.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch and for compiled kernels, which look at the environment in every call."""
    torch_threads, ours = torch.get_num_threads(), os.environ.get("TERCILE_THREADS")
    torch.set_num_threads(1)
    os.environ["TERCILE_THREADS"] = "1"
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        del os.environ["TERCILE_THREADS"]
        if ours is not None:
            os.environ["TERCILE_THREADS"] = ours
