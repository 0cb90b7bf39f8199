"""ONNX with static 8-bit activations: integers in ONNX Runtime, and what they cost is what the rounding costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tercile import zoo
from tercile.api import certify, export
from tercile.compression.batches import cut
from tercile.compression.export.onnx_activations import CALIBRATED_ON, SCHEME, choose_examples, input_ranges
from tercile.compression.package import load_package
from tercile.compression.source import Source, open_source
from tercile.compression.tasks import run
from tercile.compression.third_party import open_third_party
from tercile.compression.units import save_certification
from tercile.files import read_json
from tercile.filters.data import Example, Selection, read
from tercile.quantization.activations import Static, attached
from tercile.quantization.families import describe

from .packs import pack

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@dataclass(frozen=True)
class Made:
    source: Source
    small: Path
    out: Path
    pool: tuple[Example, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    entry = zoo.find("digits-vit")
    source, folder = open_source(entry.source), tmp_path_factory.mktemp("static")
    pool = tuple(read(entry.sample))
    # The patches of 4 x 4 pixels can't be grouped; the rest has layers of both kinds.
    small = pack(source, folder / "small", lambda number, layer: "int4-g32-asym" if number % 4 == 3 else "int8-channel")
    (small / "certification.jsonl.gz").unlink()
    save_certification(Selection((), (), pool[:200], 0, 200, 200), small)
    out = export(small, folder / "out", "onnx", entry.card.get("build"), activations="int8", data=entry.sample)
    return Made(source, small, out, pool)


def test_the_graph_is_valid_and_onnx_runtime_multiplies_integers(made, tmp_path) -> None:
    onnx.checker.check_model(str(made.out / "model.onnx"), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "as_run.onnx")
    onnxruntime.InferenceSession(str(made.out / "model.onnx"), options, providers=["CPUExecutionProvider"])
    nodes = list(onnx.load(tmp_path / "as_run.onnx").graph.node)
    integer = sum(node.op_type in ("MatMulIntegerToFloat", "QLinearMatMul") for node in nodes)
    grouped = [node for node in nodes if node.op_type == "MatMulNBits"]
    linear = sum(layer.kind == "linear" for layer in describe(made.source.module).layers)
    # The head reads one row an image, and becomes a Gemm with its bias, which stays float.
    assert integer + len(grouped) == linear - 1 and integer > len(grouped) > 3
    levels = [{a.name: a.i for a in node.attribute}.get("accuracy_level") for node in grouped]
    assert set(levels) == {4}


def test_it_says_what_the_small_model_says_with_the_same_rounding_in_torch(made) -> None:
    other = open_third_party(made.out).module
    small = load_package(made.small, zoo.find("digits-vit").card.get("build"))
    ranges = input_ranges(small, choose_examples(made.pool, frozenset(e.digest for e in made.pool[:200])))
    fixed = {
        name: Static(SCHEME, torch.tensor([one.scale]), torch.tensor([-one.scale * one.zero]))
        for name, one in ranges.items()
    }
    x = made.source.prepare([example.content for example in made.pool[:64]])
    batch = cut(made.pool[:64], made.source, most=64)[0]
    assert torch.equal(batch.inputs if isinstance(x, torch.Tensor) else batch.inputs["pixel_values"],
                       x if isinstance(x, torch.Tensor) else x["pixel_values"])  # fmt: skip
    with torch.inference_mode():
        plain, theirs = run(small.module, batch), other(**x) if isinstance(x, dict) else other(x)
        theirs = getattr(theirs, "logits", theirs)
        with attached(small.module, describe(small.module), fixed):
            rounded = run(small.module, batch)

    def distance(one: torch.Tensor, two: torch.Tensor) -> float:
        return float((one - two).norm() / two.norm())

    cost = distance(rounded, plain)
    assert 1e-4 < cost < 0.05
    # A sum in another order moves a value over the middle between two codes, and all that follows by its step.
    assert distance(theirs, rounded) < 1.5 * cost and distance(theirs, plain) < 1.5 * cost
    assert (theirs.argmax(-1) == plain.argmax(-1)).float().mean() > 0.95


def test_examples_that_ranges_were_found_from_are_in_no_certificate(made, tmp_path) -> None:
    used = set(read_json(made.out / CALIBRATED_ON)["units_sha256"])
    assert len(used) == 256 and not used & {example.digest for example in made.pool[:200]}
    certified = certify("digits-vit", made.out, list(made.pool), out=tmp_path / "certified")
    assert certified.certificate["small"]["kind"] == "onnx" and certified.certificate["max_loss"] < 0.1
    kept = Selection.load(next(certified.folder.glob("certification.*"))).certification
    assert len(kept) > 300 and not used & {example.digest for example in kept}
    few = [example for example in made.pool if example.digest in used]
    with pytest.raises(ValueError, match="left without those that the small model was made with"):
        certify("digits-vit", made.out, few, out=tmp_path / "no")


def test_rounding_that_can_not_be_done_is_refused(made, tmp_path) -> None:
    with pytest.raises(ValueError, match="activations can be int8, with to='onnx'; got 'int8' with to='gguf'"):
        export(made.small, tmp_path / "out", "gguf", activations="int8")
    with pytest.raises(ValueError, match="data is missing"):
        export(made.small, tmp_path / "out", "onnx", activations="int8")
    with pytest.raises(ValueError, match="add activations='int8'"):
        export(made.small, tmp_path / "out", "onnx", data=made.pool)
    with pytest.raises(ValueError, match="no example that the certificate does not rest on"):
        export(made.small, tmp_path / "out", "onnx", zoo.find("digits-vit").card.get("build"), activations="int8",
               data=made.pool[:200])  # fmt: skip
    assert not (tmp_path / "out").exists()
