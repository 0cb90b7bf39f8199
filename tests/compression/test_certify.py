"""Certificates for models that another tool made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tercile
from tercile.api import NotCertified, verify
from tercile.compression.third_party import open_third_party
from tercile.filters.data import Selection
from tercile.quantiles.certificate import upper_bound

from . import toy

BUILD = "tests.compression.toy:build"
ROUNDED = "tests.compression.toy:rounded"


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pool.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in toy.sentences()))
    return path


@pytest.fixture(scope="module")
def certified(pool, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "certified"
    return tercile.certify(BUILD, ROUNDED, pool, out=out, task="classifier", units=500)


def test_the_bound_is_that_of_losses_worked_out_by_hand(certified) -> None:
    original, (small, _) = toy.network(), toy.rounded()
    texts = [unit.content for unit in Selection.load(certified.folder / "certification.jsonl.gz").certification]
    x = toy.prepare(texts)
    lost = (original(x).argmax(1) != small(x).argmax(1)).numpy()
    assert len(texts) == 500
    assert certified.certificate["risk"] == pytest.approx(lost.mean())
    bound = upper_bound(lost, 0.95)
    assert bound <= certified.certificate["max_loss"] <= bound + 1.1e-4, "found, rounded up"


def test_what_was_certified_is_verified_and_another_model_is_not(certified) -> None:
    found = verify(certified.folder, original=BUILD, small=ROUNDED)
    assert found.ok, [check for check in found.checks if not check.ok]
    other = verify(certified.folder, original=BUILD, small="tests.compression.toy:rounded_more")
    assert [check.name for check in other.checks if not check.ok] == ["small model"]


def test_a_certificate_never_chooses_what_code_is_run(certified) -> None:
    with pytest.raises(ValueError, match="may not choose what code is run"):
        verify(certified.folder, original=BUILD)


def test_a_promise_that_does_not_hold_is_refused_with_what_could_be_promised(pool, tmp_path) -> None:
    with pytest.raises(NotCertified, match=r"no less than 0\.\d{4} can be promised, above the 0\.012"):
        tercile.certify(
            BUILD, "tests.compression.toy:rounded_more", pool, out=tmp_path / "c", task="classifier", max_loss=0.012
        )
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_and_ends_the_same(pool, tmp_path, certified) -> None:
    scored: list[int] = []

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "scoring" and done > 256:
            raise KeyboardInterrupt

    out = tmp_path / "certified"
    arguments = {"out": out, "task": "classifier", "units": 500}
    with pytest.raises(KeyboardInterrupt):
        tercile.certify(BUILD, ROUNDED, pool, progress=stop, **arguments)
    assert not out.exists()
    again = tercile.certify(
        BUILD, ROUNDED, pool, progress=lambda stage, done, _: scored.append(done) if stage == "scoring" else None,
        **arguments,
    )  # fmt: skip
    assert again.certificate == certified.certificate
    assert min(scored) > 256, "the first part was scored again"
    assert not out.with_name("certified.partial").exists()


def test_a_folder_that_transformers_loads_is_certified_and_verified_from_its_files(tmp_path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, num_labels=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "original")
    model.bfloat16().save_pretrained(tmp_path / "small")
    pictures = np.random.default_rng(0).random((300, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "pictures.npz", pictures=pictures)
    made = tercile.certify(
        tmp_path / "original", tmp_path / "small", tmp_path / "pictures.npz", out=tmp_path / "c", max_loss=0.05
    )
    assert made.certificate["small"]["nbytes"] == (tmp_path / "small" / "model.safetensors").stat().st_size
    assert verify(tmp_path / "c").ok
    weights = tmp_path / "small" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    assert [check.name for check in verify(tmp_path / "c").checks if not check.ok] == ["model.safetensors"]


def test_the_report_of_a_foreign_model_has_no_ladder(certified, tmp_path) -> None:
    page = certified.report(tmp_path / "report.html").read_text()
    assert certified.certificate["statement"] in page
    assert "rung" not in page and "How this size was found" not in page


def test_nothing_is_done_for_a_model_that_cannot_be_opened(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUX" + bytes(100))
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(20))
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08nothing")
    (tmp_path / "notes.txt").write_text("a")
    for name, said in {
        "nowhere": "there is no small model",
        "empty": "holds no model",
        "model.gguf": "does not start with GGUF",
        "cut.gguf": "can't be loaded",
        "bad.onnx": "can't be opened by ONNX Runtime",
        "notes.txt": "no model that can be opened",
    }.items():
        with pytest.raises(ValueError, match=said):
            open_third_party(tmp_path / name)


def test_models_that_do_not_belong_together_are_told_apart(pool, tmp_path) -> None:
    with pytest.raises(ValueError, match="same task and vocabulary"):
        tercile.certify(BUILD, "tests.compression.toy:narrow", pool, out=tmp_path / "c", task="classifier")


def test_a_promise_that_the_units_cannot_carry_is_refused_before_anything_is_scored(pool, tmp_path) -> None:
    with pytest.raises(ValueError, match="takes at least"):
        tercile.certify(BUILD, ROUNDED, pool, out=tmp_path / "c", task="classifier", max_loss=0.001, units=400)
    shutil.rmtree(tmp_path / "c.partial", ignore_errors=True)
    assert not (tmp_path / "c").exists()


def test_a_model_that_tercile_made_is_not_certified_again_on_the_sample_it_was_made_with(tmp_path) -> None:
    (tmp_path / "tercile.json").write_text("{}")
    with pytest.raises(ValueError, match="give fresh examples with --data"):
        tercile.certify("digits-cnn", tmp_path, out=tmp_path / "c")
