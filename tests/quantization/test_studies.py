"""Expected errors against sampling, bounds against enumeration, pruning against what it has to beat."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm, t, uniform

from tercile.quantization.solvers import prune
from tercile.quantization.statistics import Statistics
from tercile.quantization.studies import (
    diagonal_below,
    pruning_lower_bound,
    pruning_optimum,
    pruning_snr,
    quantization_lower_bound,
    quantization_snr,
    snr,
)


def problem(inputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([inputs, seed])
    x = rng.normal(size=(3 * inputs, inputs)) @ (np.eye(inputs) + 0.3 * rng.normal(size=(inputs, inputs)))
    return rng.normal(size=inputs), x.T @ x / len(x)


@pytest.mark.parametrize("distribution", [norm(), t(5)])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_expected_quantization_error_is_the_sampled_one_at_the_best_range(distribution, bits: int) -> None:
    x = np.clip(distribution.rvs(size=100_000, random_state=0), *distribution.ppf([1e-6, 1 - 1e-6]))
    half, noises = 2 ** (bits - 1), []
    for top in np.linspace(0.2, 12, 60):
        step = top / half
        level = (np.clip(np.floor(np.abs(x) / step), 0, half - 1) + 0.5) * step
        noises.append(np.square(np.abs(x) - level).mean())
    assert quantization_snr(distribution, bits) == pytest.approx(snr(np.square(x).mean(), min(noises)), abs=0.15)


def test_one_bit_of_a_uniform_distribution_is_six_decibels_and_so_is_each_further() -> None:
    found = [quantization_snr(uniform(-1, 2), bits, clip=1.0) for bits in (1, 2, 5)]
    assert found == pytest.approx([20 * np.log10(2), 40 * np.log10(2), 100 * np.log10(2)], abs=0.02)


@pytest.mark.parametrize("kept", [0.0625, 0.25, 0.8])
def test_expected_pruning_error_is_the_sampled_one(kept: float) -> None:
    x = norm().rvs(size=100_000, random_state=1)
    smallest = np.sort(np.square(x))[: round((1 - kept) * len(x))]
    assert pruning_snr(norm(), kept) == pytest.approx(snr(np.square(x).sum(), smallest.sum()), abs=0.05)
    assert pruning_snr(norm(), 1.0) > 60


def test_the_diagonal_is_below_and_cannot_grow() -> None:
    _, h = problem(9, 0)
    d = diagonal_below(h)
    least = np.linalg.eigvalsh(h - np.diag(d))[0]
    assert least == pytest.approx(0, abs=1e-9)
    assert diagonal_below(np.ones((3, 3))) == pytest.approx(np.zeros(3), abs=1e-12)


@pytest.mark.parametrize("inputs", [1, 3, 7])
def test_quantization_bounds_lie_below_the_best_of_all_and_near_it(inputs: int) -> None:
    ratios = []
    for seed in range(12):
        weight, h = problem(inputs, seed)
        weight *= 1.3  # some lie outside the levels
        levels = np.linspace(-1.5, 1.5, 4)
        left = weight - np.array(list(itertools.product(levels, repeat=inputs)))
        best = np.einsum("ni,ij,nj->n", left, h, left).min()
        bound = quantization_lower_bound(weight, h, np.tile(levels, (inputs, 1)))
        assert 0 <= bound <= best * (1 + 1e-9)
        ratios.append(bound / best)
    assert np.mean(ratios) > (0.95 if inputs == 1 else 0.2)


def test_pruning_optimum_and_bound_against_fitting_every_choice() -> None:
    for seed in range(6):
        weight, h = problem(7, seed)
        for kept in (0, 2, 5, 7):
            best = np.inf
            for support in itertools.combinations(range(7), kept):
                v, at = np.zeros(7), list(support)
                if at:
                    v[at] = np.linalg.solve(h[np.ix_(at, at)], (h @ weight)[at])
                best = min(best, (weight - v) @ h @ (weight - v))
            assert pruning_optimum(weight, h, kept) == pytest.approx(best, abs=1e-9)
            assert pruning_lower_bound(weight, h, kept) <= best * (1 + 1e-9) + 1e-12


def test_pruning_keeps_the_share_and_comes_close_to_the_optimum() -> None:
    ratios = []
    for seed in range(10):
        weight, h = problem(10, seed)
        seen = Statistics(10)
        seen.update(np.linalg.cholesky(h).T * np.sqrt(10))
        pruned = prune(weight[None], seen, 0.4, damping=1e-6)[0]
        assert (pruned != 0).sum() <= 4
        optimum = pruning_optimum(weight, h, 4)
        ratios.append((weight - pruned) @ h @ (weight - pruned) / optimum)
    assert min(ratios) >= 1 - 1e-3 and np.median(ratios) < 1.3


def test_pruning_beats_the_largest_weights_and_leaves_all_when_all_are_kept() -> None:
    rng = np.random.default_rng(3)
    weight, x = (
        rng.normal(size=(20, 5, 2, 2)).astype(np.float32),
        rng.normal(size=(200, 20)) @ rng.normal(size=(20, 20)),
    )
    seen = Statistics(20)
    seen.update(x)
    flat = weight.reshape(20, 20)
    largest = np.where(np.abs(flat) >= np.quantile(np.abs(flat), 0.7), flat, 0)
    pruned = prune(weight, seen, 0.3)
    assert pruned.shape == weight.shape and (pruned != 0).mean() <= 0.3
    errors = [np.square(x @ (flat - p).T).sum() for p in (pruned.reshape(20, 20), largest)]
    assert errors[0] < 0.5 * errors[1]
    assert prune(weight, seen, 1.0) == pytest.approx(weight, abs=1e-4)
    assert np.isfinite(prune(weight, Statistics(20), 0.3)).all()


def test_bad_input_is_refused_by_name() -> None:
    weight, h = problem(4, 0)
    seen = Statistics(4)
    for call, message in (
        (lambda: quantization_snr(norm(), 0), "bits must be"),
        (lambda: quantization_snr(norm(), 2, clip=-1), "clip must be above 0"),
        (lambda: pruning_snr(norm(), 0), "kept must be above 0"),
        (lambda: snr(0, 0), "must not be negative or both 0"),
        (lambda: diagonal_below(weight), "hessian must be"),
        (lambda: quantization_lower_bound(weight, h, np.ones(3)), "must be"),
        (lambda: pruning_lower_bound(weight[:2], h, 1), r"weight must be \(4,\)"),
        (lambda: pruning_optimum(weight, h, 5), "kept must be from 0 to 4"),
        (lambda: pruning_optimum(np.ones(40), np.eye(40), 20), "more than 200000 ways"),
        (lambda: prune(weight[None], seen, 0), "kept must be above 0"),
        (lambda: prune(weight[None], seen, 0.5, rounds=-1), "rounds must be at least 0"),
        (lambda: prune(weight[None], Statistics(5), 0.5), "statistics are of 5 inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert snr(1, 0) == np.inf and snr(0, 1) == -np.inf
