"""Activation quantization: what is rounded, how, and that nothing of it stays behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tercile.quantization import QTensor, Scheme
from tercile.quantization.activations import (
    Dynamic,
    attach,
    attached,
    calibrate,
    fake_quantize,
    from_statistics,
    from_values,
    observe,
    sites,
)
from tercile.quantization.activations.attention import AttentionTap, attention
from tercile.quantization.activations.rounding import stored
from tercile.quantization.families import describe
from tercile.quantization.ranges import min_max
from tercile.quantization.statistics import Statistics

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {"vocab_size": 50, "max_position_embeddings": 20}
MODELS = {
    "bert": lambda **more: transformers.BertModel(transformers.BertConfig(**SIZES, **TEXT, **more)),
    "llama": lambda **more: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, **TEXT, num_key_value_heads=2, **more)
    ),
    "vit": lambda **more: transformers.ViTForImageClassification(
        transformers.ViTConfig(**SIZES, image_size=28, patch_size=7, num_channels=1, **more)
    ),
}
SPELLINGS = [
    "int8-token", "int4-token-f32", "int4-token-asym-f32", "int3-tensor-asym", "fp8-e4m3-token-bf16",
    "fp4-e2m1-g16-e4m3", "fp4-e2m1-g32-e8m0", "nf4-token-f32", "int4-g7-asym-f16",
]  # fmt: skip


def built(name, **more):
    torch.manual_seed(0)
    return MODELS[name](**more).eval()


def batch_of(name):
    if name == "vit":
        return {"pixel_values": torch.randn(3, 1, 28, 28)}
    return {"input_ids": torch.randint(1, 50, (3, 9)), "attention_mask": (torch.arange(9) < 7).long().repeat(3, 1)}


def run(model, batch):
    with torch.no_grad():
        out = model(**batch)
    return out[0] if isinstance(out, tuple) else (out.logits if hasattr(out, "logits") else out.last_hidden_state)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_dynamic_quantizer_gives_what_a_qtensor_with_min_max_ranges_decodes_to(spelling):
    scheme = Scheme.parse(spelling)
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(3)) * torch.logspace(-2, 1, 5)[:, None]
    wanted = QTensor.quantize(x.numpy(), scheme, min_max(x.numpy(), scheme)).dequantize()
    got = Dynamic(scheme)(x).numpy()
    # A value half-way between two levels may go to either.
    size = np.abs(wanted).max(axis=1, keepdims=True)
    far = np.abs(got - wanted) > 1e-5 * size
    assert far.mean() < 0.01
    assert np.abs(np.abs(x.numpy() - got) - np.abs(x.numpy() - wanted)).max() <= 1e-4 * size.max()


def test_the_gradient_passes_to_what_is_within_the_grid_and_to_the_scale():
    scheme = Scheme.parse("int4-tensor-f32")
    x = torch.tensor([0.3, 0.9, 20.0, -30.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    y = fake_quantize(x, scheme, scale)
    y.sum().backward()
    assert y.tolist() == [0.5, 1.0, 3.5, -4.0]
    assert x.grad.tolist() == [1, 1, 0, 0]
    # Learned step size quantization: rounded minus x/scale inside, the end of the grid outside.
    assert scale.grad.item() == pytest.approx((1 - 0.6) + (2 - 1.8) + 7 - 8)


def test_zeros_stay_zeros_and_nothing_is_nan():
    for spelling in SPELLINGS:
        assert not Dynamic(Scheme.parse(spelling))(torch.zeros(2, 32)).any()


def test_a_convolution_has_one_scale_a_position():
    scheme, x = Scheme.parse("int4-token-f32"), torch.randn(2, 6, 3, 3)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 6)
    wanted = Dynamic(scheme)(rows).reshape(2, 3, 3, 6).permute(0, 3, 1, 2)
    assert torch.equal(Dynamic(scheme, axis=1)(x), wanted)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_step_by_step_is_torchs_attention(causal, mask, groups):
    if causal and mask != "none":
        pytest.skip("torch takes one of them")
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4 // groups, 7, 8), torch.randn(2, 4 // groups, 7, 8)
    if causal:
        k, v = k[..., :5, :], v[..., :5, :]
    visible = torch.rand(2, 1, 5, 7) > 0.3
    visible[..., 0] = True
    given = {"none": None, "bool": visible, "float": visible.float().log()}[mask]
    arguments = {"attn_mask": given, "is_causal": causal, "scale": 0.3, "enable_gqa": groups > 1}
    wanted = F.scaled_dot_product_attention(q, k, v, **arguments)
    assert torch.allclose(attention(lambda operand, x: x, q, k, v, **arguments), wanted, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_every_site_is_met_once_a_block_and_leaves_the_function_alone(name, way):
    model, batch = built(name, attn_implementation=way), batch_of(name)
    before, met = run(model, batch), []
    names = [site.name for site in sites(model, describe(model))]
    family = describe(model)
    watch = {each: lambda x, each=each: met.append((each, tuple(x.shape))) or x for each in names}
    with attached(model, family, watch):
        assert torch.allclose(run(model, batch), before, atol=1e-5)
    assert sorted(each for each, _ in met) == sorted(names)
    heads = dict(met)[f"{family.blocks[0].name}:probabilities"]
    assert heads[1] == 4 and heads[2] == heads[3]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_behind(name):
    model, batch = built(name), batch_of(name)
    before, modules = run(model, batch), {key: sorted(vars(value)) for key, value in model.named_modules()}
    hooks = lambda: sum(  # noqa: E731
        len(m._forward_pre_hooks) + len(m._forward_hooks) + len(m._forward_hooks_always_called) for m in model.modules()
    )
    count = hooks()
    family = describe(model)
    quantizers = calibrate(model, family, lambda site: Scheme.parse("int3-token"))
    with attached(model, family, quantizers):
        assert not torch.equal(run(model, batch), before)
    with pytest.raises(ZeroDivisionError), attached(model, family, {f"{family.blocks[1].name}:value": lambda x: 1 / 0}):
        run(model, batch)
    assert torch.equal(run(model, batch), before) and hooks() == count
    assert {key: sorted(vars(value)) for key, value in model.named_modules()} == modules
    torch.matmul(torch.ones(1, 2, 2), torch.ones(1, 2, 2))  # no tap is still entered


def test_a_copy_of_an_attached_model_is_quantized_too():
    model, batch = built("vit"), batch_of("vit")
    family = describe(model)
    remove = attach(model, family, calibrate(model, family, lambda site: Scheme.parse("int3-token")))
    assert torch.equal(run(copy.deepcopy(model), batch), run(model, batch))
    remove()


def test_eight_bits_change_little_and_four_change_more():
    model, batch = built("bert"), batch_of("bert")
    before, family, errors = run(model, batch), describe(model), []
    for bits in (8, 6, 4):
        scheme = Scheme.parse(f"int{bits}-token-asym-f32")
        with attached(model, family, calibrate(model, family, lambda site, scheme=scheme: scheme)):
            errors.append(float((run(model, batch) - before).norm() / before.norm()))
    assert errors[0] < 0.02 and errors[0] < errors[1] < errors[2]


def test_fixed_scales_from_a_sample_are_never_worse_than_from_the_extremes():
    model, family = built("vit"), None
    family = describe(model)
    seen = observe(model, family, [batch_of("vit")], forward=lambda model, batch: model(**batch))
    for name, each in seen.items():
        for spelling in ("int4-tensor-f32", "int4-channel-asym-f32"):
            scheme = Scheme.parse(spelling)
            x = torch.from_numpy(each.sample)
            best = from_values(each.sample, scheme)(x)
            widest = from_statistics(each.statistics, scheme)(x)
            assert (best - x).square().sum() <= (widest - x).square().sum() * 1.0001 + 1e-12, name


def test_padding_is_left_out_of_what_is_seen():
    model, batch = built("bert"), batch_of("bert")
    family = describe(model)
    forward = lambda model, batch: model(**batch)  # noqa: E731
    every = observe(model, family, [batch], forward=forward)
    some = observe(model, family, [batch], forward=forward, keep=lambda batch: batch["attention_mask"])
    inner = family.blocks[0].layers[0].name
    assert every[inner].statistics.count == 27 and some[inner].statistics.count == 21
    value = f"{family.blocks[0].name}:value"
    assert some[value].statistics.count == 21 * 4  # four channels a head
    assert some[value].sample.shape[1] == 4


def test_scale_a_channel_divides_the_channels_that_it_was_found_for():
    values = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32) * np.float32([1, 10, 100])
    found = from_values(values, Scheme.parse("int8-channel-f32"), axis=1)
    x = torch.from_numpy(values[:4]).T.reshape(1, 3, 2, 2)
    assert ((found(x) - x).abs().amax((0, 2, 3)) <= found.scale.abs() * 0.51).all()


def test_quantiles_of_the_sketch_clip():
    seen = Statistics(1, second_moment=False, sketch=True)
    x = np.append(np.linspace(-1, 1, 2000), 50).astype(np.float32)[:, None]
    seen.update(x)
    assert from_statistics(seen, Scheme.parse("int8-tensor-f32"), level=0.99).scale < 0.01
    with pytest.raises(ValueError, match="keep no quantiles"):
        from_statistics(Statistics(1) | _one(), Scheme.parse("int8-tensor-f32"), level=0.99)


def _one():
    seen = Statistics(1)
    seen.update(np.ones((2, 1), dtype=np.float32))
    return seen


def test_bad_input_is_refused_by_name():
    model = built("vit")
    family = describe(model)
    with pytest.raises(ValueError, match="no site of the model"):
        attach(model, family, {"nothing": lambda x: x})
    with pytest.raises(ValueError, match="a scale a channel is static"):
        Dynamic(Scheme.parse("int8-channel"))
    with pytest.raises(ValueError, match="token and group are dynamic"):
        from_values(np.ones((2, 2), dtype=np.float32), Scheme.parse("int8-token"))
    with pytest.raises(ValueError, match="k6 scales"):
        stored(torch.tensor(-1.0), torch.tensor(1.0), Scheme.parse("int4-g32-k6"))
    with pytest.raises(ValueError, match="give what observe"):
        calibrate(model, family, lambda site: Scheme.parse("int8-tensor"))
    with pytest.raises(ValueError, match="batches is empty"):
        observe(model, family, [], forward=lambda model, batch: None)
    with pytest.raises(ValueError, match="saw nothing"):
        from_statistics(Statistics(2), Scheme.parse("int8-tensor"))
    bad = {"pixel_values": torch.full((1, 1, 28, 28), float("nan"))}
    with pytest.raises(ValueError, match=r"patch_embeddings\.projection"):
        observe(model, family, [bad], forward=lambda model, batch: model(**batch))


def test_products_of_matrices_outside_attention_are_not_touched():
    with AttentionTap(lambda operand, x: x * 0):
        assert torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0))
