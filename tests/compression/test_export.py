"""Exports, opened by the other side: the same answers from the same codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tercile import zoo
from tercile.api import export
from tercile.compression.package import load_package
from tercile.compression.source import Source, open_source
from tercile.compression.third_party import open_third_party
from tercile.quantization import Scheme
from tercile.quantization.export import FORMATS, find_format
from tercile.quantization.families import Layer

from . import toy
from .packs import answers, pack


def under(form: str, skip: int = 0) -> Callable[[int, Layer], str | None]:
    """Every layer under another of the schemes that a format offers for it, so that all of them are met."""

    def choose(number: int, layer: Layer) -> str | None:
        offered = FORMATS[form].offered(layer.kind, layer.shape)
        return offered[(number + skip) % len(offered)] if offered else None

    return choose


@pytest.fixture(scope="module")
def llama() -> Source:
    return open_source(zoo.find("debian-llama").source)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_transformers_gives_the_same_logits_from_compressed_tensors(llama, tmp_path, skip) -> None:
    pytest.importorskip("compressed_tensors")
    small = pack(llama, tmp_path / "small", under("compressed-tensors", skip))
    other = open_third_party(export(small, tmp_path / "out", "compressed-tensors"))
    assert other.kind == "transformers" and other.nbytes < 0.7 * llama.nbytes
    assert torch.equal(answers(other.module, llama), answers(load_package(small).module, llama))


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_transformers_gives_the_same_logits_from_gguf(llama, tmp_path, skip) -> None:
    pytest.importorskip("gguf")
    small = pack(llama, tmp_path / "small", under("gguf", skip))
    other = open_third_party(export(small, tmp_path / "m.gguf", "gguf"))
    assert torch.equal(answers(other.module, llama), answers(load_package(small).module, llama))


def test_onnx_runtime_gives_the_same_logits_from_packed_groups_and_a_tied_table(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(zoo.find("debian-llama").source) / name).read_bytes())
    source = open_source(folder)
    small = pack(source, tmp_path / "small", under("onnx", 1))
    out = export(small, tmp_path / "out", "onnx")
    onnx.checker.check_model(str(out / "model.onnx"))
    ours, theirs = answers(load_package(small).module, source), answers(open_third_party(out).module, source)
    assert (out / "model.onnx").stat().st_size < 0.5 * source.nbytes
    torch.testing.assert_close(theirs, ours, atol=1e-4 * float(ours.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("skip", [0, 3, 5])
def test_onnx_runtime_gives_the_same_scores_for_a_module_of_ones_own(tmp_path, skip) -> None:
    pytest.importorskip("onnx")
    source = open_source("tests.compression.toy:build")
    small = pack(source, tmp_path / "small", under("onnx", skip))
    out = export(small, tmp_path / "out", "onnx", builder="tests.compression.toy:build")
    module = open_third_party(out).module
    x = toy.prepare(toy.sentences(7))
    torch.testing.assert_close(module(x), load_package(small, "tests.compression.toy:build").module(x))


def test_a_scheme_that_a_format_cannot_hold_is_refused_with_the_nearest_that_it_can(llama, tmp_path) -> None:
    up = "model.layers.0.mlp.up_proj"
    small = pack(llama, tmp_path / "small", lambda number, layer: "nf4-g64" if layer.name == up else None)
    for form, nearest in (("gguf", "int4-g32-asym-k6"), ("onnx", "int4-g64-asym"), ("compressed-tensors", "int4-g64")):
        with pytest.raises(ValueError, match=f"can't hold {up}.*nf4-g64.*{nearest}.*--for {form}"):
            export(small, tmp_path / "out", form)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_every_scheme_that_a_format_offers_is_one_that_it_holds() -> None:
    for form in FORMATS.values():
        for spelling in form.schemes + form.table_schemes:
            assert Scheme.parse(spelling).spelling == spelling
            assert form.holds(Scheme.parse(spelling), (512, 512)), (form.name, spelling)
    with pytest.raises(ValueError, match="no format is called 'exl2'"):
        find_format("exl2")


def test_a_model_that_is_no_llama_is_not_written_to_gguf(tmp_path) -> None:
    source = open_source("tests.compression.toy:build")
    with pytest.raises(ValueError, match="GGUF is written for LlamaForCausalLM"):
        export(pack(source, tmp_path / "small", under("gguf")), tmp_path / "m.gguf", "gguf")
