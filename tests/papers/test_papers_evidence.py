from __future__ import annotations

import getpass
import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from tercile.papers import (
    Measured,
    evidence_folder,
    list_papers,
    load_method,
    not_here,
    paper,
    read_evidence,
    record,
    run_method,
)
from tercile.papers.evidence import checkout
from tercile.papers.machine import describe_machine
from tercile.papers.method import Method, measurable

SLUG = "range_estimation"


def test_evidence_comes_back_from_its_file_as_it_was(toy, tmp_path: Path) -> None:
    evidence = run_method(toy())
    record(evidence, tmp_path)
    assert read_evidence(SLUG, tmp_path) == evidence


def test_a_declared_reason_comes_back_from_its_file_without_a_plot(tmp_path: Path) -> None:
    evidence = not_here(paper("iqn", not_here="no games here"))
    assert record(evidence, tmp_path) == (tmp_path / "iqn.json", False)
    assert read_evidence("iqn", tmp_path) == evidence


def test_no_file_means_not_yet(tmp_path: Path) -> None:
    assert read_evidence(SLUG, tmp_path) is None
    assert {entry.verdict for entry in list_papers(tmp_path)} == {"not yet"}


def test_an_experiment_that_raises_leaves_the_old_evidence_untouched(toy, tmp_path: Path) -> None:
    record(run_method(toy()), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def breaks(size: str, seed: int) -> dict[str, Measured | float]:
        if seed == 2:
            raise RuntimeError("diverged")
        return {"error": 0.1, "baseline_error": 1.0, "accuracy": 1.0}

    with pytest.raises(RuntimeError, match="diverged"):
        record(run_method(replace(toy(), experiment=breaks)), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_disk_that_fills_leaves_the_old_evidence_and_no_rubbish(toy, tmp_path: Path, monkeypatch) -> None:
    record(run_method(toy()), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room for"):
        record(run_method(toy(error=(1.5, 1.5, 1.5))), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def _change(path: Path, **changes: object) -> None:
    data = json.loads(path.read_text())
    for where, value in changes.items():
        target = data
        *parents, last = where.split("__")
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        target[last] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "partly"}, "verdict is 'partly' but its numbers say 'holds'"),
        ({"measured__error__values": [0.5, 0.6, 1.7]}, "its numbers say 'partly'"),
        ({"measured__error__values": [0.5, 0.6]}, "error has 2 values for 3 seeds"),
        ({"measured__error__values": [0.5, 0.6, "0.7"]}, "error values must be a finite number"),
        ({"measured__error__lower": [0.5, True, 0.7]}, "error lower must be a finite number"),
        ({"measured": {}}, "nothing was measured"),
        ({"rule__0__at_most": "__import__('os')"}, "may hold numbers"),
        ({"rule__0__hurry": 1}, "hurry"),
        ({"rule": []}, "rule must hold at least one check"),
        ({"slug": "iqn"}, "it is about 'iqn'"),
        ({"format": 2}, "its format is 2"),
        ({"claim": None}, "claim must be text"),
        ({"seed": ["0", "1", "2"]}, "seed must be a whole number"),
        ({"seconds": None}, "seconds must be a finite number"),
    ],
)
def test_a_changed_file_is_refused_by_name(
    toy, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    path, _ = record(run_method(toy()), tmp_path)
    _change(path, **changes)
    with pytest.raises(ValueError, match=r"range_estimation\.json is not valid") as refused:
        read_evidence(SLUG, tmp_path)
    assert told in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\ufeff{}", '{"format": NaN}'])
def test_a_file_that_is_not_evidence_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{SLUG}.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"range_estimation\.json is not valid"):
        read_evidence(SLUG, tmp_path)
    with pytest.raises(ValueError, match=r"range_estimation\.json is not valid"):
        list_papers(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(toy, tmp_path: Path) -> None:
    path, _ = record(run_method(toy()), tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"range_estimation\.json"):
            read_evidence(SLUG, tmp_path)


def test_bytes_that_are_not_utf8_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / f"{SLUG}.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"range_estimation\.json cannot be read"):
        read_evidence(SLUG, tmp_path)


def test_the_machine_is_described_without_anything_that_identifies_it(toy, tmp_path: Path) -> None:
    text = json.dumps(describe_machine())
    for secret in (platform.node(), getpass.getuser(), str(Path.home()), str(Path.cwd())):
        if len(secret) > 3:
            assert secret not in text
    assert {"cpu", "cores", "memory_gib", "python", "numpy", "torch"} <= set(describe_machine())
    path, _ = record(run_method(toy()), tmp_path)
    assert str(checkout() or "no checkout") not in path.read_text()


def test_the_folder_is_the_one_given_then_the_variable_then_the_checkout(monkeypatch) -> None:
    monkeypatch.setenv("TERCILE_EVIDENCE", "elsewhere")
    assert evidence_folder("given") == Path("given")
    assert evidence_folder() == Path("elsewhere")
    monkeypatch.delenv("TERCILE_EVIDENCE")
    root = checkout()
    assert evidence_folder() == (root / "evidence" if root else evidence_folder())


def test_all_committed_evidence_is_valid_and_judged_by_the_rule_in_the_code() -> None:
    folder = evidence_folder()
    for path in sorted(folder.glob("*.json")):
        evidence = read_evidence(path.stem, folder)
        assert evidence is not None and evidence.claim == paper(path.stem).claim, path.name
        assert path.stem in measurable(), f"{path.name} has no experiment"
        method = load_method(path.stem)
        if isinstance(method, Method):
            assert evidence.rule == method.rule, path.name
            assert evidence.size == "full" and evidence.seed == method.seeds, path.name
            assert path.with_suffix(".svg").is_file(), f"{path.name} has no plot"
            assert evidence.seconds < 15 * 60, path.name
        assert evidence.commit is not None, f"{path.name} does not say from which code it came"
