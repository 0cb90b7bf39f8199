"""The main job, end to end, on a model small enough to run many times."""

from __future__ import annotations

import errno
import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tercile
from tercile import arrays, files
from tercile.api import NotCertified, export, load, verify
from tercile.compression.memory import check_memory
from tercile.compression.search import last_true, walk_rungs
from tercile.compression.source import open_source

from . import toy

HERE = "tests.compression.toy"
BUILD = f"{HERE}:build"
SCHEMES = ("int8-channel", "int4-g32", "int3-g32", "int2-g32")


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pool.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in toy.sentences()))
    return path


def job(pool: Path, out: Path, **changes):
    arguments = {"max_loss": 0.1, "task": "classifier", "schemes": SCHEMES, "units": 400} | changes
    return tercile.compress(BUILD, pool, out=out, **arguments)


@pytest.fixture(scope="module")
def small(pool, tmp_path_factory):
    return job(pool, tmp_path_factory.mktemp("made") / "small")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_chosen_rung_keeps_the_promise_on_data_never_seen(small) -> None:
    fresh = [text[::-1] for text in toy.sentences(1500)][900:]
    original, reduced = load(BUILD).outputs(fresh), load(small.folder, builder=BUILD).outputs(fresh)
    assert (original.argmax(1) != reduced.argmax(1)).mean() <= 0.1 + 0.03


def test_the_folder_is_smaller_and_its_size_is_what_the_certificate_says(small) -> None:
    size = (small.folder / "model.safetensors").stat().st_size
    assert size == small.certificate["small"]["nbytes"] < small.certificate["original"]["nbytes"] / 3


def test_the_walk_stops_at_the_first_rung_that_fails(small) -> None:
    verdicts = [step["certified"] for step in small.certificate["walk"]]
    assert verdicts[0] and all(verdicts[:-1])
    sizes = [step["nbytes"] for step in small.certificate["walk"]]
    assert sizes == sorted(sizes, reverse=True)


def test_no_unit_of_the_certificate_had_a_part_in_making_the_model(small, pool) -> None:
    from tercile.compression.pipeline import _select
    from tercile.compression.settings import Settings

    chosen = _select(pool, Settings(0.1, units=400), None, None, lambda *_: None)
    certified = {example.digest for example in chosen.certification}
    assert set(small.certificate["data"]["units"]) == certified
    assert not certified & {example.digest for example in (*chosen.calibration, *chosen.selection)}


