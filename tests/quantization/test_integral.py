"""The post-quantization integral against the change of the loss itself, and detached weights against every choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization.allocation import (
    Integral,
    detach_significant,
    outlier_counts,
    post_quantization_integral,
)


@pytest.fixture
def network():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).double().requires_grad_(False)
    x, y = torch.randn(30, 6).double() * 2, torch.arange(30) % 4
    tensors = {name: value for name, value in model.named_parameters() if name.endswith("weight")}
    stored = {name: (value * 1.5).round() / 1.5 for name, value in tensors.items()}

    def loss():
        return nn.functional.cross_entropy(model(x), y)

    return tensors, stored, loss


def change_of(tensors, stored, loss) -> float:
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    first = float(loss())
    for name, tensor in tensors.items():
        tensor.copy_(stored[name])
    second = float(loss())
    for name, tensor in tensors.items():
        tensor.copy_(before[name])
    return second - first


def test_the_shares_add_up_to_the_change_of_the_loss(network):
    tensors, stored, loss = network
    actual = change_of(tensors, stored, loss)
    found = post_quantization_integral([loss], tensors, stored, points=64)
    assert abs(actual) > 0.01 and found.total == pytest.approx(actual, rel=1e-3)


def test_the_error_falls_with_the_square_of_the_pieces(network):
    tensors, stored, loss = network
    actual = change_of(tensors, stored, loss)
    errors = [
        abs(post_quantization_integral([loss], tensors, stored, points=points).total - actual) for points in (4, 8, 16)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_a_tensor_that_does_not_change_has_no_share(network):
    tensors, stored, loss = network
    stored = stored | {"0.weight": tensors["0.weight"].clone()}
    assert post_quantization_integral([loss], tensors, stored).by_layer["0.weight"] == 0.0


def test_the_weights_are_as_they_were(network):
    tensors, stored, loss = network
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    post_quantization_integral([loss], tensors, stored, points=2)
    detach_significant([loss], tensors, stored, 0.1, sure=0)
    assert all(torch.equal(before[name], tensor) and not tensor.requires_grad for name, tensor in tensors.items())


def test_detached_weights_of_a_separable_loss_are_the_best_of_all_choices():
    torch.manual_seed(0)
    w, pull = torch.randn(8).double(), torch.rand(8).double()
    q = w + 0.3 * torch.randn(8).double()
    begun = w.clone()

    def loss():
        return (pull * (w - begun) ** 2).sum()

    kept = detach_significant([loss], {"w": w}, {"w": q}, 3 / 8, steps=3, sure=0)["w"]

    def left(mask):
        return float((pull * torch.where(torch.tensor(mask), 0.0, (q - begun) ** 2)).sum())

    best = min(left([i in chosen for i in range(8)]) for chosen in itertools.combinations(range(8), 3))
    assert kept.sum() == 3 and left(kept.tolist()) == pytest.approx(best)


def test_detaching_in_steps_lowers_the_loss_and_keeps_to_the_budget(network):
    tensors, stored, loss = network
    kept = detach_significant([loss], tensors, stored, 0.1, steps=4, sure=0)
    size = sum(tensor.numel() for tensor in tensors.values())
    assert sum(int(mask.sum()) for mask in kept.values()) <= round(0.1 * size)
    mended = {name: torch.where(torch.from_numpy(kept[name]), tensors[name], stored[name]) for name in tensors}
    assert change_of(tensors, mended, loss) < change_of(tensors, stored, loss)


def test_weights_whose_worth_may_be_chance_stay_as_they_are():
    torch.manual_seed(0)
    w = torch.zeros(2000).double()
    pull = torch.zeros(2000).double()
    pull[:5] = 1.0  # all batches agree on these alone
    noise = torch.where(pull > 0, 3.0, 30.0) * torch.randn(32, 2000).double()
    losses = [lambda some=some: (pull * w**2).sum() + (some * w).sum() for some in noise]
    stored = {"w": torch.ones(2000).double()}
    by_mean = detach_significant(losses, {"w": w}, stored, 5 / 2000, steps=1, sure=0)["w"]
    surely = detach_significant(losses, {"w": w}, stored, 50 / 2000, steps=1, sure=3)["w"]
    assert by_mean[:5].sum() < 5
    assert surely[:5].sum() >= 3 and surely.sum() <= surely[:5].sum() + 4


def test_sure_needs_more_than_one_batch(network):
    tensors, stored, loss = network
    with pytest.raises(ValueError, match="sure must be 0, or above it with two losses"):
        detach_significant([loss], tensors, stored, 0.1)


def test_outliers_follow_the_integral_more_the_lower_the_temperature():
    shares = Integral({"a": torch.full((1000,), 0.009), "b": torch.full((1000,), 0.001)})
    counts = [outlier_counts(shares, 0.05, temperature=t) for t in (1.0, 2.0, 1000.0)]
    assert [one["a"] for one in counts] == [90, 75, 50] and all(sum(one.values()) == 100 for one in counts)


def test_no_layer_gets_more_outliers_than_it_may():
    shares = Integral({"a": torch.ones(10), "b": torch.zeros(1000)})
    assert outlier_counts(shares, 0.1, most=0.2) == {"a": 2, "b": 0}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t, s, loss: ([], t, s), "losses"),
        (lambda t, s, loss: ([loss], t, {}), "stored"),
        (lambda t, s, loss: ([loss], t, {name: value[:1] for name, value in s.items()}), "shape"),
        (lambda t, s, loss: ([lambda: loss() * np.inf], t, s), "finite"),
    ],
)
def test_bad_input_is_named(network, change, named):
    with pytest.raises(ValueError, match=named):
        post_quantization_integral(*change(*network))
