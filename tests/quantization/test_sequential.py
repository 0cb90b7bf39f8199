"""Layer by layer in order: what each layer sees, and what becomes of the model."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tercile.quantization import Scheme  # noqa: E402
from tercile.quantization.sequential import quantize_in_order  # noqa: E402
from tercile.quantization.solvers import gpfq, round_to_nearest  # noqa: E402


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 5),
    )


BATCHES = list(torch.randn(60, 2, 8, 8, generator=torch.Generator().manual_seed(1)).split(20))


def test_a_layer_sees_what_the_changed_and_the_original_model_feed_it() -> None:
    model, original = network(), network()
    seen = {}

    def follow(weight, now, cross):
        seen[weight.shape] = now.second_moment, cross.value
        return round_to_nearest(weight, None, Scheme.parse("int2-channel"))

    stored = quantize_in_order(model, ["0", "2", "5"], BATCHES, lambda m, x: m(x), follow)
    for name, tensor in stored.items():
        assert np.array_equal(model.get_submodule(name).weight.detach().numpy(), tensor.dequantize())
    with torch.no_grad():
        now, before = (torch.cat([m[:5](x) for x in BATCHES]).numpy() for m in (model, original))
    second, cross = seen[5, 36]
    assert second == pytest.approx(now.T @ now / 60, abs=1e-4)
    assert cross == pytest.approx(now.T @ before / 60, abs=1e-4)
    assert not np.allclose(second, cross, atol=1e-2)
    first, same = seen[6, 2, 3, 3]
    assert first == pytest.approx(same, abs=1e-4)  # nothing stands before the first layer


def test_following_the_original_gives_a_better_network_than_rounding() -> None:
    with torch.no_grad():
        truth = torch.cat([network()(x) for x in BATCHES])
    scheme, errors = Scheme.parse("int3-channel"), []
    for solve in (
        lambda w, now, cross: gpfq(w, now, scheme, original=cross),
        lambda w, now, cross: round_to_nearest(w, now, scheme),
    ):
        model = network()
        quantize_in_order(model, ["0", "2", "5"], BATCHES, lambda m, x: m(x), solve)
        with torch.no_grad():
            errors.append(float((torch.cat([model(x) for x in BATCHES]) - truth).square().mean()))
    assert errors[0] < 0.6 * errors[1]


def test_fewer_rows_are_every_so_many_of_both_models() -> None:
    counts = {}

    def follow(weight, now, cross):
        counts[weight.shape[0]] = now.count, cross.count
        return round_to_nearest(weight, None, Scheme.parse("int4-channel"))

    layers = ["0", "2", "5"]
    quantize_in_order(
        network(), layers, BATCHES, lambda m, x: m(x), follow, every=lambda name: 1 if name == "5" else 10
    )
    assert counts == {6: (3 * 128, 3 * 128), 4: (3 * 18, 3 * 18), 5: (60, 60)}


def test_a_layer_that_is_never_called_is_named() -> None:
    model = network()
    model.add_module("unused", nn.Identity())
    model.unused = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="layer 'unused' is not called"):
        quantize_in_order(model, ["unused"], BATCHES, lambda m, x: m[:6](x), lambda *_: None)
