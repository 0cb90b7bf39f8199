"""The split is a property of the content and the seed, of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tercile.filters.data import split

KEYS = st.lists(st.binary(min_size=1, max_size=16), unique=True, max_size=60)
SEEDS = st.integers(-(2**70), 2**70)


def sides(keys, **options):
    return [[keys[i] for i in side] for side in split(keys, **options)]


@given(KEYS, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_the_units_changes_nothing(keys, seed, rng):
    shuffled = rng.sample(keys, len(keys))
    assert sides(keys, seed=seed) == sides(shuffled, seed=seed)
    if len(keys) >= 6:
        counts = {"calibration": 1, "selection": 2, "certification": None}
        assert sides(keys, seed=seed, **counts) == sides(shuffled, seed=seed, **counts)


@given(KEYS, SEEDS, st.data())
def test_with_fractions_the_rest_of_the_pool_changes_nothing(keys, seed, data):
    some = data.draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
    for whole, part in zip(sides(keys, seed=seed), sides(some, seed=seed)):
        assert set(part) == set(whole) & set(some)


@given(KEYS, SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_counts_are_met_exactly_and_no_unit_is_on_two_sides(keys, seed, a, b):
    if a + b > len(keys):
        with pytest.raises(
            ValueError, match=f"{a + b} units are asked for .* but only {len(keys)} are there"
        ):
            split(keys, seed=seed, calibration=a, selection=b, certification=None)
        return
    dealt = split(keys, seed=seed, calibration=a, selection=b, certification=None)
    assert [len(side) for side in dealt] == [a, b, len(keys) - a - b]
    assert sorted(np.concatenate(dealt)) == list(range(len(keys)))


@given(KEYS, SEEDS)
def test_fractions_that_add_up_to_one_leave_nobody_out(keys, seed):
    dealt = split(keys, seed=seed, calibration=0.1, selection=0.2, certification=0.7)
    assert sorted(np.concatenate(dealt)) == list(range(len(keys)))


def test_sizes_and_sides_are_those_of_independent_draws():
    keys = [i.to_bytes(4, "big") for i in range(20_000)]
    first = split(keys, seed=1, calibration=0.2, selection=0.3, certification=0.4)
    for side, share in zip(first, (0.2, 0.3, 0.4)):
        assert stats.binomtest(len(side), 20_000, share).pvalue > 1e-4
    # Another seed is another, independent deal: the overlap of two sides is hypergeometric.
    second = split(keys, seed=2, calibration=0.2, selection=0.3, certification=0.4)
    both = len(np.intersect1d(first[2], second[2]))
    chance = stats.hypergeom(20_000, len(first[2]), len(second[2]))
    assert chance.cdf(both) > 1e-4 and chance.sf(both) > 1e-4


def test_a_seed_gives_the_same_deal_today_and_tomorrow():
    # Written down once: certificates on disk rely on it.
    keys = [bytes([i]) for i in range(12)]
    dealt = [side.tolist() for side in split(keys, seed=2024, calibration=3, selection=3, certification=6)]
    assert dealt == [[9, 1, 5], [10, 4, 3], [8, 7, 0, 6, 11, 2]]


@pytest.mark.parametrize(
    ("shares", "error", "message"),
    [
        ((0.5, 0.4, 0.3), ValueError, "add up to 1 at most"),
        ((0.5, 10, 0.3), ValueError, "all fractions or all counts"),
        ((0.5, None, 0.3), ValueError, "all fractions or all counts"),
        ((None, None, 3), ValueError, "only one of"),
        ((-1, 2, 3), ValueError, "calibration must not be negative, got -1"),
        ((float("nan"), 0.1, 0.1), ValueError, "calibration must not be negative, got nan"),
        ((1, "2", 3), TypeError, "selection must be a fraction, a count or None, got '2'"),
        ((1, 2, True), TypeError, "certification must be a fraction"),
    ],
)
def test_shares_that_make_no_sense_are_refused(shares, error, message):
    calibration, selection, certification = shares
    with pytest.raises(error, match=message):
        split([b"a"], seed=0, calibration=calibration, selection=selection, certification=certification)


def test_a_key_twice_is_refused():
    with pytest.raises(ValueError, match="keys must be distinct"):
        split([b"a", b"a"], seed=0)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_moving_the_line_between_the_other_two_sides_leaves_certification_alone(seed):
    keys = [bytes([i]) for i in range(100)]
    one = split(keys, seed=seed, calibration=0.1, selection=0.4, certification=0.5)
    two = split(keys, seed=seed, calibration=0.4, selection=0.1, certification=0.5)
    assert one[2].tolist() == two[2].tolist()
