"""Noise-shaping quantizers against their difference equations, condensation against the sums that it stands for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tercile.quantization.noise_shaping import (
    alphabet,
    distributed,
    distributed_condensation,
    gaussian_features,
    memoryless,
    sigma_delta,
    sigma_delta_condensation,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_first_order_errors_are_differences_of_a_state_within_half_a_step(bits: int) -> None:
    y = RNG.uniform(-1, 1, size=(5, 400))
    q = sigma_delta(y, bits)
    assert np.isin(q, alphabet(bits)).all()
    state = np.cumsum(y - q, axis=1)
    assert np.abs(state).max() <= 1 / (2**bits - 1) + 1e-4


@pytest.mark.parametrize("bits, largest", [(1, 2 / 3), (2, 8 / 9), (3, 20 / 21)])
def test_second_order_states_solve_their_equation_and_stay_bounded(bits: int, largest: float) -> None:
    y = largest * np.cbrt(RNG.uniform(-1, 1, size=(5, 600)))  # much of it near the ends
    q, half = sigma_delta(y, bits, 2), 1 / (2**bits - 1)
    state = np.zeros((5, 607))
    for i in range(600):
        state[:, i + 7] = 7 / 6 * state[:, i + 6] - state[:, i] / 6 + y[:, i] - q[:, i]
    assert np.abs(state).max() <= half * (1 + 1e-3)


def test_each_step_takes_the_nearest_value_to_what_is_asked_of_it() -> None:
    y, levels = RNG.uniform(-1, 1, size=(1, 50)), alphabet(2)
    state, expected = 0.0, []
    for value in y[0]:
        expected.append(levels[np.abs(levels - (value + state)).argmin()])
        state += value - expected[-1]
    assert sigma_delta(y, 2)[0] == pytest.approx(expected)
    state, expected = 0.0, []
    for i, value in enumerate(y[0]):
        state = 1.7 * state if i % 8 else 0.0
        expected.append(levels[np.abs(levels - (value + state)).argmin()])
        state += value - expected[-1]
    assert distributed(y, 2, 8, 1.7)[0] == pytest.approx(expected)


def test_rounding_each_value_by_itself_is_the_nearest_level() -> None:
    y, levels = RNG.uniform(-1, 1, size=(3, 40)), alphabet(3)
    assert memoryless(y, 3) == pytest.approx(levels[np.abs(y[..., None] - levels).argmin(axis=-1)])


@pytest.mark.parametrize("beta", [1.2, 1.5])
def test_what_is_left_in_a_distributed_sum_is_the_last_state_alone(beta: float) -> None:
    y = RNG.uniform(-0.5, 0.5, size=(200, 12))
    condense = distributed_condensation(12, beta)
    left = (y - distributed(y, 1, 12, beta)) @ condense.weights
    assert np.abs(left).max() <= beta**-12 * 1.0 + 1e-6  # |u| <= 1


def test_condensed_noise_falls_with_the_length_as_its_order_says() -> None:
    falls = []
    for order in (1, 2):
        sizes = []
        for length in (9, 81):
            y = RNG.uniform(-0.6, 0.6, size=(300, length * 4))
            condense = sigma_delta_condensation(length, order)
            sizes.append(np.sqrt(np.mean(np.square(condense(y) - condense(sigma_delta(y, 1, order))))))
        falls.append(math.log(sizes[0] / sizes[1]) / math.log(9))
    assert 0.4 < falls[0] < 0.8 and 1.1 < falls[1] < 2.0


@pytest.mark.parametrize("order, length, bits", [(1, 3, 1), (1, 4, 2), (2, 5, 1), (2, 3, 2)])
def test_bits_of_a_sum_count_its_different_values(order: int, length: int, bits: int) -> None:
    condense = sigma_delta_condensation(length, order)
    every = np.array(list(itertools.product(alphabet(bits).astype(np.float64), repeat=length)))
    assert condense.bits(bits) == pytest.approx(math.log2(len(np.unique((every @ condense.weights).round(6)))))
    every = np.array(list(itertools.product(alphabet(1).astype(np.float64), repeat=5)))
    assert len(np.unique((every @ distributed_condensation(5, 1.5).weights).round(9))) == 2 ** distributed_condensation(
        5, 1.5
    ).bits(1)


def test_condensed_signs_estimate_the_kernel() -> None:
    points = RNG.normal(size=(12, 3)).astype(np.float32)
    truth = np.exp(-np.square(points[:, None] - points[None]).sum(axis=2) / 2)
    z = gaussian_features(3, 60_000, 1.0, np.random.default_rng(1))(points)
    for condensed in (
        sigma_delta_condensation(5)(sigma_delta(z, 1)),
        sigma_delta_condensation(15, 2)(sigma_delta(z, 2, 2)),
        distributed_condensation(6)(distributed(z, 1, 6)),
    ):
        apart = ~np.eye(12, dtype=bool)
        assert np.abs(condensed @ condensed.T - truth)[apart].mean() < 0.03
    plain = memoryless(z, 1) * np.sqrt(2 / 60_000)
    assert np.abs(plain @ plain.T - truth)[apart].mean() > 0.1


def test_bad_input_is_refused_by_name() -> None:
    y = np.zeros((1, 4))
    for call, message in (
        (lambda: alphabet(0), "bits must be"),
        (lambda: alphabet(True), "bits must be"),
        (lambda: sigma_delta(y, 1, 3), "order must be 1 or 2"),
        (lambda: sigma_delta(y[0], 1), "values must be"),
        (lambda: sigma_delta(y + 2, 1), "must lie in"),
        (lambda: memoryless(y * np.nan, 1), "must lie in"),
        (lambda: distributed(y, 1, 0), "block must be at least 1"),
        (lambda: distributed(y, 1, 2, 2.5), "beta must be above 1 and below 2"),
        (lambda: sigma_delta_condensation(4, 2), "odd for order 2"),
        (lambda: sigma_delta_condensation(3, 3), "order must be 1 or 2"),
        (lambda: sigma_delta_condensation(3)(y), "multiple of 3"),
        (lambda: distributed_condensation(3, 20 / 21), "beta must be above 1"),
        (lambda: distributed_condensation(0), "length must be at least 1"),
        (lambda: gaussian_features(0, 1, 1.0, RNG), "dimension and count"),
        (lambda: gaussian_features(1, 1, 0.0, RNG), "bandwidth must be"),
        (lambda: gaussian_features(2, 1, 1.0, RNG)(y), "points must be"),
        (lambda: gaussian_features(4, 1, 1.0, RNG)(y * np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
