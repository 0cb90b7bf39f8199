"""Sampling, where the right answer is known, and the distance between samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from tercile.diffusion.processes import cosine
from tercile.diffusion.sampling import ddim, frechet_distance

PROCESS = cosine(400)


def best_guess(x: torch.Tensor, step: torch.Tensor, spread: float = 0.3, middle: float = 0.2) -> torch.Tensor:
    """The expected noise in x, if clean values are normal."""
    kept = PROCESS.kept[step].reshape(-1, 1)
    power = kept * spread**2 + 1 - kept
    return (1 - kept).sqrt() * (x - kept.sqrt() * middle) / power


def test_with_the_best_denoiser_samples_have_the_distribution_of_the_data() -> None:
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    drawn = ddim(best_guess, PROCESS, noise, steps=100, bounds=None)
    assert float(drawn.mean()) == pytest.approx(0.2, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.3, abs=0.01)


def test_few_steps_are_a_worse_answer_than_many() -> None:
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    errors = [abs(float(ddim(best_guess, PROCESS, noise, steps=n, bounds=None).std()) - 0.3) for n in (2, 10, 50)]
    assert errors == sorted(errors, reverse=True)


def test_guesses_are_held_within_the_bounds() -> None:
    def wild(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return x * -5

    free = ddim(wild, PROCESS, torch.ones(3, 2), steps=4, bounds=None)
    held = ddim(wild, PROCESS, torch.ones(3, 2), steps=4)
    assert float(free.abs().max()) > 2 and float(held.abs().max()) < 2


@pytest.mark.parametrize("steps", [0, 400])
def test_more_steps_than_there_are_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps must be between 1 and 399"):
        ddim(best_guess, PROCESS, torch.ones(1, 1), steps=steps)


def test_the_distance_is_that_of_the_formula_with_a_matrix_root() -> None:
    random = np.random.default_rng(0)
    left, right = random.normal(size=(60, 5)), 1 + random.normal(size=(80, 5)) @ random.normal(size=(5, 5))
    first, second = np.cov(left.T), np.cov(right.T)
    expected = np.square(left.mean(0) - right.mean(0)).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(right, left) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (np.ones((1, 3)), np.ones((4, 3)), r"left must be \(n, features\) with two rows"),
        (np.ones((4, 3)), np.ones(4), r"right must be \(n, features\)"),
        (np.ones((4, 3)), np.ones((4, 2)), "left has 3 features, right 2"),
        (np.full((4, 3), np.nan), np.ones((4, 3)), "left holds values that are not finite"),
    ],
)
def test_samples_that_do_not_fit_are_refused(left: np.ndarray, right: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frechet_distance(left, right)