def test_the_folder_does_not_tell_where_the_data_lay(small, pool) -> None:
    for path in (p for p in small.folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        assert str(pool.parent).encode() not in text, path.name
    assert all(worst["origin"].startswith("pool.jsonl:") for worst in small.details["worst"])


def test_verify_recomputes_the_certificate(small) -> None:
    found = verify(small.folder, original=BUILD)
    assert found.ok, found.checks
    looked_at = {check.name for check in found.checks}
    assert {"certificate is whole", "original", "data", "risk", "bound", "walk", "model.safetensors"} <= looked_at


@pytest.mark.parametrize("name", ["model.safetensors", "certificate.json", "certification.jsonl.gz", "tercile.json"])
def test_verify_sees_one_flipped_byte(small, tmp_path, name) -> None:
    copy = Path(shutil.copytree(small.folder, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    at = data.index(b'"risk": 0') + 10 if name == "certificate.json" else len(data) * 2 // 3
    data[at] ^= 1
    (copy / name).write_bytes(data)
    try:
        found = verify(copy, original=BUILD)
    except ValueError as error:
        assert name in str(error)
    else:
        assert not found.ok and any(not check.ok and name in f"{check.name} {check.detail}" for check in found.checks)


def test_verify_refuses_another_original(small) -> None:
    other = toy.network()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-3
    found = verify(small.folder, original=other)
    assert not found.ok and "not those that the certificate speaks of" in found.checks[-1].detail


def test_verify_will_not_run_code_that_only_a_file_names(small) -> None:
    with pytest.raises(ValueError, match="may not choose what code is run"):
        verify(small.folder)


def test_a_run_that_is_stopped_anywhere_resumes_and_ends_with_the_same_bytes(small, pool, tmp_path) -> None:
    expected = contents(small.folder)
    out = tmp_path / "small"
    stages = ("calibrating and solving", "measuring sensitivity", "comparing size 2", "certifying, step 1")
    for stage, at in zip(stages, (1, 2, 1, 1)):

        def stop(name: str, done: int, total: int | None, stage: str = stage, at: int = at) -> None:
            if name.startswith(stage) and done >= at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            job(pool, out, progress=stop)
        assert not out.exists()
    job(pool, out)
    assert contents(out) == expected
    assert not out.with_name("small.partial").exists()


def test_a_run_that_is_killed_resumes_and_ends_with_the_same_bytes(small, pool, tmp_path) -> None:
    out = tmp_path / "small"
    code = (
        "import tercile, time\n"
        "def slow(stage, done, total): time.sleep(0.05)\n"
        f"tercile.compress({BUILD!r}, {str(pool)!r}, out={str(out)!r}, max_loss=0.1, task='classifier', "
        f"schemes={SCHEMES!r}, units=400, progress=slow)"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    bank = tmp_path / "small.partial" / "bank"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (bank.is_dir() and any(bank.iterdir())):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert bank.is_dir() and not out.exists()
    job(pool, out)
    assert contents(out) == contents(small.folder)


def test_other_settings_do_not_take_up_the_work_of_an_earlier_run(small, pool, tmp_path) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if name == "measuring sensitivity":
            raise KeyboardInterrupt

    out = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        job(pool, out, progress=stop, seed=5)
    job(pool, out)
    assert contents(out) == contents(small.folder)


def test_a_promise_that_nothing_keeps_is_refused_with_what_it_came_to(pool, tmp_path) -> None:
    with pytest.raises(NotCertified, match=r"even the safest model on the ladder loses 0\.\d+ on 400"):
        job(pool, tmp_path / "small", schemes=("int2-channel", "sign-channel"), max_loss=0.02)
    assert not list(tmp_path.iterdir())


def test_a_loss_of_the_users_own_is_certified_and_verified(pool, tmp_path) -> None:
    made = job(pool, tmp_path / "small", loss=f"{HERE}:quarter", max_loss=0.05)
    assert made.certificate["loss"] == f"{HERE}:quarter"
    assert set(np.unique(made.details["losses"])) <= {0.0, 0.25}
    assert verify(made.folder, original=BUILD, loss=toy.quarter).ok


def test_a_quantile_of_the_loss_can_be_certified(pool, tmp_path) -> None:
    made = job(pool, tmp_path / "small", loss=toy.quarter, quantile=0.9, max_loss=0.2)
    assert np.quantile(made.details["losses"], 0.9) <= 0.2
    assert verify(made.folder, original=BUILD, loss=toy.quarter).ok


def test_the_float_folder_holds_the_same_numbers(small, tmp_path) -> None:
    out = export(small.folder, tmp_path / "float")
    written, _ = arrays.load_arrays(out / "model.safetensors")
    state = small.model.state_dict()
    assert written.keys() == state.keys()
    assert all(np.array_equal(written[name], state[name].numpy()) for name in written)


def test_a_full_disk_is_one_clear_error_and_the_next_run_goes_on(small, pool, tmp_path, monkeypatch) -> None:
    out, room = tmp_path / "small", 20
    replace = files.os.replace

    def full(*paths) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no room for"):
        job(pool, out)
    assert not out.exists()
    monkeypatch.undo()
    job(pool, out)
    assert contents(out) == contents(small.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_loss": 2}, "max_loss must lie between 0 and 1, got 2; write 0.02"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95; write 0.95"),
        ({"max_loss": float("nan")}, "max_loss must lie between 0 and 1"),
        ({"schemes": ("int9-g64",)}, "from 1 to 8"),
        ({"task": "poetry"}, "task must be one of"),
        ({"loss": "cosine"}, "does not fit task 'classifier'"),
        ({"loss": f"{HERE}:nothing"}, "can't be imported"),
        ({"loss": f"{HERE}:too_much"}, r"losses must lie in \[0, 1\]"),
        ({"max_loss": 0.0001}, "at least 29,956 certification units"),
        ({"column": "txet"}, "txet"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(pool, tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        job(pool, tmp_path / "small", **changes)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "does not exist"),
        (f"{HERE}:missing", "has no 'missing'"),
        (f"{HERE}:no_module", "must return a torch.nn.Module"),
        ("nowhere.at.all:build", "no module"),
        (torch.nn.ReLU(), "no parameters"),
    ],
)
def test_a_model_that_is_none_is_refused_by_name(pool, tmp_path, model, message) -> None:
    with pytest.raises(ValueError, match=message):
        tercile.compress(model, pool, max_loss=0.1, out=tmp_path / "small", task="classifier")


def test_nan_weights_are_refused_by_name() -> None:
    model = toy.network()
    with torch.no_grad():
        model[2].weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in 2\.weight"):
        open_source(model)


def test_too_little_memory_is_refused_with_what_is_needed() -> None:
    source = open_source(BUILD)
    check_memory(source)
    with pytest.raises(MemoryError, match=r"more memory and 0\.0 GiB are free"):
        check_memory(source, available=1000)


def test_a_folder_that_exists_is_not_touched_without_force(small, pool, tmp_path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine").write_text("keep")
    with pytest.raises(ValueError, match="exists"):
        job(pool, tmp_path / "small")
    assert (tmp_path / "small" / "mine").read_text() == "keep"
    job(pool, tmp_path / "small", force=True)
    assert contents(tmp_path / "small") == contents(small.folder)


def test_too_few_units_say_how_many_are_needed(tmp_path) -> None:
    with pytest.raises(ValueError, match="29"):
        tercile.compress(BUILD, toy.sentences(30), max_loss=0.1, out=tmp_path / "small", task="classifier")


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_bisection_finds_the_last_rung_that_passes(count) -> None:
    for last in range(-1, count):
        assert last_true(lambda i, last=last: i <= last, count) == last


def test_the_walk_starts_at_the_safest_rung_and_goes_on_from_the_frontier_to_the_end() -> None:
    assert walk_rungs(20, 24) == [0, 16, 18, 19, 20, 21, 22, 23]
    assert walk_rungs(-1, 3) == [0, 1, 2]
    assert walk_rungs(2, 3) == [0, 1, 2]
    assert walk_rungs(0, 1) == [0]
