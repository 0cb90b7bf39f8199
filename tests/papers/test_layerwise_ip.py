"""The parts of the layer-wise experiment against the float network and against direct computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tercile.papers import layerwise_ip  # noqa: E402
from tercile.papers.digits_network import folded_network, layers_of, logits, pictures  # noqa: E402
from tercile.papers.layerwise_ip import (  # noqa: E402
    Network,
    adapt,
    by_channel,
    divergence,
    nearest,
    observe,
    restore,
    sensitivities,
)
from tercile.quantization.allocation import SensitivityTable, allocate  # noqa: E402
from tercile.quantization.ranges import min_max, mse  # noqa: E402

IMAGES = pictures(1, 2)[0][:20]


@pytest.fixture(scope="module")
def seen():
    return observe(folded_network(), IMAGES, 400, seed=0)


def test_patches_times_weights_are_the_outputs_of_the_layer():
    model = folded_network()
    every = observe(model, IMAGES[:2], 10**6, seed=0)
    for name, module in layers_of(model).items():
        outputs = []
        handle = module.register_forward_hook(lambda _, inputs, out, kept=outputs: kept.append(by_channel(out)))
        logits(model, IMAGES[:2])
        handle.remove()
        layer = every[name]
        mine = layer.patches @ layer.weight.reshape(len(layer.weight), -1).T + layer.bias
        expected = torch.cat(outputs).numpy()
        assert len(mine) == len(expected)
        # Patches come in random order, so channels are compared as sorted values.
        assert np.sort(mine, axis=0) == pytest.approx(np.sort(expected, axis=0), abs=2e-3)
        assert layer.mean == pytest.approx(expected.mean(0), abs=1e-3)


def test_the_first_and_the_last_layer_keep_eight_bits(seen):
    names = list(seen)
    assert [name for name in names if seen[name].outer] == [names[0], names[-1]]
    assert nearest(seen[names[0]], 4, mse).weight.scheme.spelling == "int8-channel-f32"
    assert nearest(seen[names[1]], 4, mse).weight.scheme.spelling == "int4-channel-f32"


def test_inputs_are_rounded_as_their_scheme_stores_them(seen):
    network = Network(folded_network())
    name = list(seen)[2]
    state = nearest(seen[name], 4, min_max)
    network.states = {name: state}
    x = seen[name].patches[:50]
    stored = state.input_scheme.decode(state.input_scheme.encode(x, state.inputs), state.inputs)
    assert network._rounded(name, torch.from_numpy(x)).numpy() == pytest.approx(stored, abs=1e-5)


def test_fewer_bits_move_the_answers_further_from_the_float_network(seen):
    model = folded_network()
    truth = logits(model, IMAGES)
    network = Network(model)
    moved = [
        divergence(truth, network.logits({n: nearest(layer, bits, mse) for n, layer in seen.items()}, IMAGES))
        for bits in (8, 4, 2)
    ]
    assert 0 <= moved[0] < moved[1] < moved[2]


def test_divergence_is_the_sum_written_out():
    truth, answers = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.5, 2.0], [0.0, 3.0]])
    p, q = (np.exp(one.numpy()) / np.exp(one.numpy()).sum(1, keepdims=True) for one in (truth, answers))
    assert divergence(truth, answers) == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)


def test_an_adapted_layer_is_nearer_to_its_outputs_than_a_rounded_one(seen):
    layer = seen[list(seen)[3]]
    wanted = layer.patches @ layer.weight.reshape(len(layer.weight), -1).T + layer.bias

    def error(state) -> float:
        read = state.input_scheme.decode(state.input_scheme.encode(layer.patches, state.inputs), state.inputs)
        weight = state.weight.dequantize().reshape(len(layer.weight), -1)
        return float(np.square(read @ weight.T + state.bias - wanted).mean())

    assert error(adapt(layer, 4, 30, 0)) < 0.9 * error(nearest(layer, 4, mse))


def test_restored_layers_have_the_float_networks_means(seen):
    network = Network(folded_network())
    rough = {name: nearest(layer, 3, min_max) for name, layer in seen.items()}
    tuned = restore(network, seen, rough, IMAGES)
    name = [name for name, layer in seen.items() if not layer.outer][-1]
    outputs = []
    network.layers[name].register_forward_hook(lambda _, inputs, out: outputs.append(by_channel(out)))
    network.logits(tuned, IMAGES)
    out = torch.cat(outputs).numpy()
    alive = seen[name].spread > 1e-3
    assert out.mean(0)[alive] == pytest.approx(seen[name].mean[alive], abs=2e-3)
    assert out.std(0)[alive] == pytest.approx(seen[name].spread[alive], rel=2e-2)


def test_the_table_holds_bytes_as_stored_and_an_outer_layer_has_one_choice(seen):
    network = Network(folded_network())
    high = {name: nearest(layer, 8, mse) for name, layer in seen.items()}
    adapted = {
        name: {layer.bits(b): nearest(layer, b, mse) for b in layerwise_ip.WEIGHTS} for name, layer in seen.items()
    }
    wanted = network.logits(high, IMAGES)
    base = {name: adapted[name][layer.bits(4)] for name, layer in seen.items()}
    table = sensitivities(network, base, adapted, IMAGES, wanted)
    assert (table.loss[:, 1][np.isfinite(table.loss[:, 1])] == 0).all()
    assert table.schemes == ("3", "4", "5", "8")
    inner = [row for row, layer in enumerate(seen.values()) if not layer.outer]
    assert np.isinf(table.loss[inner, 3]).all()
    assert np.isfinite(table.loss[0]).sum() == np.isfinite(table.loss[-1]).sum() == 1
    name = table.layers[inner[0]]
    assert table.nbytes[inner[0], 1] == adapted[name][4].weight.nbytes

    # The first six inner layers alone, over all their combinations.
    rows, columns = inner[:6], [0, 1, 2]
    nbytes, loss = table.nbytes[np.ix_(rows, columns)], table.loss[np.ix_(rows, columns)]
    budget = int(nbytes[:, 1].sum())
    part = SensitivityTable(tuple(table.layers[row] for row in rows), ("3", "4", "5"), nbytes, loss)
    best = min(
        sum(loss[row, column] for row, column in enumerate(choice))
        for choice in itertools.product(range(3), repeat=6)
        if sum(nbytes[row, column] for row, column in enumerate(choice)) <= budget
    )
    assert allocate(part, budget).loss == pytest.approx(best)
