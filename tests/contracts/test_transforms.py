"""One list of checks over every transform of the room and every family of model.

A transform is a public function of the room whose first two parameters are `model` and `family` and that returns a
record of what it did.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import transforms
from tercile.quantization.activations import observe
from tercile.quantization.calibration import collect
from tercile.quantization.families import describe
from tercile.quantization.transforms.rotation import within

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {"vocab_size": 50, "max_position_embeddings": 20}


class CNN(nn.Module):
    """Convolutions with and without bias, with a residual, and batch norms with and without gain."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.last, self.last_norm = nn.Conv2d(6, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, affine=False)
        self.biased, self.biased_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, eps=1e-3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.norm(self.conv(x)) + x)
        x = self.biased_norm(self.biased(torch.relu(self.last_norm(self.last(x)))))
        return self.head(x.mean((2, 3)))


def tokens():
    random = torch.Generator().manual_seed(1)
    mask = torch.arange(9) < torch.tensor([[9], [4], [7]])
    return {"input_ids": torch.randint(1, 50, (3, 9), generator=random), "attention_mask": mask.long()}


def pictures(name):
    return {name: torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}


def bert(kind=transformers.BertModel, **more):
    return kind(transformers.BertConfig(**SIZES, **TEXT, **more))


def llama(kind=transformers.LlamaForCausalLM, **more):
    return kind(transformers.LlamaConfig(**SIZES, **TEXT, num_key_value_heads=2, **more))


def qwen():
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, **TEXT, num_key_value_heads=1))


def mistral():
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, **TEXT, num_key_value_heads=2))


def qwen3():
    config = transformers.Qwen3Config(**SIZES, **TEXT, num_key_value_heads=1, head_dim=8)
    return transformers.Qwen3ForCausalLM(config)


def vit(kind=transformers.ViTForImageClassification, **more):
    return kind(transformers.ViTConfig(**SIZES, image_size=28, patch_size=7, num_channels=1, **more))


MODELS = {
    "bert": (bert, tokens),
    "bert, relu": (lambda: bert(hidden_act="relu"), tokens),
    "bert, tied head": (lambda: bert(transformers.BertForMaskedLM), tokens),
    "bert, untied head": (lambda: bert(transformers.BertForMaskedLM, tie_word_embeddings=False), tokens),
    "llama": (llama, tokens),
    "llama, biases": (lambda: llama(attention_bias=True, mlp_bias=True), tokens),
    "llama, tied head": (lambda: llama(tie_word_embeddings=True), tokens),
    "llama, no head": (lambda: llama(transformers.LlamaModel), tokens),
    "qwen": (qwen, tokens),
    "qwen3": (qwen3, tokens),
    "mistral": (mistral, tokens),
    "vit": (vit, lambda: pictures("pixel_values")),
    "vit, no query bias": (lambda: vit(qkv_bias=False), lambda: pictures("pixel_values")),
    "vit, no head, relu": (
        lambda: vit(transformers.ViTModel, hidden_act="relu"),
        lambda: pictures("pixel_values"),
    ),
    "cnn": (CNN, lambda: pictures("x")),
    "unknown": (
        lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=20)
        ),
        tokens,
    ),
}
# RMSNorm and rotary embeddings compute in float32 whatever the model's type.
TIGHT = dict.fromkeys(["llama", "qwen", "qwen3", "mistral"], 2e-6)

TRANSFORMS = {
    name: function
    for name in transforms.__all__
    if inspect.isfunction(function := getattr(transforms, name))
    and list((signature := inspect.signature(function)).parameters)[:2] == ["model", "family"]
    and signature.return_annotation == "Rewrite"
}


def made(name, dtype=torch.float64):
    """A model of which every parameter and buffer is random, gains of both signs and zero included."""
    torch.manual_seed(0)
    model = MODELS[name][0]().eval().to(torch.float64)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1 and key.endswith("weight"):
                parameter.copy_(torch.randn_like(parameter))
                parameter[0] = 0
            elif parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) / 2)
            else:
                parameter.mul_(4)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_()
            elif key.endswith("running_var"):
                buffer.uniform_(0.2, 3)
    return model.to(dtype)


def batch_of(name, dtype=torch.float64):
    return {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in MODELS[name][1]().items()
    }


def outputs(model, batch):
    with torch.no_grad():
        out = model(**batch)
    parts = [out] if isinstance(out, torch.Tensor) else list(out.to_tuple())
    return [part for part in parts if isinstance(part, torch.Tensor)]


def seen(model, batch):
    found = {}
    forward = lambda model, batch: model(**batch)  # noqa: E731
    for _, statistics in collect(model, describe(model), [batch], forward=forward):
        found |= statistics
    return found


