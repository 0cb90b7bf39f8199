"""Parts that the papers on vision transformers share: centres of ranges, block tuning, noise, their experiments."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tercile.papers import dopq_vit, is_vit, noisy_quant
from tercile.papers.rounded_transformer import Transformer, attention_error, forward
from tercile.quantization import Scheme, grids
from tercile.quantization.activations import Static
from tercile.quantization.activations.block_tuning import tune_blocks
from tercile.quantization.activations.power_law import on_grid
from tercile.quantization.transforms import mean, median, reparameterise_norms
from tercile.quantization.transforms.noise_bias import Noisy, expected_error, noise_bias


@pytest.fixture(scope="module")
def bench():
    return Transformer(40, 16, 0)


def test_channels_after_norms_have_one_range_whatever_the_centre_and_the_function_is_kept(bench):
    seen = {name: each.statistics for name, each in bench.observe(bench.model).items()}
    widths = {}
    for name, centre in (("mean", mean), ("median", median)):
        model = bench.copy()
        reparameterise_norms(model, bench.family, seen, centre=centre)
        assert torch.allclose(bench.logits(model, {}), bench.truth, atol=1e-4)
        after = bench.observe(model)["vit.layers.2.mlp.fc1"].statistics
        widths[name] = after.maximum - after.minimum
        assert np.ptp(widths[name]) < 1e-4 * widths[name].mean()
    # The centre is one factor for all channels, which weights with a scale a channel undo.
    ratio = widths["mean"] / widths["median"]
    assert np.ptp(ratio) < 1e-4


@pytest.mark.parametrize("angles", [(80, 80), (90, 40), (30, 95)])
def test_tangent_levels_are_even_steps_of_the_tangent(angles):
    levels = grids.tangent(4, *angles).levels.astype(np.float64)
    a, b = (angle / 100 * np.pi / 2 for angle in angles)
    steps = np.diff(np.tan((a + b) * levels - a))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)
    assert levels[0] == 0 and levels[-1] == 1


@pytest.mark.parametrize("spread", [0.1, 0.4, 0.5, 1.3])
def test_expected_error_is_the_mean_over_the_noise(spread):
    values = np.array([0.0, 0.2, 0.5, 1.49, -0.7])
    noise = np.linspace(-spread, spread, 200_001)[:, None]
    moved = values + noise
    measured = ((np.round(moved) - moved) ** 2).mean(0)
    np.testing.assert_allclose(expected_error(values, 1.0, spread), measured, atol=2e-5)
    np.testing.assert_allclose(expected_error(3 * values, 3.0, 3 * spread), 9 * measured, atol=2e-4)


def test_noise_is_left_out_where_it_does_not_help():
    whole = Static(Scheme.parse("int8-tensor-f32"), torch.ones(1), torch.zeros(1))
    on_levels = np.random.default_rng(0).integers(-5, 5, size=(200, 6)).astype(np.float32)
    assert not noise_bias(on_levels, whole).noise.any()
    between = on_levels + np.float32(0.5)
    assert noise_bias(between, whole).noise.any()


def test_noise_comes_off_in_the_next_layers_bias():
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(30, 6, generator=random), torch.randn(4, 6, generator=random)
    whole = Static(Scheme.parse("int4-tensor-f32"), torch.ones(1) / 4, torch.zeros(1))
    noise = torch.rand(6, generator=random) / 8
    merged = whole(x + noise) @ weight.T - weight @ noise
    assert torch.allclose(Noisy(whole, noise)(x) @ weight.T, merged, atol=1e-5)


def test_bad_noise_arguments_are_refused():
    channels = Static(Scheme.parse("int8-channel-f32"), torch.ones(3), torch.zeros(3))
    with pytest.raises(ValueError, match="3 scales"):
        noise_bias(np.ones((4, 3), dtype=np.float32), channels)
    with pytest.raises(ValueError, match="step must be above 0"):
        expected_error(np.ones(2), 0.0, 0.1)
    with pytest.raises(ValueError, match="not empty"):
        noise_bias(np.ones((0, 3), dtype=np.float32), Static(channels.scheme, torch.ones(1), torch.zeros(1)))


def test_tuning_lowers_every_blocks_error_and_leaves_weights_on_their_grid(bench):
    model = bench.copy()
    quantizers = bench.uniform(model, bench.observe(model), 3)
    weights = is_vit.weight_quantizers(bench, model)
    batches = bench.calibration.split(8)
    errors = tune_blocks(
        model, bench.model, bench.family, quantizers, batches, forward=forward, weights=weights, steps=6, rate=0.01
    )
    assert len(errors) == 4 and all(after <= before for before, after in errors)
    assert sum(after for _, after in errors) < sum(before for before, _ in errors)
    for name in ("vit.layers.0.mlp.fc1", "vit.layers.3.attention.v_proj"):
        weight = model.get_parameter(f"{name}.weight").detach()
        assert torch.allclose(weights[name](weight), weight, atol=1e-6)
    assert torch.equal(bench.logits(bench.model, {}), bench.truth)  # the original is not touched
    assert torch._C._len_torch_function_stack() == 0


def test_no_steps_change_nothing_but_the_rounding(bench):
    model = bench.copy()
    before = copy.deepcopy(model.state_dict())
    tune_blocks(model, bench.model, bench.family, {}, [bench.calibration], forward=forward, steps=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="batches is empty"):
        tune_blocks(model, bench.model, bench.family, {}, [], forward=forward)


def test_attention_error_is_zero_without_rounding_and_grows_with_it(bench):
    names = [f"{block}:{each}" for block in bench.blocks for each in ("probabilities", "value")]
    seen = bench.captured(bench.model, names, bench.calibration[:4])
    same = {f"{block}:probabilities": lambda x: x for block in bench.blocks}
    assert attention_error(same, seen, bench.blocks) == 0
    fine, coarse = (
        attention_error(
            {f"{block}:probabilities": on_grid(grids.logarithmic_sqrt(bits)) for block in bench.blocks},
            seen,
            bench.blocks,
        )
        for bits in (5, 3)
    )
    assert 0 < fine < coarse


def test_fitted_grids_are_at_least_as_good_as_each_of_the_family(bench):
    names = ["vit.layers.1:probabilities", "vit.layers.1:value"]
    weights, value = bench.captured(bench.model, names, bench.calibration[:4]).values()
    error = lambda fitted: float(((fitted(weights) - weights) @ value).square().mean())  # noqa: E731
    shifted = error(is_vit.shifted_logarithm(weights, value))
    assert all(shifted <= error(on_grid(grids.shifted_logarithmic(3, shift))) for shift in is_vit.SHIFTS)
    tangents = [error(on_grid(grids.tangent(4, a, b))) for a in (60, 80, 90) for b in (10, 40, 70)]
    assert error(dopq_vit.fitted_tangent(weights, value, 4)) <= min(tangents) * 1.02


def test_what_is_predicted_is_counted_both_ways(bench):
    found = noisy_quant.predictions(bench, bench.observe(bench.model), 0)
    assert found["fell_predictions"] >= 5 and found["rose_predictions"] >= 5
