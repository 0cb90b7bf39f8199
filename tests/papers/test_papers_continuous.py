from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tercile.papers.continuous as continuous
from tercile.papers import Check, Measured, record, run_method
from tercile.papers.changed import changed_papers, dependencies
from tercile.papers.continuous import check_rotating, contradictions, main, quick_outcome, rotation


def test_a_quick_run_like_the_evidence_agrees(toy, tmp_path: Path) -> None:
    method = toy()
    record(run_method(method), tmp_path)
    outcome = quick_outcome(method, tmp_path)
    assert (outcome.state, outcome.good) == ("agrees", True)


@pytest.mark.parametrize(
    ("committed", "quick", "contradicts"),
    [
        (0.5, 0.95, False),  # held; past its limit of 0.9, but within a tenth of it
        (0.5, 1.05, True),  # held; past the slack too
        (1.5, 0.85, False),  # failed; passes, but within a tenth of the limit
        (1.5, 0.7, True),  # failed; passes clearly
        (1.5, 1.4, False),
    ],
)
def test_a_quick_run_contradicts_when_it_lands_clearly_on_the_other_side(
    toy, committed: float, quick: float, contradicts: bool
) -> None:
    evidence = run_method(toy(error=(committed,) * 3))
    method = toy(error=(quick,) * 3)
    assert bool(contradictions(run_method(method, "quick"), evidence, method.rule)) is contradicts


def test_checks_that_are_not_marked_quick_do_not_contradict(toy) -> None:
    evidence, method = run_method(toy()), toy(accuracy=(0.0, 0.0, 0.0))
    assert contradictions(run_method(method, "quick"), evidence, method.rule) == []


def test_a_rule_changed_after_the_run_contradicts(toy) -> None:
    evidence = run_method(toy())
    softer = (Check("error", at_most="2 * baseline_error"),)
    told = contradictions(run_method(toy(rule=softer), "quick"), evidence, softer)
    assert told == ["the rule in the code is not the rule of the evidence; run it in full again"]


def test_an_experiment_that_raises_fails_and_one_without_evidence_only_has_to_run(
    toy, tmp_path: Path
) -> None:
    from dataclasses import replace

    def breaks(size: str, seed: int) -> dict[str, Measured | float]:
        raise RuntimeError("no model")

    assert quick_outcome(replace(toy(), experiment=breaks), tmp_path).state == "fails"
    assert quick_outcome(toy(), tmp_path).state == "no evidence"


def test_a_rotating_sample_visits_everything_and_is_the_same_for_the_same_turn() -> None:
    slugs = [f"p{i}" for i in range(23)]
    for sample in (1, 2, 5, 23, 40):
        turns = -(-len(slugs) // sample)
        seen = [slug for turn in range(7, 7 + turns) for slug in rotation(slugs, sample, turn)]
        assert set(seen) == set(slugs), sample
        assert all(len(set(rotation(slugs, sample, turn))) == min(sample, 23) for turn in range(50))
    assert rotation(slugs, 3, 11) == rotation(slugs[::-1], 3, 11)
    assert rotation([], 3, 11) == []


def _repository(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


FILES = {
    "pyproject.toml": "",
    "src/tercile/__init__.py": "",
    "src/tercile/room/__init__.py": "from tercile.room.one import one\nfrom tercile.room.two import two\n",
    "src/tercile/room/one.py": "from tercile.room.deep import deep\none = 1\n",
    "src/tercile/room/two.py": "from tercile import _native\ntwo = 2\n",
    "src/tercile/room/deep.py": "deep = 1\n",
    "src/tercile/papers/iqn.py": "from tercile.room import one\n",
    "src/tercile/papers/tqc.py": "def experiment():\n    from tercile.room import two\n",
    "src/tercile/papers/cqe.py": "import numpy\n",
    "native/two.cpp": "",
}


def test_imports_are_followed_through_a_room_to_the_file_that_defines_a_name(tmp_path: Path) -> None:
    _repository(tmp_path, FILES)
    source = tmp_path / "src"
    found = {str(path.relative_to(source)) for path in dependencies(source / "tercile/papers/iqn.py", source)}
    assert found == {"tercile/papers/iqn.py", "tercile/room/one.py", "tercile/room/deep.py"}
    other = {str(path.relative_to(source)) for path in dependencies(source / "tercile/papers/tqc.py", source)}
    assert other == {"tercile/papers/tqc.py", "tercile/room/two.py", "tercile/_native"}


@pytest.mark.parametrize(
    ("touched", "expected"),
    [
        ("src/tercile/room/deep.py", ["iqn"]),
        ("src/tercile/room/two.py", ["tqc"]),
        ("native/two.cpp", ["tqc"]),
        ("src/tercile/papers/cqe.py", ["cqe"]),
        ("evidence/cqe.json", ["cqe"]),
        ("README.md", []),
    ],
)
def test_a_change_is_followed_to_the_papers_that_depend_on_it(
    tmp_path: Path, monkeypatch, touched: str, expected: list[str]
) -> None:
    _repository(tmp_path, {**FILES, "README.md": "", "evidence/cqe.json": "{}"})
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for step in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "start"]):
        subprocess.run(["git", "-C", str(tmp_path), *step], check=True)
    (tmp_path / touched).write_text("changed = True\n")
    monkeypatch.setattr("tercile.papers.changed.checkout", lambda: tmp_path)
    assert changed_papers("HEAD", ["cqe", "iqn", "tqc"]) == expected
    (tmp_path / touched).write_text(FILES.get(touched, "{}" if touched.endswith("json") else ""))
    assert changed_papers("HEAD", ["cqe", "iqn", "tqc"]) == []
    with pytest.raises(ValueError, match="base 'nowhere' is not a revision"):
        changed_papers("nowhere", ["cqe"])


def test_the_command_fails_on_a_contradiction_and_passes_without_one(
    toy, tmp_path: Path, monkeypatch, capsys
) -> None:
    record(run_method(toy()), tmp_path)
    monkeypatch.setattr(continuous, "measurable", lambda: ("range_estimation",))
    arguments = ["--sample", "1", "--evidence", str(tmp_path)]
    monkeypatch.setattr(continuous, "load_method", lambda slug: toy())
    assert main(arguments) == 0
    assert "agrees" in capsys.readouterr().out
    monkeypatch.setattr(continuous, "load_method", lambda slug: toy(error=(2.0, 2.0, 2.0)))
    assert main(arguments) == 1
    assert "1 against the evidence: range_estimation" in capsys.readouterr().out
    (tmp_path / "range_estimation.json").write_text("{")
    assert main(arguments) == 2
    assert "range_estimation.json is not valid" in capsys.readouterr().err


def test_a_negative_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="sample must not be negative, got -1"):
        check_rotating(-1)
