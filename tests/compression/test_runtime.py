"""A packed folder that runs as it is stored, and the commands on it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tercile import api, zoo
from tercile.cli import app
from tercile.compression.generating import generate
from tercile.compression.llama_blocks import BlockReader
from tercile.compression.package import load_package
from tercile.compression.reader import ModuleReader, reader_of
from tercile.compression.runtime import open_runtime
from tercile.compression.source import open_source
from tercile.compression.third_party import open_third_party

from .packs import TEXTS, pack

MIXED = ("int4-g32", "int8-channel", "trellis3-channel-rot", "int5-g32-asym-k6", "normal16-channel", "int3-g64-asym")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    source = open_source(zoo.find("debian-llama").source)
    place = tmp_path_factory.mktemp("llama") / "small"
    return pack(source, place, lambda number, layer: MIXED[number % len(MIXED)])


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, architectures=["BertModel"],
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((Path(zoo.find("minilm").source) / name).read_bytes())
    source = open_source(folder / "model")
    return pack(source, folder / "small", lambda number, layer: "int8-channel" if number % 2 else "int4-g32")


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_packed_layers_give_the_answers_of_decoded_weights(name, request) -> None:
    folder = request.getfixturevalue(name)
    runtime, decoded = open_runtime(folder), load_package(folder)
    assert not runtime.decoded and len(runtime.packed) > 10
    batch = decoded.prepare(TEXTS)
    with torch.no_grad():
        ours, theirs = runtime.module(**batch)[0], decoded.module(**batch)[0]
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


def test_no_weight_is_expanded_and_the_file_is_shared(llama) -> None:
    runtime = open_runtime(llama)
    floats = sum(p.numel() for p in runtime.module.parameters())
    whole = sum(p.numel() for p in load_package(llama).module.parameters())
    assert floats < 0.01 * whole  # gains of norms alone
    states = [m.matrix.stored.words for m in runtime.module.modules() if hasattr(m, "matrix")]
    assert states and not any(words.flags.owndata or words.flags.writeable for words in states)


def test_layers_without_a_packed_form_are_decoded_and_named(tmp_path) -> None:
    source = open_source("tests.compression.packs:along_a_line")
    small = pack(source, tmp_path / "small", lambda number, layer: "int8-channel")
    runtime = open_runtime(small, "tests.compression.packs:along_a_line")
    assert runtime.decoded == ("1.weight",) and runtime.packed == ("0.weight", "4.weight")
    x = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = runtime.module(x), load_package(small, "tests.compression.packs:along_a_line").module(x)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="say what builds the module"):
        open_runtime(small)


def test_text_is_what_transformers_writes_with_the_decoded_weights(llama) -> None:
    decoded = load_package(llama)
    ids = decoded.prepare(["This package provides"])["input_ids"]
    with torch.no_grad():
        wanted = decoded.module.generate(
            ids, max_new_tokens=30, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(ids)
        )
    from tercile.compression.source import read_tokenizer

    tokenizer = read_tokenizer(llama)
    text = tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)
    made = "".join(generate(open_runtime(llama), "This package provides", max_tokens=30))
    assert made == text and len(made) > 20


def test_the_reader_of_packed_llamas_gives_the_logits_of_the_module(llama) -> None:
    runtime, decoded = open_runtime(llama), load_package(llama)
    ids = decoded.prepare([" ".join(TEXTS * 4)])["input_ids"][0].tolist()
    with torch.no_grad():
        wanted = decoded.module(input_ids=torch.tensor([ids])).logits[0].numpy()
    reader, plain, at = reader_of(runtime.module), reader_of(decoded.module), 0
    assert isinstance(reader, BlockReader) and isinstance(plain, ModuleReader)
    for size in (5, 1, 1, 30, 1, 2):  # in parts of every kind, beyond the first room for keys
        part, at = ids[at : at + size], at + size
        for found in (reader.read(part), plain.read(part)):
            np.testing.assert_allclose(found, wanted[at - 1], atol=2e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_compiled_blocks_read_as_the_module_does(tmp_path, activations) -> None:
    spellings = ("int4-g32", "int8-channel", "int5-g32-asym-k6", "int2-g64", "trellis3-channel-rot")
    small = pack(open_source(zoo.find("debian-llama").source), tmp_path / "small", lambda n, _: spellings[n % 5])
    runtime = open_runtime(small, activations=activations)
    ids = runtime.source.prepare([" ".join(TEXTS * 4)])["input_ids"][0].tolist()
    with torch.no_grad():
        wanted = runtime.module(input_ids=torch.tensor([ids])).logits[0].numpy()
    reader, at = reader_of(runtime.module), 0
    assert isinstance(reader, BlockReader)
    near = 2e-4 if activations == "float" else 0.1  # halves between two steps fall to either side
    for size in (5, 1, 1, 30, 1, 2):
        at += size
        found = reader.read(ids[at - size : at])
        assert np.linalg.norm(found - wanted[at - 1]) < near * np.linalg.norm(wanted[at - 1])


def test_draws_follow_their_seed_and_bad_numbers_are_refused(llama) -> None:
    runtime = open_runtime(llama)

    def draw(seed: int) -> str:
        return "".join(generate(runtime, "The", max_tokens=12, temperature=1.0, seed=seed))

    assert draw(1) == draw(1) != draw(2)
    for settings, said in (
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be"),
    ):
        with pytest.raises(ValueError, match=said):
            generate(runtime, "The", **settings)
    with pytest.raises(ValueError, match="tokens long and the model reads 384"):
        generate(runtime, "word " * 6000)


def test_run_embeds_arguments_files_and_standard_input(bert, tmp_path) -> None:
    wanted = api.load(bert).encode(TEXTS)
    runner = CliRunner()
    said = runner.invoke(app, ["run", str(bert), *TEXTS])
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert said.exit_code == 0 and [line["text"] for line in lines] == TEXTS
    np.testing.assert_allclose([line["embedding"] for line in lines], wanted, atol=2e-6)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n\n", encoding="utf-8")
    for given, fed in (([str(tmp_path / "texts.txt")], None), (["-"], "\n".join(TEXTS))):
        out = tmp_path / f"{len(given[0])}.npy"
        done = runner.invoke(app, ["run", str(bert), "--input", *given, "--out", str(out)], input=fed)
        assert done.exit_code == 0, done.output
        np.testing.assert_allclose(np.load(io.BytesIO(out.read_bytes())), wanted, atol=2e-6)
    assert runner.invoke(app, ["run", str(bert)]).exit_code == 2
    assert runner.invoke(app, ["run", str(bert), "x", "--out", "x.csv"]).exit_code == 2


def test_run_goes_on_with_a_text_and_says_what_it_can_not_run(llama, tmp_path) -> None:
    runner = CliRunner()
    said = runner.invoke(app, ["run", str(llama), "This package", "--max-tokens", "8"])
    assert said.exit_code == 0 and said.stdout.startswith("This package") and len(said.stdout) > 20
    again = runner.invoke(app, ["run", str(llama), "This package", "--max-tokens", "8", "--json"])
    document = json.loads(again.stdout)
    assert document["prompt"] + document["text"] + "\n" == said.stdout
    source = open_source("tests.compression.toy:build")
    small = pack(source, tmp_path / "small", lambda number, layer: "int8-channel")
    refused = runner.invoke(app, ["run", str(small), "x"])
    assert refused.exit_code == 2 and "a model that code builds" in refused.stderr


def test_bench_times_both_sides_on_the_same_work(bert, llama) -> None:
    found = api.bench(bert, bert.parent / "model", repeats=2)
    assert {row["model"] for row in found["timings"]} == {"original", "small", "small, int8 activations"}
    assert {row["work"] for row in found["timings"]} == {"batch of 1", "batch of 2"}  # there are two texts
    for row in found["timings"]:
        assert row["seconds"] > 0 and row["rate"] == pytest.approx(int(row["work"][9:]) / row["seconds"])
    assert all(model["peak_bytes"] > 0 for model in found["models"].values())
    alone = api.bench(llama, data=[" ".join(TEXTS * 20)], repeats=1, activations="float")
    assert [(row["unit"], row["ratio"]) for row in alone["timings"]] == [("tokens", None), ("tokens", None)]
    printed = CliRunner().invoke(app, ["bench", str(bert), str(bert.parent / "model"), "--repeats", "1", "--json"])
    assert printed.exit_code == 0 and json.loads(printed.stdout)["repeats"] == 1


def test_a_folder_with_rounded_activations_has_a_certificate_of_its_own(bert, tmp_path) -> None:
    original, data, made = bert.parent / "model", zoo.find("minilm").sample, {}
    for spec in (str(bert), f"int8:{bert}"):
        out = tmp_path / spec[:4].strip("/")
        made[spec[:4]] = api.certify(original, spec, data, units=60, out=out)
        assert api.verify(out).ok, api.verify(out).checks
    rounded, plain = made["int8"].certificate, made[str(bert)[:4]].certificate
    assert rounded["small"]["kind"] == "tercile, int8 activations" and rounded["risk"] > plain["risk"]
    wanted = open_runtime(bert, activations="int8").module
    batch = open_source(original).prepare(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(open_third_party(f"int8:{bert}").module(**batch)[0], wanted(**batch)[0])
    with pytest.raises(ValueError, match="no folder that `tercile compress` wrote"):
        open_third_party(f"int8:{original}")


def test_unfolded_trellises_give_the_same_answers(tmp_path) -> None:
    source = open_source(zoo.find("debian-llama").source)
    small = pack(source, tmp_path / "small", lambda number, layer: "trellis2.5-channel-rot")
    folded, unfolded = (open_runtime(small, activations="int8", unfold=unfold) for unfold in (False, True))
    ids = source.prepare(TEXTS[:1])["input_ids"][0].tolist()
    for part in (ids, ids[:1]):
        ours, wanted = (reader_of(runtime.module).read(part) for runtime in (unfolded, folded))
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    layer = unfolded.module.model.layers[0].mlp.up_proj
    assert layer.nbytes > layer.in_features * layer.out_features > folded.module.model.layers[0].mlp.up_proj.nbytes
    assert unfolded.module.model.embed_tokens.nbytes == folded.module.model.embed_tokens.nbytes
    with pytest.raises(ValueError, match="unfold is for activations='int8' alone"):
        open_runtime(small, unfold=True)
