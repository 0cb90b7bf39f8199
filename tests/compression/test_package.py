"""Packed folders: what is written is what is read, ties stay tied, hostile files are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tercile.arrays import load_arrays, save_arrays
from tercile.compression.bank import Bank, Candidate
from tercile.compression.export import export_float
from tercile.compression.package import load_package, save_package
from tercile.compression.source import learnt, open_source, weights_digest
from tercile.quantization.families import describe

SCHEMES = ("int4-g8-asym-k6", "normal4-channel")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny Llama with tied embeddings, stored in bfloat16."""
    folder = tmp_path_factory.mktemp("original")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                         tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return open_source(folder)


@pytest.fixture(scope="module")
def packed(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    layers = describe(original.module).layers
    bank = Bank(folder / "bank", {layer.name: SCHEMES for layer in layers})
    for layer in layers:
        bank.solve(layer.name, original.module.get_submodule(layer.name), None, None)
    stored = {layer.name: bank.read(layer.name, SCHEMES[i % 2]) for i, layer in enumerate(layers)}
    (folder / "small").mkdir()
    save_package(folder / "small", original, stored)
    return folder / "small", bank, stored


def test_shared_weights_are_stored_once_and_stay_shared(original, packed) -> None:
    module = load_package(packed[0]).module
    assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
    arrays, _ = load_arrays(packed[0] / "model.safetensors")
    assert not any(name.startswith("lm_head") for name in arrays)
    assert "lm_head.weight" in original.module.state_dict() and "lm_head.weight" not in learnt(original.module)


def test_what_is_loaded_is_what_was_stored(original, packed) -> None:
    folder, _, stored = packed
    module = load_package(folder).module
    for layer, one in stored.items():
        assert np.array_equal(module.get_submodule(layer).weight.numpy(), one.weight.dequantize())
    norm = "model.norm.weight"
    assert torch.equal(module.state_dict()[norm], original.module.state_dict()[norm])
    assert load_arrays(folder / "model.safetensors")[0][norm].dtype.name == "bfloat16"


def test_size_on_disk_is_codes_and_scales_and_a_header(packed, original) -> None:
    folder, _, stored = packed
    quantized = sum(one.weight.nbytes for one in stored.values())
    rest = sum(t.numel() * 2 for n, t in learnt(original.module).items() if n.removesuffix(".weight") not in stored)
    size = (folder / "model.safetensors").stat().st_size
    header = 8 + int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert size == header + quantized + rest


def test_a_candidate_can_be_set_back_and_forth(original, packed) -> None:
    import copy

    _, bank, stored = packed
    candidate = Candidate(original.module, copy.deepcopy(original.module), bank)
    before = {name: tensor.clone() for name, tensor in candidate.module.state_dict().items()}
    layer = next(iter(stored))
    candidate.set({layer: SCHEMES[0]})
    assert not torch.equal(candidate.module.state_dict()[f"{layer}.weight"], before[f"{layer}.weight"])
    candidate.set({})
    assert all(torch.equal(tensor, before[name]) for name, tensor in candidate.module.state_dict().items())


def test_transformers_opens_the_float_folder(packed, tmp_path) -> None:
    out = export_float(packed[0], tmp_path / "float")
    again = LlamaForCausalLM.from_pretrained(out)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.allclose(again(ids).logits, load_package(packed[0]).module(ids).logits, atol=1e-5)


def test_the_digest_of_weights_knows_names_types_and_values(original) -> None:
    other = open_source(original.folder)
    assert weights_digest(other) == weights_digest(original)
    with torch.no_grad():
        other.module.model.norm.weight[3] += 1
    assert weights_digest(other) != weights_digest(original)


@pytest.mark.parametrize("size", [0, 5, 200, -7])
def test_an_original_with_truncated_weights_is_refused_by_name(original, tmp_path, size) -> None:
    copy = Path(shutil.copytree(original.folder, tmp_path / "copy"))
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:size])
    with pytest.raises(ValueError, match="can't be loaded"):
        open_source(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "no valid JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "names no model_type"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors weights"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_by_name(original, tmp_path, change, message) -> None:
    copy = Path(shutil.copytree(original.folder, tmp_path / "copy"))
    change(copy)
    with pytest.raises(ValueError, match=message):
        open_source(copy)


def edited(folder: Path, to: Path, change) -> Path:
    shutil.copytree(folder, to)
    description = json.loads((to / "tercile.json").read_text())
    change(description)
    (to / "tercile.json").write_text(json.dumps(description))
    return to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "no description of a packed model"),
        (lambda d: d.update(version=9), "version 9"),
        (lambda d: next(iter(d["quantized"].values())).update(shape=[3, 3]), "stores"),
        (lambda d: next(iter(d["quantized"].values())).update(shape=[-1, "x"]), "no valid scheme and shape"),
        (lambda d: next(iter(d["quantized"].values())).update(scheme="int4"), "no valid scheme and shape"),
        (lambda d: d["quantized"].update({"nobody.weight": {"scheme": "int4-g8", "shape": [4, 4]}}), "missing"),
        (lambda d: d["tied"].update({"lm_head.weight": "nowhere"}), "tied"),
        (lambda d: d["architecture"].update(kind="builder", build="os:getcwd"), "say what builds the module"),
    ],
)
def test_hostile_descriptions_are_refused_by_name(packed, tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        load_package(edited(packed[0], tmp_path / "copy", change))


def test_truncated_and_foreign_weights_are_refused_by_name(packed, tmp_path) -> None:
    copy = Path(shutil.copytree(packed[0], tmp_path / "copy"))
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    for size in (0, 7, 100, len(data) // 2, len(data) - 1):
        weights.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load_package(copy)
    arrays, about = load_arrays(packed[0] / "model.safetensors")
    save_arrays(weights, arrays | {"stranger": np.zeros(3)}, about)
    with pytest.raises(ValueError, match="stranger"):
        load_package(copy)
