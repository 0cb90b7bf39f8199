"""The parts of the range experiment, and of the network and pictures that it shares with others."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tercile.papers import range_estimation  # noqa: E402
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures  # noqa: E402
from tercile.quantization import QTensor, Scheme  # noqa: E402
from tercile.quantization.ranges import golden_section  # noqa: E402
from tercile.zoo.digits_cnn import build  # noqa: E402


def test_the_folded_network_answers_as_the_one_it_was_made_from():
    images, labels = pictures(0, 50)
    model = folded_network()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        expected = build()(images)
    assert torch.allclose(logits(model, images), expected, atol=1e-3)
    assert (expected.argmax(1).numpy() == labels).mean() > 0.9


def test_shares_of_the_pictures_are_disjoint_and_make_up_all():
    shares = [pictures(part, 3)[0].flatten(1).numpy() for part in range(3)]
    every = np.concatenate(shares)
    assert len(every) == 2500
    assert len(np.unique(every, axis=0)) == len(np.unique(pictures(0, 1)[0].flatten(1).numpy(), axis=0))


def test_a_function_on_one_thread_gives_the_threads_back():
    before = torch.get_num_threads()
    assert one_thread(torch.get_num_threads)() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("blocks", ["tensor", "channel"])
def test_the_baseline_is_the_best_of_its_four_hundred_ranges(blocks):
    weight = np.random.default_rng(0).standard_t(4, size=(3, 50)).astype(np.float32)
    scheme = Scheme.parse(f"int4-{blocks}-f32")
    chosen = range_estimation.grid_search(weight, scheme)
    error = np.square(weight - QTensor.quantize(weight, scheme, chosen).dequantize())
    rows = weight if blocks == "channel" else weight.reshape(1, -1)
    for row, found in zip(rows, error.sum(1) if blocks == "channel" else [error.sum()]):
        widest = max(row.max() / 7, -row.min() / 8)
        best = np.inf
        for share in np.arange(1, 201) / 200:
            for scale in (widest * share, -widest * share):
                best = min(best, np.square(row - scale * np.clip(np.round(row / scale), -8, 7)).sum())
        assert found == pytest.approx(best, rel=1e-3)


def test_the_search_takes_as_many_tries_as_it_says(monkeypatch):
    module = importlib.import_module("tercile.quantization.ranges.golden_section")
    native, tries = module._native, []

    class Counted:
        @staticmethod
        def range_errors(block, weight, scale, *rest):
            tries.append(scale.shape[1])
            native.range_errors(block, weight, scale, *rest)

    monkeypatch.setattr(module, "_native", Counted)
    golden_section(np.random.default_rng(0).normal(size=(1, 500)), Scheme.parse("ternary-tensor"))
    assert sum(tries) - 1 == module.EVALUATIONS  # one more scores the result


def test_of_three_percentiles_each_number_is_the_kindest_to_the_baseline():
    levels = range_estimation.PERCENTILES
    measured = {}
    for level, accuracy, error in zip(levels, (0.8, 0.9, 0.7), (3.0, 2.0, 1.0)):
        measured[f"percentile{level}_accuracy_4bit"] = accuracy
        for what in ("disagreement", "logit_error", "weight_error"):
            measured[f"percentile{level}_{what}_4bit"] = error
    range_estimation._best_percentile(measured, "", 4)
    assert measured == {
        "percentile_accuracy_4bit": 0.9,
        "percentile_disagreement_4bit": 1.0,
        "percentile_logit_error_4bit": 1.0,
        "percentile_weight_error_4bit": 1.0,
    }


def test_every_layer_of_the_network_is_stored_and_none_worse_than_with_the_range_alone():
    kept, error = range_estimation._weights("", 4, "tensor")
    _, alone = range_estimation._weights("range_alone_", 4, "tensor")
    assert set(kept) == set(layers_of(folded_network()))
    assert error <= alone
