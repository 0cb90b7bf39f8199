"""Cross-layer equalisation: the same function, even ranges, and better rounding under one scale a layer."""

from __future__ import annotations

import torch
from torch import nn

from tercile.quantization.families import describe
from tercile.quantization.ranges import min_max
from tercile.quantization.scheme import Scheme
from tercile.quantization.transforms import equalize_layers, fold_batch_norms


def uneven() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    spread = torch.logspace(-2, 2, 8)
    with torch.no_grad():
        model[0].weight *= spread.reshape(-1, 1, 1, 1)
        model[0].bias *= spread
        model[2].weight /= spread.reshape(1, -1, 1, 1)
    return model.requires_grad_(False).eval()


def test_ranges_of_every_shared_channel_are_even_along_a_chain():
    model = uneven()
    made = equalize_layers(model, describe(model))
    assert made.merged == (("scale of 0", "2"), ("scale of 2", "4"))
    for first, second in ((0, 2), (2, 4)):
        out = model[first].weight.abs().amax((1, 2, 3))
        into = model[second].weight.abs().amax((0, 2, 3))
        assert torch.allclose(out, into, rtol=5e-3)


def test_rounding_under_one_scale_a_layer_costs_far_less_afterwards():
    x = torch.randn(16, 2, 9, 9)
    errors = []
    for equalize in (False, True):
        model = uneven()
        wanted = model(x)
        if equalize:
            equalize_layers(model, describe(model))
        scheme = Scheme.parse("int8-tensor")
        for module in (model[0], model[2], model[4]):
            rows = module.weight.reshape(len(module.weight), -1).numpy()
            ranges = min_max(rows, scheme)
            value = scheme.decode(scheme.encode(rows, ranges), ranges)
            module.weight.copy_(torch.from_numpy(value).reshape(module.weight.shape))
        errors.append(float((model(x) - wanted).square().mean()))
    assert errors[1] < 0.05 * errors[0]


def test_a_dead_channel_is_left_alone():
    model = uneven()
    model[0].weight[2], model[0].bias[2] = 0.0, 0.0
    x = torch.randn(3, 2, 9, 9)
    before = model(x)
    equalize_layers(model, describe(model))
    assert torch.allclose(model(x), before, atol=1e-4) and not model[0].weight[2].any()


def test_folded_batch_norms_let_factors_through_and_others_do_not():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    model[1].running_mean += 1
    family = describe(model)
    made = equalize_layers(model, family)
    assert not made.merged and "fold batch norms" in made.left[0][1]
    x = torch.randn(2, 1, 7, 7)
    before = model(x)
    fold_batch_norms(model, family)
    assert equalize_layers(model, family).merged == (("scale of 0", "3"),)
    assert torch.allclose(model(x), before, atol=1e-5)


def test_a_value_that_two_layers_read_is_left_with_the_reason():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x).relu()
            return self.b(x) + self.c(x)

    model = Two()
    made = equalize_layers(model, describe(model))
    assert not made.merged and "read by b, c" in dict(made.left)["scale of a"]
