"""Adaptive logarithmic grids, the search for them, and the experiment on the vision transformer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tercile.quantization import Scheme, grids
from tercile.quantization.activations.power_law import (
    GELU_SHIFT,
    adaptive_gelu,
    adaptive_probabilities,
    fitted_input,
    on_grid,
    product_error,
    progressive_search,
)


@pytest.fixture
def attention():
    random = torch.Generator().manual_seed(0)
    weights = (torch.randn(2, 2, 20, 20, generator=random) * 4).softmax(-1)
    return weights, torch.randn(2, 2, 20, 8, generator=random)


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("numerator", [5, 20, 37, 61])
def test_the_table_is_within_half_its_unit_of_the_power(bits, numerator):
    levels = np.array(grids.adaptive_logarithmic(bits, numerator).table[:-1])
    exact = 2.0 ** (-np.arange(2**bits - 1) * numerator / 37)
    unit = 1 / (2 ** (bits + 1) - 2)
    shift = 2.0 ** -np.floor(np.arange(2**bits - 1) * numerator / 37)
    assert (np.abs(levels - exact) <= 0.5 * unit * shift + 1e-12).all()


def test_a_level_is_a_shifted_entry_of_a_small_table():
    entries = {}
    for code, level in enumerate(grids.adaptive_logarithmic(4, 20).table[:-1]):
        shift, rest = divmod(code * 20, 37)
        entries.setdefault(rest, level * 2**shift * 30)
        assert level * 2**shift * 30 == pytest.approx(round(level * 2**shift * 30))
        assert entries[rest] == pytest.approx(level * 2**shift * 30)


@pytest.mark.parametrize("bits", [3, 4])
def test_the_base_is_as_good_as_the_best_of_all_bases(attention, bits):
    weights, value = attention
    every = [
        product_error(on_grid(grids.adaptive_logarithmic(bits, numerator)), weights, value)
        for numerator in range(5, 54)
    ]
    found = product_error(adaptive_probabilities(weights, value, bits), weights, value)
    assert found <= 1.1 * min(every)
    assert found <= product_error(on_grid(grids.logarithmic(bits)), weights, value)


def test_after_gelu_the_grid_covers_the_negative_values(attention):
    inputs = torch.nn.functional.gelu(torch.randn(200, 12, generator=torch.Generator().manual_seed(1)) * 3)
    fitted = adaptive_gelu(inputs, torch.randn(5, 12), 4)
    assert float(fitted.offset) == pytest.approx(-GELU_SHIFT)
    assert float(fitted(inputs).min()) >= -GELU_SHIFT - 1e-6
    # The offset is a constant: a bias takes it, and what is multiplied is scale * level alone.
    weight, bias = torch.randn(5, 12), torch.randn(5)
    whole = fitted(inputs) @ weight.T + bias
    merged = (fitted(inputs) - fitted.offset) @ weight.T + (bias + weight.sum(1) * fitted.offset)
    assert torch.allclose(whole, merged, atol=1e-5)


def test_fitted_ranges_are_close_to_a_fine_grid_of_ranges():
    random = torch.Generator().manual_seed(2)
    inputs, weight = torch.randn(300, 6, generator=random) ** 3, torch.randn(4, 6, generator=random)
    scheme = Scheme.parse("int3-tensor-asym-f32")
    found = product_error(fitted_input(inputs, weight, scheme), inputs, weight.T)
    best = np.inf
    for below, above in itertools.product(np.linspace(0.4, 1, 31), repeat=2):
        low, high = float(inputs.min()) * below, float(inputs.max()) * above
        scale = (high - low) / 7
        zero = round(-low / scale)
        rounded = (torch.round(inputs / scale + zero).clamp(0, 7) - zero) * scale
        best = min(best, float(((rounded - inputs) @ weight.T).square().mean()))
    assert found <= 1.05 * best
    with pytest.raises(ValueError, match="int4-tensor-asym-f32"):
        fitted_input(inputs, weight, Scheme.parse("int4-tensor"))


def test_progressive_search_finds_what_a_fine_grid_finds_with_fewer_tries():
    tries = []

    def loss(point):
        tries.append(point)
        return (point[0] - 0.37) ** 2 + 3 * (point[1] - 0.6 * point[0]) ** 2

    axis = np.linspace(0, 1, 5)
    best, least = progressive_search(loss, (axis, axis), rounds=4)
    fine = np.linspace(0, 1, 65)
    assert least <= min((a - 0.37) ** 2 + 3 * (b - 0.6 * a) ** 2 for a, b in itertools.product(fine, fine)) + 1e-3
    assert len(tries) == len(set(tries)) < 0.1 * 65**2
    assert all(0 <= each <= 1 for each in best)
    with pytest.raises(ValueError, match="NaN or infinite"):
        progressive_search(lambda point: float("nan"), (axis,))
    with pytest.raises(ValueError, match="axes"):
        progressive_search(loss, ())
