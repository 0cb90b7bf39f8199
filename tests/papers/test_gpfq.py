"""The parts of the greedy path following experiment."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tercile.papers import gpfq as experiment  # noqa: E402
from tercile.papers.digits_network import folded_network, layers_of, pictures  # noqa: E402
from tercile.quantization import Scheme  # noqa: E402
from tercile.quantization.solvers import gpfq, hard_threshold, round_to_nearest  # noqa: E402
from tercile.quantization.statistics import Statistics  # noqa: E402


def test_inputs_that_have_nothing_to_do_with_each_other_follow_nothing() -> None:
    rng = np.random.default_rng(0)
    weight, seen = rng.normal(size=(5, 12)).astype(np.float32), Statistics(12)
    seen.update(rng.normal(size=(30, 12)) @ rng.normal(size=(12, 12)))
    scheme = Scheme.parse("int3-channel")
    alone = gpfq(weight, experiment._alone(seen), scheme)
    assert np.array_equal(alone.codes, round_to_nearest(weight, None, scheme).codes)
    cut = gpfq(weight, experiment._alone(seen), scheme, rounding=hard_threshold(1.0))
    unit = alone.ranges.scale
    assert ((cut.dequantize() == 0) == (np.abs(weight / unit) <= 1.0)).all()


def test_the_relative_error_is_of_outputs() -> None:
    rng = np.random.default_rng(1)
    weight, x = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    seen = Statistics(8)
    seen.update(x)
    stored = round_to_nearest(weight, None, Scheme.parse("int2-channel"))
    out, wanted = x @ stored.dequantize().T, x @ weight.T
    assert experiment._relative(weight, stored, seen) == pytest.approx(
        np.square(out - wanted).sum() / np.square(wanted).sum(), rel=1e-4
    )


def test_a_quantized_copy_leaves_the_network_alone_and_counts_zeros() -> None:
    model, batches = folded_network(), pictures(1, 2)[0][:4].split(4)
    before = {name: layer.weight.clone() for name, layer in layers_of(model).items()}
    scheme = Scheme.parse("ternary-channel-f32")
    changed, zeros = experiment.quantized(model, batches, lambda w, now, cross: round_to_nearest(w, None, scheme), True)
    for name, layer in layers_of(model).items():
        assert torch.equal(layer.weight, before[name])
    weights = torch.cat([layer.weight.flatten() for layer in layers_of(changed).values()])
    assert zeros == pytest.approx(float((weights == 0).float().mean()))
    biases = [layer.bias for layer in layers_of(model).values()]
    assert not any(torch.equal(a, layer.bias) for a, layer in zip(biases, layers_of(changed).values(), strict=True))
