"""The rotation is orthogonal at every size, spreads what is large, and is taken back exactly enough."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from tercile.quantization import QTensor, Scheme
from tercile.quantization.hadamard import factor, paley, rotate, rotate_back, signs
from tercile.quantization.solvers import output_error, round_to_nearest
from tercile.quantization.statistics import Statistics

SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 20, 23, 28, 36, 60, 64, 100, 312, 384, 768, 1536]


@pytest.mark.parametrize("n", SIZES)
def test_it_is_orthogonal_and_comes_back(n: int) -> None:
    matrix = rotate(np.eye(n))
    np.testing.assert_allclose(matrix.astype(np.float64) @ matrix.T, np.eye(n), atol=3e-6)
    x = np.random.default_rng(n).normal(size=(5, n)).astype(np.float32)
    np.testing.assert_allclose(rotate_back(rotate(x)), x, atol=2e-5)
    np.testing.assert_allclose(rotate(x), x @ matrix, atol=2e-5)


@pytest.mark.parametrize("n", [4, 64, 384, 1536, 768, 60])
def test_every_input_reaches_every_output_alike(n: int) -> None:
    np.testing.assert_allclose(np.abs(rotate(np.eye(n))), n**-0.5, rtol=1e-4)


def test_it_is_scipys_hadamard_matrix_where_that_exists() -> None:
    expected = np.diag(signs(64)) @ scipy.linalg.hadamard(64) / 8
    np.testing.assert_allclose(rotate(np.eye(64)), expected, atol=1e-6)


@pytest.mark.parametrize("order", [4, 8, 12, 20, 24, 28, 36, 44, 60])
def test_paleys_matrices_are_hadamard(order: int) -> None:
    h = paley(order)
    assert set(np.unique(h)) == {-1, 1} and np.array_equal(h @ h.T, order * np.eye(order))
    assert np.abs(factor(16 * 9)).std() < 1e-7  # 144 = 36 * 4


def test_outliers_are_spread() -> None:
    x = np.random.default_rng(0).normal(size=(64, 384)).astype(np.float32)
    x[:, 7] *= 40
    assert np.abs(rotate(x)).max() < 0.25 * np.abs(x).max()
    flat = rotate(x) / np.sqrt((rotate(x) ** 2).mean(axis=1, keepdims=True))
    assert (flat**4).mean() < 3.3  # no heavier tails than normal values have


def test_statistics_of_rotated_inputs_are_rotated_statistics() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 24)) @ rng.normal(size=(24, 24)) + 1).astype(np.float32)
    seen, turned = Statistics(24), Statistics(24)
    seen.update(x)
    turned.update(rotate(x))
    got = seen.rotated()
    for name in ("mean", "mean_square", "second_moment"):
        np.testing.assert_allclose(getattr(got, name), getattr(turned, name), rtol=1e-4, atol=1e-3)
    assert got.count == 60 and (got.maximum_magnitude >= turned.maximum_magnitude - 1e-4).all()
    weight = rng.normal(size=(8, 24)).astype(np.float32)
    stored = round_to_nearest(weight, seen, Scheme.parse("int3-channel-rot"))
    inner = QTensor(stored.scheme.inner, stored.shape, stored.words, stored.arrays)
    assert output_error(weight, stored, seen) == pytest.approx(output_error(rotate(weight), inner, turned), rel=1e-3)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros(3), "two|rows, columns"),
        (np.zeros((2, 0)), "at least one"),
        (np.full((1, 4), np.nan), "NaN"),
        (np.full((1, 64), 3e38), "beyond float32"),
    ],
)
def test_what_cannot_be_rotated_is_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotate(bad)
