"""The residual stream in another basis: the same model, whose rounding costs less in a basis that was learned."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, ViTForImageClassification

from tercile.quantization import Scheme
from tercile.quantization.activations import Dynamic
from tercile.quantization.families import describe
from tercile.quantization.transforms import hadamard_rotation, learn_rotation, rotate_stream, untie
from tercile.quantization.transforms.rotation import ones_complement, within
from tercile.zoo import find

FOUR = {"weights": Scheme.parse("int4-g32"), "inputs": Scheme.parse("int4-token-asym")}


def random_rotation(n: int, centred: bool, seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n - centred, n - centred)))
    return within(q) if centred else q


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 2)
    return model


def test_a_turned_llama_is_the_same_model_but_for_its_weights(llama) -> None:
    model, tokens = copy.deepcopy(llama), torch.arange(60).reshape(3, 20)
    assert untie(model) == ("lm_head",) and not model.config.tie_word_embeddings
    before, old = model(tokens).logits, model.model.layers[0].self_attn.q_proj.weight.clone()
    rewrite = rotate_stream(model, describe(model), random_rotation(48, centred=False))
    assert torch.allclose(model(tokens).logits, before, atol=1e-4 * float(before.abs().max()))
    assert not torch.allclose(model.model.layers[0].self_attn.q_proj.weight, old, atol=0.01)
    folded = [what for what, _ in rewrite.merged if what.startswith("gain")]
    turned = {where for what, where in rewrite.merged if what.startswith("rotation")}
    assert len(folded) == 5 and len(turned) == 16  # five norms; seven layers in each block, table and head


def test_a_turned_vit_is_the_same_model() -> None:
    model = ViTForImageClassification.from_pretrained(find("digits-vit").source).eval().requires_grad_(False)
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    before = model(x).logits
    rotate_stream(model, describe(model), random_rotation(128, centred=True))
    assert torch.allclose(model(x).logits, before, atol=1e-3 * float(before.abs().max()))


def test_the_complement_of_ones_is_orthonormal() -> None:
    for n in (2, 3, 129):
        basis = ones_complement(n)
        assert np.allclose(basis.T @ basis, np.eye(n - 1)) and np.allclose(basis.sum(0), 0)


def test_what_cannot_be_turned_is_refused_and_left_as_it_was(llama) -> None:
    model = copy.deepcopy(llama)
    with pytest.raises(ValueError, match="untie"):
        rotate_stream(model, describe(model), np.eye(48))
    untie(model)
    family, before = describe(model), copy.deepcopy(model.state_dict())
    for wrong, said in (
        (np.eye(47), r"must be \(48, 48\)"),
        (2 * np.eye(48), "not orthogonal"),
        (np.full((48, 48), np.nan), "not orthogonal"),
    ):
        with pytest.raises(ValueError, match=said):
            rotate_stream(model, family, wrong)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    vit = ViTForImageClassification.from_pretrained(find("digits-vit").source)
    with pytest.raises(ValueError, match="vector of ones"):
        rotate_stream(vit, describe(vit), hadamard_rotation(128))
    bert = AutoModel.from_pretrained(find("minilm").source)
    with pytest.raises(ValueError, match="'bert' model has no residual stream"):
        rotate_stream(bert, describe(bert), np.eye(384))


def test_a_learned_basis_loses_less_on_text_that_it_was_not_learned_from() -> None:
    model = AutoModelForCausalLM.from_pretrained(find("debian-llama").source, dtype=torch.float32).requires_grad_(False)
    untie(model)
    family, draw = describe(model), torch.Generator().manual_seed(0)
    shown, held = (torch.randint(0, 4096, (2, 64), generator=draw) for _ in range(2))
    run = lambda m, batch: m(batch)  # noqa: E731
    made = learn_rotation(model, family, [shown], forward=run, steps=12, rate=0.02, tokens=64, **FOUR)
    assert made.losses[-1] < 0.9 * made.losses[0]
    assert np.abs(made.rotation @ made.rotation.T - np.eye(256)).max() < 1e-10

    def error(rotation: np.ndarray) -> float:
        """Of a layer's outputs, inputs and weights rounded, on other text; by a plain definition."""
        turned, name = copy.deepcopy(model), "model.layers.3.mlp.gate_proj"
        rotate_stream(turned, family, rotation)
        read = []
        turned.get_submodule(name).register_forward_pre_hook(lambda m, given: read.append(given[0].reshape(-1, 256)))
        turned(held)
        weight = turned.get_parameter(f"{name}.weight")
        rounded = Dynamic(FOUR["inputs"])(read[0]) @ Dynamic(FOUR["weights"])(weight).T
        return float((rounded - read[0] @ weight.T).square().mean())

    assert error(made.rotation) < 0.95 * error(hadamard_rotation(256))


def test_batches_that_show_nothing_are_refused(llama) -> None:
    model = copy.deepcopy(llama)
    untie(model)
    with pytest.raises(ValueError, match="saw no token"):
        learn_rotation(model, describe(model), [], forward=lambda m, b: m(b), **FOUR)