def random_factors(statistics, largest, alpha):
    return np.random.default_rng(statistics.channels).uniform(0.2, 5, len(largest))


def read(model, batch):
    """A sample of what each layer reads."""
    forward = lambda model, batch: model(**batch)  # noqa: E731
    found = observe(model, describe(model), [batch], forward=forward, attention=False)
    return {name: one.sample for name, one in found.items()}


def rotation_for(model, batch):
    """A random rotation for the residual stream; models without one that can be turned are left out by name."""
    try:
        family = describe(model)
        width, centred = family.stream.width, family.stream.centred
        transforms.rotate_stream(copy.deepcopy(model), family, np.eye(width))
    except (AttributeError, ValueError) as error:
        pytest.skip(f"refused: {error}")
    found, _ = np.linalg.qr(np.random.default_rng(width).normal(size=(width - centred, width - centred)))
    return within(found) if centred else found


def needs_of(transform, model, batch):
    """What a transform wants to know beside the model and its family."""
    asked = inspect.signature(transform).parameters
    known = {"statistics": seen, "inputs": read, "rotation": rotation_for}
    return tuple(known[name](model, batch) for name in asked if name in known)


def apply(transform, model, batch, **more):
    return transform(model, describe(model), *needs_of(transform, model, batch), **more)


def assert_same(before, after, tolerance):
    assert len(before) == len(after)
    for left, right in zip(before, after):
        assert torch.isfinite(left).all()
        assert (left - right).abs().max() <= tolerance * left.abs().max()


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    return TRANSFORMS[request.param]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_function_is_kept_once_and_twice(transform, name, dtype):
    model, batch = made(name, dtype), batch_of(name, dtype)
    tolerance = TIGHT.get(name.split(",")[0], 1e-12) if dtype == torch.float64 else 1e-4
    before = outputs(model, batch)
    for _ in range(2):
        apply(transform, model, batch)
        assert_same(before, outputs(model, batch), tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_the_state_dict_keeps_its_keys_shapes_types_and_ties(transform, name):
    model, batch = made(name, torch.float32), batch_of(name, torch.float32)
    layout = lambda: {  # noqa: E731
        key: (value.shape, value.dtype, value.data_ptr()) for key, value in model.state_dict().items()
    }
    before, trainable = layout(), [parameter.requires_grad for parameter in model.parameters()]
    apply(transform, model, batch)
    assert layout() == before
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert not any(parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_record_says_exactly_what_was_changed(transform, name):
    model, batch = made(name), batch_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    record = apply(transform, model, batch)
    changed = {
        key.rpartition(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    named = {what.split()[-1] for what, _ in record.merged}
    named |= {reader for _, where in record.merged for reader in where.split(", ")}
    assert changed == named
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.merged = ()


@pytest.mark.parametrize("name", MODELS)
def test_statistics_scaled_by_the_record_are_those_of_the_new_model(transform, name):
    model, batch = made(name), batch_of(name)
    old = seen(model, batch)
    record = apply(transform, model, batch)
    new = seen(model, batch)
    for reader, factors in record.divided.items():
        scaled = old[reader].scaled(1 / factors)
        if reader in record.shifted:
            shift = record.shifted[reader]
            size = np.abs(new[reader].maximum_magnitude).max()
            np.testing.assert_allclose(scaled.mean - shift, new[reader].mean, atol=1e-4 * size)
            np.testing.assert_allclose(scaled.maximum - shift, new[reader].maximum, atol=1e-4 * size)
            continue
        size = np.abs(new[reader].second_moment).max()
        np.testing.assert_allclose(scaled.second_moment, new[reader].second_moment, atol=1e-4 * size)
        np.testing.assert_allclose(scaled.mean, new[reader].mean, atol=1e-4 * size**0.5)
        np.testing.assert_allclose(scaled.maximum, new[reader].maximum, atol=1e-4 * size**0.5)


def test_a_refused_call_changes_nothing(transform):
    model, batch = made("vit"), batch_of("vit")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    needs = needs_of(transform, model, batch)
    with pytest.raises(ValueError, match="family is of another model"):
        transform(model, describe(made("cnn")), *needs)
    with pytest.raises(TypeError, match="family must be a Family"):
        transform(model, "vit", *needs)
    with pytest.raises(TypeError, match="model must be a"):
        transform("vit", describe(model), *needs)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "cnn", "llama"])
def test_a_product_that_is_not_finite_is_refused_before_anything_changes(transform, name):
    model, batch = made(name, torch.float32), batch_of(name, torch.float32)
    needs = needs_of(transform, model, batch)
    family = describe(model)
    last = family.batch_norms[-1][0] if name == "cnn" else family.all_scalings[-1].readers[0]
    with torch.no_grad():
        model.get_submodule(last).weight.view(-1)[1] = float("nan")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    touched = bool(copied_merge(transform, name))
    if touched:
        with pytest.raises(ValueError, match=r"NaN|finite"):
            transform(model, family, *needs)
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[key].nan_to_num(7)), key


def copied_merge(transform, name):
    return apply(transform, copy.deepcopy(made(name)), batch_of(name)).merged


# What each of them promises beyond that.


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_any_positive_factors_can_be_moved_wherever_a_family_says(name, dtype):
    model, batch = made(name, dtype), batch_of(name, dtype)
    before = outputs(model, batch)
    record = apply(transforms.smooth, model, batch, factors=random_factors)
    assert len(record.merged) == len(describe(model).all_scalings)
    tolerance = TIGHT.get(name.split(",")[0], 1e-12) if dtype == torch.float64 else 1e-4
    assert_same(before, outputs(model, batch), tolerance)


@pytest.mark.parametrize("name", ["llama", "llama, biases", "qwen", "vit", "bert, untied head"])
def test_folded_norms_only_normalise(name):
    model = made(name)
    record = transforms.fold_norms(model, describe(model))
    norms = [scaling.producer for scaling in describe(model).all_scalings if scaling.kind == "norm"]
    assert len(record.merged) == len(norms) > 0 and not record.left
    for norm in norms:
        module = model.get_submodule(norm)
        assert (module.weight == 1).all() and (
            getattr(module, "bias", None) is None or (module.bias == 0).all()
        )
    assert transforms.fold_norms(model, describe(model)).merged == ()


def test_a_norm_whose_bias_nobody_can_take_is_left_and_named():
    model = made("vit, no query bias")
    record = transforms.fold_norms(model, describe(model))
    assert {what.split()[-1] for what, _ in record.left} == {
        f"vit.layers.{i}.layernorm_before" for i in (0, 1)
    }
    assert "q_proj" in record.left[0][1] and "no bias" in record.left[0][1]


def test_bert_offers_no_norm_to_fold():
    model = made("bert")
    assert transforms.fold_norms(model, describe(model)).merged == ()


def test_folded_batch_norms_scale_by_one():
    model = made("cnn")
    record = transforms.fold_batch_norms(model, describe(model))
    assert [what for what, _ in record.merged] == [
        "scale of stem.1",
        "scale and shift of norm",
        "scale of last_norm",
        "scale and shift of biased_norm",
    ]
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    assert torch.allclose(model.norm(x), x, rtol=1e-14)
    assert torch.allclose(model.stem[1](x), x + model.stem[1].bias[:, None, None], rtol=1e-14)
    assert transforms.fold_batch_norms(model, describe(model)).merged == ()


def test_a_batch_norm_in_training_mode_is_refused():
    model = made("cnn").train()
    with pytest.raises(ValueError, match=r"stem\.1 is in training mode"):
        transforms.fold_batch_norms(model, describe(model))


def test_balance_at_one_half_gives_inputs_and_weights_the_same_largest_magnitude():
    model, batch = made("vit"), batch_of("vit")
    record = apply(transforms.smooth, model, batch)
    new, checked = seen(model, batch), 0
    producers = {scaling.producer for scaling in describe(model).all_scalings}
    for scaling in describe(model).all_scalings:
        if not producers & set(
            scaling.readers
        ):  # rows of a producer are scaled once more, for its own readers
            weights = torch.cat([model.get_submodule(reader).weight for reader in scaling.readers])
            largest = new[scaling.readers[0]].maximum_magnitude
            alive = largest > 1e-6
            expected = weights.abs().amax(dim=0).detach().numpy()
            np.testing.assert_allclose(largest[alive], expected[alive], rtol=1e-4)
            checked += 1
    assert checked == 5
    assert set(record.divided) == {r for s in describe(model).all_scalings for r in s.readers}


def test_smooth_names_a_bad_argument():
    model, batch = made("vit"), batch_of("vit")
    statistics = seen(model, batch)
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 50"):
        transforms.smooth(model, describe(model), statistics, 50)
    with pytest.raises(ValueError, match="statistics has none of"):
        transforms.smooth(model, describe(model), {})
    with pytest.raises(ValueError, match="factors must be 16 positive"):
        transforms.smooth(model, describe(model), statistics, factors=lambda s, w, a: -w)
    wrong = dict.fromkeys(statistics, statistics["vit.layers.0.mlp.fc2"])
    with pytest.raises(ValueError, match="are of 24 inputs"):
        transforms.smooth(model, describe(model), wrong)
