"""AdaRound beside every way to round, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tercile.quantization import Scheme
from tercile.quantization.solvers import adaround, output_error, round_to_nearest
from tercile.quantization.statistics import Statistics

COLUMNS = 8


def problem(seed: int) -> tuple[np.ndarray, Statistics]:
    rng = np.random.default_rng(seed)
    seen = Statistics(COLUMNS)
    seen.update(rng.normal(size=(60, COLUMNS)) @ rng.normal(size=(COLUMNS, COLUMNS)))
    return rng.normal(size=(1, COLUMNS)).astype(np.float32), seen


def least(weight: np.ndarray, seen: Statistics, scheme: Scheme) -> float:
    """Error of the best of all 2^columns ways to take one of the two levels around each weight."""
    made = round_to_nearest(weight, seen, scheme).ranges
    at = weight / made.scale
    levels = scheme.grid.levels
    below = np.clip(np.searchsorted(levels, at, side="right") - 1, 0, len(levels) - 2)
    errors = []
    for up in itertools.product((0, 1), repeat=COLUMNS):
        change = levels[below + np.array([up])] * made.scale - weight
        errors.append(float((change @ seen.second_moment * change).sum()))
    return min(errors)


def test_it_comes_close_to_the_best_of_all_roundings() -> None:
    scheme = Scheme.parse("int3-channel-f32")
    best, own, plain = np.zeros(20), np.zeros(20), np.zeros(20)
    for seed in range(20):
        weight, seen = problem(seed)
        best[seed] = least(weight, seen, scheme)
        own[seed] = output_error(weight, adaround(weight, seen, scheme), seen)
        plain[seed] = output_error(weight, round_to_nearest(weight, seen, scheme), seen)
    assert (own >= best * (1 - 1e-4)).all()
    # Half of what rounding to nearest loses beyond the best possible, or more, is won back.
    assert own.sum() - best.sum() < 0.5 * (plain.sum() - best.sum())


def test_more_steps_do_not_make_it_worse() -> None:
    rng = np.random.default_rng(0)
    seen = Statistics(64)
    seen.update(rng.normal(size=(400, 64)) @ rng.normal(size=(64, 64)))
    weight, scheme = rng.normal(size=(32, 64)).astype(np.float32), Scheme.parse("int3-g32-asym")
    short, long = (output_error(weight, adaround(weight, seen, scheme, steps=n), seen) for n in (30, 300))
    assert long <= short


def test_steps_are_checked() -> None:
    weight, seen = problem(0)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        adaround(weight, seen, Scheme.parse("int3-channel"), steps=0)
