"""Training with rounding in the loop: folding, ranges and gradients against the network they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import QTensor, Scheme
from tercile.quantization.training.fake_quantize import RoundedActivations, RoundedLayer, RoundedNetwork


def network() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=True), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    for _ in range(5):
        model(torch.randn(16, 1, 8, 8) + 1)
    return model.eval()


def without_rounding(model: nn.Module) -> RoundedNetwork:
    rounded = RoundedNetwork(model)
    rounded.rounds_values = False
    for layer in rounded.layers.values():
        layer.rounding = False
    return rounded


def test_without_rounding_it_is_the_network_in_evaluation():
    model, x = network(), torch.rand(5, 1, 8, 8)
    assert torch.allclose(without_rounding(model)(x), model(x), atol=1e-5)


def test_without_rounding_it_is_the_network_in_training_and_moves_the_same_statistics():
    model, x = network(), torch.rand(7, 1, 8, 8)
    rounded = without_rounding(model).train()
    model.train()
    for norm in (model[1], model[4]):
        norm.momentum = 0.01
    assert torch.allclose(rounded(x), model(x), atol=1e-4)
    for name, norm, conv in (("0", model[1], model[0]), ("3", model[4], model[3])):
        layer = rounded.layer_of(name)
        bias = torch.zeros(len(layer.mean)) if conv.bias is None else conv.bias
        assert torch.allclose(layer.mean + bias, norm.running_mean, atol=1e-5)
        assert torch.allclose(layer.variance, norm.running_var, rtol=1e-4)


def test_gradients_without_rounding_are_those_of_the_network_with_settled_norms():
    model, x = network(), torch.rand(7, 1, 8, 8)
    rounded = without_rounding(model).train().settle_norms()
    rounded(x).square().sum().backward()
    model(x).square().sum().backward()
    for name in ("0", "3", "7"):
        assert torch.allclose(rounded.layer_of(name).weight.grad, model[int(name)].weight.grad, rtol=1e-3, atol=1e-5)
    assert torch.allclose(rounded.layer_of("0").gain.grad, model[1].weight.grad, rtol=1e-3, atol=1e-5)


def test_a_stored_weight_is_what_the_scheme_decodes():
    layer = RoundedLayer(network()[3], network()[4], Scheme.parse("int4-channel-f32"))
    scheme = layer.scheme
    folded = layer.folded().detach().numpy().reshape(4, -1)
    ranges = scheme.ranges(layer.scale.detach().numpy()[:, None])
    wanted = QTensor.quantize(folded, scheme, ranges).dequantize()
    assert np.allclose(layer.stored()[0].detach().numpy().reshape(4, -1), wanted, atol=1e-6)


def test_zero_has_a_code_of_its_own():
    value = RoundedActivations(Scheme.parse("int4-tensor-asym-f32"))
    value.watching = True
    value(torch.linspace(-1.3, 2.9, 100))
    value.watching = False
    value.settle()
    assert float(value(torch.zeros(1))) == 0.0
    assert len(value(torch.linspace(-9, 9, 1000)).unique()) == 16


def test_pictures_that_are_bytes_pass_unchanged():
    value = RoundedNetwork(network()).value_of("input")
    pictures = torch.arange(256) / 255
    assert torch.allclose(value(pictures), pictures, atol=1e-7)


def test_training_with_rounding_in_the_loop_beats_rounding_afterwards():
    torch.manual_seed(0)
    teacher = network()
    x = torch.rand(256, 1, 8, 8)
    wanted = teacher(x).detach()
    rounded = RoundedNetwork(teacher, "int2-channel-f32", "int4-tensor-asym-f32").watch(x)
    before = float((rounded(x) - wanted).square().mean().detach())
    rounded.learn_ranges().settle_norms().train()
    optimizer = torch.optim.Adam([one for one in rounded.parameters() if one.requires_grad], lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (rounded(x) - wanted).square().mean().backward()
        optimizer.step()
    after = float((rounded.eval()(x) - wanted).square().mean().detach())
    assert after < 0.25 * before
    for name in ("0", "3", "7"):
        layer = rounded.layer_of(name)
        codes = layer.stored()[0] / layer.scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
        assert torch.allclose(codes, codes.round(), atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "inputs", "named"),
    [
        ("int4-g64", "int8-tensor-asym-f32", "weights"),
        ("int8-channel-asym-f32", "int8-tensor-asym-f32", "weights"),
        ("int8-channel-f32", "int8-tensor-f32", "inputs"),
        ("int8-channel-f32", "int8-token-asym-f32", "inputs"),
    ],
)
def test_schemes_of_another_kind_are_named(weights, inputs, named):
    with pytest.raises(ValueError, match=named):
        RoundedNetwork(network(), weights, inputs)
