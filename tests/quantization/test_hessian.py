"""Hessian traces against the whole Hessian, worked out by autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization.allocation import (
    allocate,
    curvature_table,
    input_traces,
    top_eigenvalues,
    weight_traces,
)


@pytest.fixture
def network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    return model.double().requires_grad_(False), torch.randn(6, 1, 4, 4).double(), torch.arange(6) % 3


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor, reduction: str = "mean"):
    return lambda: nn.functional.cross_entropy(model(x), y, reduction=reduction)


def exact_blocks(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Diagonal blocks of the Hessian of the mean loss, each by itself, entry by entry."""
    blocks = {}
    for name, parameter in model.named_parameters():

        def loss(value: torch.Tensor, name: str = name) -> torch.Tensor:
            out = torch.func.functional_call(model, {name: value}, (x,))
            return nn.functional.cross_entropy(out, y)

        size = parameter.numel()
        blocks[name] = torch.autograd.functional.hessian(loss, parameter.detach()).reshape(size, size)
    return blocks


def test_weight_traces_lie_within_their_error_of_the_exact_traces(network):
    model, x, y = network
    exact = exact_blocks(model, x, y)
    found = weight_traces([loss_of(model, x, y)], dict(model.named_parameters()), probes=600)
    total = sum(float(block.trace()) for block in exact.values())
    for name, block in exact.items():
        assert found[name].size == len(block)
        assert found[name].error < 0.05 * total
        assert abs(found[name].value - float(block.trace())) < 4 * found[name].error + 1e-9, name


def test_traces_of_batches_are_averaged(network):
    model, x, y = network
    halves = [loss_of(model, x[:3], y[:3]), loss_of(model, x[3:], y[3:])]
    both = weight_traces(halves, {"0.weight": model[0].weight}, probes=400)["0.weight"]
    exact = float(exact_blocks(model, x, y)["0.weight"].trace())
    assert abs(both.value - exact) < 4 * both.error


def test_input_traces_lie_within_their_error_of_the_exact_traces(network):
    model, x, y = network
    layers = ["0", "3", "5"]
    found = input_traces(model, layers, [loss_of(model, x, y, "sum")], probes=600)
    for name in layers:
        before, after = model[: int(name)], model[int(name) :]
        total = 0.0
        for one, label in zip(x, y, strict=True):
            read = before(one[None])

            def loss(value: torch.Tensor, after: nn.Module = after, label: torch.Tensor = label) -> torch.Tensor:
                return nn.functional.cross_entropy(after(value), label[None])

            size = read.numel()
            total += float(torch.autograd.functional.hessian(loss, read).reshape(size, size).trace())
        assert abs(found[name].value - total) < 4 * found[name].error + 1e-9, name
        assert found[name].size == before(x).numel()


def test_top_eigenvalues_are_those_of_the_exact_blocks(network):
    model, x, y = network
    found = top_eigenvalues([loss_of(model, x, y)], dict(model.named_parameters()), steps=1000)
    for name, block in exact_blocks(model, x, y).items():
        largest = float(torch.linalg.eigvalsh(block).abs().max())
        assert found[name] == pytest.approx(largest, rel=1e-2, abs=1e-8), name


def test_layers_that_read_the_same_tensor_have_traces_of_their_own():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x).square() + 5 * self.b(x).square()

    model = Two().double()
    x = torch.ones(2, 3).double()
    found = input_traces(model, ["a", "b"], [lambda: model(x).sum()], probes=500)
    for name, factor in (("a", 2.0), ("b", 10.0)):
        exact = 2 * factor * float(getattr(model, name).weight.square().sum())
        assert abs(found[name].value - exact) < 4 * found[name].error


def test_the_model_is_as_it_was_afterwards(network):
    model, x, y = network
    before = [parameter.clone() for parameter in model.parameters()]
    weight_traces([loss_of(model, x, y)], dict(model.named_parameters()), probes=2)
    input_traces(model, ["0"], [loss_of(model, x, y, "sum")], probes=2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_table_takes_the_smallest_loss_that_fits():
    table = curvature_table(
        {"a": 10.0, "b": 1.0, "c": -3.0},
        {name: {"int8-channel": 0.1, "int4-channel": 1.0} for name in "abc"},
        {name: {"int8-channel": 80, "int4-channel": 40} for name in "abc"},
    )
    assert table.loss.min() >= 0
    assert allocate(table, 160).choices == {"a": "int8-channel", "b": "int4-channel", "c": "int4-channel"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (lambda w: ([], {"w": w}), "losses"),
        (lambda w: ([lambda: w.sum()], {}), "tensors"),
        (lambda w: ([lambda: w.sum() * np.nan], {"w": w}), "finite"),
        (lambda w: ([lambda: torch.ones((), requires_grad=True) * 2], {"w": w}), "depend"),
    ],
)
def test_bad_input_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        weight_traces(*arguments(torch.ones(2, requires_grad=True)))


def test_a_layer_that_runs_twice_is_refused():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, layer)
    with pytest.raises(ValueError, match="once"):
        input_traces(model, ["0"], [lambda: model(torch.ones(1, 2)).square().sum()])


def test_a_linear_loss_has_no_curvature():
    w = torch.ones(3)
    assert weight_traces([lambda: w.sum()], {"w": w})["w"].value == 0.0
