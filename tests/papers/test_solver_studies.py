"""The problems that the experiments on solvers pose, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from tercile.papers import dmmv, sigma_delta_rff


def test_a_filters_response_is_the_size_of_its_transform() -> None:
    coefficients = np.random.default_rng(0).normal(size=6)
    taps = np.concatenate([coefficients[:0:-1], coefficients])
    matrix, target = dmmv.response(11, 0.3, 0.5)
    passed = round(16 * 6 * 0.3)
    frequency = np.concatenate(
        [np.linspace(0, 0.3 * np.pi, passed), np.linspace(0.5 * np.pi, np.pi, len(matrix) - passed)]
    )
    transform = np.exp(-1j * np.outer(frequency, np.arange(-5, 6))) @ taps
    assert matrix @ coefficients == pytest.approx(transform.real, abs=1e-9)
    assert np.abs(transform.imag).max() < 1e-9
    assert target.sum() == passed and target[:passed].all()


def test_line_sums_add_pixels_along_rows_columns_and_diagonals() -> None:
    image = np.random.default_rng(1).integers(0, 2, size=(5, 5)).astype(float)
    sums = dmmv.line_sums(5) @ image.reshape(-1)
    assert sums[:5] == pytest.approx(image.sum(axis=1)) and sums[5:10] == pytest.approx(image.sum(axis=0))
    flipped = image[:, ::-1]
    assert sums[10:19] == pytest.approx([np.trace(flipped, k) for k in range(4, -5, -1)])
    assert dmmv.line_sums(5).sum() == 25 * len(dmmv.DIRECTIONS)  # every pixel once in each direction


def test_descent_by_pixels_ends_where_no_single_pixel_helps() -> None:
    rng = np.random.default_rng(2)
    matrix, truth = dmmv.line_sums(6), rng.integers(0, 2, size=36).astype(float)
    sums = matrix @ truth + rng.uniform(-1, 1, len(matrix))
    start = rng.integers(0, 2, size=36).astype(float)
    image = dmmv.descended(matrix, sums, start)
    error = np.square(matrix @ image - sums).sum()
    assert error <= np.square(matrix @ start - sums).sum()
    for pixel in range(36):
        other = image.copy()
        other[pixel] = 1 - other[pixel]
        assert np.square(matrix @ other - sums).sum() >= error - 1e-9


def test_random_rounding_has_the_value_as_its_mean_and_the_scaled_kernel_the_best_constant() -> None:
    rng = np.random.default_rng(3)
    values = np.full((1, 200_000), 0.3)
    assert sigma_delta_rff.rounded_at_random(values, 1, rng).mean() == pytest.approx(0.3, abs=0.01)
    assert np.unique(sigma_delta_rff.rounded_at_random(values, 2, rng)) == pytest.approx([-1 / 3, 1 / 3])
    kernel = sigma_delta_rff.Kernel(rng.normal(size=(20, 3)))
    estimate = kernel.truth * 2 + rng.normal(size=len(kernel.truth)) * 0.1
    best = np.square(kernel.scaled(estimate) - kernel.truth).sum()
    for factor in np.linspace(0.3, 0.7, 41):
        assert best <= np.square(factor * estimate - kernel.truth).sum() + 1e-9
