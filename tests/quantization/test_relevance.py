"""Relevance: conserved at every level, and handed on by the rules as they are written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tercile.quantization.allocation.relevance import (
    relevance_table,
    through_linear,
    through_product,
    through_sum,
    vit_relevance,
)
from tercile.quantization.clipped_channels import clipped_channels

transformers = pytest.importorskip("transformers")


def vit(layers: int = 3):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=24, image_size=12,
        patch_size=4, num_channels=1, num_labels=5,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def test_nothing_is_lost_from_the_answer_to_the_embeddings():
    found = vit_relevance(vit(), torch.randn(4, 1, 12, 12))
    assert len(found.levels) == 4
    assert np.allclose(found.levels, 1.0, atol=1e-4)


def test_scores_are_shares_of_every_layer_of_the_model():
    from tercile.quantization.families import describe

    model = vit()
    found = vit_relevance(model, torch.randn(4, 1, 12, 12))
    assert set(found.scores) == {layer.name for layer in describe(model).layers}
    assert sum(found.scores.values()) == pytest.approx(1) and min(found.scores.values()) > 0


def test_the_forward_pass_by_hand_is_the_models_own():
    from tercile.quantization.allocation.relevance import _forward

    model = vit()
    with torch.no_grad():
        x = model.vit.embeddings(torch.randn(2, 1, 12, 12))
        for block in model.vit.layers:
            out = block(x)
            out = out[0] if isinstance(out, tuple) else out
            assert torch.allclose(_forward(block, x, 4)["out"], out, atol=1e-5)
            x = out


def test_a_layer_that_contributes_nothing_has_no_relevance():
    model = vit()
    with torch.no_grad():
        model.vit.layers[1].mlp.fc2.weight.zero_()
        model.vit.layers[1].mlp.fc2.bias.zero_()
    found = vit_relevance(model, torch.randn(4, 1, 12, 12))
    assert found.scores["vit.layers.1.mlp.fc2"] < 1e-9 and found.scores["vit.layers.1.mlp.fc1"] < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_every_rule_conserves_relevance(seed):
    torch.manual_seed(seed)
    x, weight, out = torch.randn(3, 7), torch.randn(5, 7), torch.randn(3, 5)
    assert torch.allclose(through_linear(x, weight, out).sum(1), out.sum(1), atol=1e-4)
    a, b, both = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)
    first, second = through_sum(a, b, both)
    assert torch.allclose(first + second, both)
    left, right, product = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(2, 3, 5)
    to_left, to_right = through_product(left, right, product)
    assert torch.allclose(to_left.sum((1, 2)), product.sum((1, 2)) / 2, atol=1e-4)
    assert torch.allclose(to_right.sum((1, 2)), product.sum((1, 2)) / 2, atol=1e-4)


def test_the_linear_rule_is_its_definition_element_by_element():
    torch.manual_seed(1)
    x, weight, out = torch.randn(9), torch.randn(3, 9), torch.rand(3)
    wanted = np.zeros(9)
    for j in range(3):
        parts = [max(float(x[i] * weight[j, i]), 0.0) for i in range(9)]
        for i in range(9):
            wanted[i] += parts[i] / sum(parts) * float(out[j])
    assert np.allclose(through_linear(x[None], weight, out[None])[0], wanted, atol=1e-5)


def test_the_table_weighs_noise_by_score():
    table = relevance_table(
        {"a": 0.9, "b": 0.1}, {n: {"x": 0.5, "y": 0.1} for n in "ab"}, {n: {"x": 1, "y": 2} for n in "ab"}
    )
    assert np.allclose(table.loss, [[0.45, 0.09], [0.05, 0.01]])
    with pytest.raises(ValueError, match="'b'"):
        relevance_table({"a": 1.0}, {"b": {"x": 1.0}}, {"b": {"x": 1}})


def test_what_is_no_vit_is_refused():
    with pytest.raises(ValueError, match="ViT"):
        vit_relevance(torch.nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="empty"):
        vit_relevance(vit(1), torch.ones(0, 1, 12, 12))


def test_clipping_holds_each_channel_at_its_own_quantiles():
    rows = np.random.default_rng(0).normal(size=(5000, 3)) * [1.0, 10.0, 0.1]
    found = clipped_channels(rows, 0.99)
    wanted = np.maximum(np.abs(np.quantile(rows, 0.99, axis=0)), np.abs(np.quantile(rows, 0.01, axis=0)))
    assert np.allclose(found.maximum_magnitude, wanted, rtol=1e-5)
    assert np.allclose(clipped_channels(rows, 1.0).maximum_magnitude, np.abs(rows).max(0), rtol=1e-5)
    with pytest.raises(ValueError, match="level"):
        clipped_channels(rows, 0.4)
