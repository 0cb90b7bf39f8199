"""A scale for each side of zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, silu

from tercile.quantization import Scheme
from tercile.quantization.activations import (
    Dynamic,
    Static,
    TwoSided,
    fitted_sides,
    from_values,
    one_scale,
    polarity_gain,
    two_sided,
)
from tercile.quantization.ranges import min_max

EIGHT = Scheme.parse("int8-tensor-f32")
X = torch.randn(400, 16, generator=torch.Generator().manual_seed(0)) - 0.5


def error(quantizer: Static | TwoSided, x: torch.Tensor) -> float:
    return float((quantizer(x) - x).square().mean())


def test_each_side_is_rounded_as_if_the_other_were_not_there() -> None:
    x = silu(3 * X)
    found = two_sided(x.numpy(), EIGHT)
    for side, scale in ((x.clamp(max=0), found.negative), (x.clamp(min=0), found.positive)):
        alone = from_values(side.numpy(), EIGHT)
        assert torch.equal(alone.scale, scale)
        assert torch.equal(found(side), alone(side))


def test_no_more_codes_are_used_than_eight_bits_have() -> None:
    x = gelu(4 * torch.randn(20_000))
    assert len(two_sided(x[None].numpy(), EIGHT)(x).unique()) <= 256


@pytest.mark.parametrize("activation", [silu, gelu])
def test_the_negative_side_of_an_activation_is_rounded_far_better(activation) -> None:
    x = activation(3 * X)
    below = x[x < 0]
    one, two = (fit(x.numpy(), EIGHT) for fit in (from_values, two_sided))
    assert error(two, below) < 0.02 * error(one, below)
    assert error(two, x[x > 0]) == pytest.approx(error(one, x[x > 0]), rel=0.2)


def test_the_gain_is_that_of_the_error_and_bounded_by_the_share_of_negatives() -> None:
    x = silu(3 * X)
    gain = polarity_gain(x.numpy(), EIGHT, ranges=min_max)
    one, two = (fit(x.numpy(), EIGHT, ranges=min_max) for fit in (from_values, two_sided))
    assert gain == pytest.approx(error(one, x) / error(two, x), rel=1e-6)
    assert 1.5 < gain < 1.05 / float((x > 0).float().mean())


def test_layers_are_told_apart_by_what_they_read_and_not_by_name() -> None:
    reads = {"normal": X, "relu": X.relu(), "silu": silu(3 * X), "gelu": gelu(X), "turned silu": -silu(3 * X)}
    two = {name for name, x in reads.items() if isinstance(fitted_sides(x.numpy(), EIGHT), TwoSided)}
    assert two == {"silu", "gelu", "turned silu"}


def test_a_gain_that_is_asked_for_has_to_be_there() -> None:
    x = silu(3 * X).numpy()
    assert isinstance(fitted_sides(x, EIGHT, least_gain=10), Static)
    assert isinstance(fitted_sides(X.numpy(), EIGHT, least_gain=0.9), TwoSided)


@pytest.mark.parametrize("x", [np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32), -np.ones((3, 2), np.float32)])
def test_a_side_that_is_empty_costs_nothing(x: np.ndarray) -> None:
    found = two_sided(x, EIGHT)
    assert torch.allclose(found(torch.from_numpy(x)), torch.from_numpy(x), atol=1e-6)


def test_two_scales_gain_nothing_where_one_makes_no_error() -> None:
    assert polarity_gain(np.zeros((3, 2), np.float32), EIGHT) == 1.0


def test_one_scale_follows_the_blocks_of_the_scheme() -> None:
    assert isinstance(one_scale(X.numpy(), EIGHT), Static)
    assert isinstance(one_scale(X.numpy(), Scheme.parse("int8-token")), Dynamic)


@pytest.mark.parametrize("spelling", ["int8-tensor-asym-f32", "int8-channel-f32", "int8-token"])
def test_schemes_without_two_sides_are_refused(spelling: str) -> None:
    with pytest.raises(ValueError, match="two sides have a symmetric grid"):
        TwoSided(Scheme.parse(spelling), torch.ones(1), torch.ones(1))
