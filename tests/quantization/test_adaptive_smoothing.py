"""Smoothing of channels that stand out: against trying every limit by hand, and its promise to leave others alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import Scheme
from tercile.quantization.families import describe
from tercile.quantization.transforms import outlier_factors, smooth_outliers

INT4, INT8 = Scheme.parse("int4-channel"), Scheme.parse("int8-token")


def by_hand(x, matrix, limit):
    """Squared change of the outputs at a limit, in plain numpy."""
    factors = np.maximum(np.abs(x).max(0) / limit, 1)
    w, a = matrix * factors, x / factors
    scale = np.maximum(w.max(1, keepdims=True) / 7, -w.min(1, keepdims=True) / 8).astype(np.float16).astype(np.float64)
    token = np.maximum(a.max(1, keepdims=True) / 127, -a.min(1, keepdims=True) / 128)
    token = token.astype(np.float16).astype(np.float64)
    w, a = np.clip(np.round(w / scale), -8, 7) * scale, np.clip(np.round(a / token), -128, 127) * token
    return np.square(a @ w.T - x @ matrix.T).sum()


def test_the_limit_is_the_one_of_least_error_among_those_tried() -> None:
    random = np.random.default_rng(0)
    for peak in (1, 20, 300):
        x = random.normal(size=(200, 32))
        x[:, :2] *= peak
        matrix = random.normal(size=(24, 32))
        limits = np.linspace(np.abs(x).max(), np.abs(x).max() / 100, 30)
        found = outlier_factors(x.astype(np.float32), matrix.astype(np.float32), INT4, INT8, steps=30)
        limit = np.min(np.abs(x).max(0) / found)  # a channel that is divided ends at the limit
        errors = [by_hand(x, matrix, one) for one in limits]
        chosen = limits[np.abs(limits - (np.abs(x).max(0) / found).max()).argmin()]
        assert by_hand(x, matrix, chosen) <= 1.02 * min(errors) and limit > 0


def test_only_what_stands_out_is_divided_and_an_outlier_is() -> None:
    x = np.random.default_rng(1).normal(size=(200, 32)).astype(np.float32)
    matrix = np.random.default_rng(2).normal(size=(24, 32)).astype(np.float32) / 5
    x[:, 7] *= 500
    matrix[:, 7] /= 500
    factors = outlier_factors(x, matrix, INT4, INT8)
    assert factors[7] > 20 and (np.delete(factors, 7) < 0.2 * factors[7]).all() and (factors >= 1).all()


def test_the_model_says_the_same_and_shared_readers_share_their_factors() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=16)
    ).eval()  # fmt: skip
    ids = torch.arange(12)[None]
    random = np.random.default_rng(0)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    inputs = {n: random.standard_t(2, size=(64, model.get_submodule(n).in_features)).astype(np.float32) for n in layers}
    with torch.no_grad():
        before = model(input_ids=ids).logits
        done = smooth_outliers(model, describe(model), inputs)
        torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-5, rtol=1e-4)
    q, k, v = (done.divided[f"model.layers.0.self_attn.{name}_proj"] for name in "qkv")
    assert (q == k).all() and (k == v).all() and any((factors > 1).any() for factors in done.divided.values())
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        smooth_outliers(model, describe(model), inputs, steps=0)
