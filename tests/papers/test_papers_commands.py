from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercile.papers import Measured, record, run_method
from tercile.papers.commands import app
from tercile.papers.listing import list_papers

SLUG = "range_estimation"


@pytest.fixture
def ask(tmp_path: Path):
    def call(*arguments: str):
        return CliRunner().invoke(app, [*arguments, "--evidence", str(tmp_path)], env={"COLUMNS": "140"})

    return call


@pytest.fixture
def install(monkeypatch):
    """Put a toy method where a paper's module would be."""

    def put(method) -> None:
        monkeypatch.setattr("tercile.papers.method.load_method", lambda slug: method)

    return put


def test_the_list_shows_all_methods_and_counts_them(ask) -> None:
    shown = ask("list")
    assert shown.exit_code == 0 and "166 methods: 166 not yet" in shown.output
    assert "eigenshield" in shown.output and "subset_optimal_dp" in shown.output


def test_the_list_as_json_holds_claim_and_measurement_side_by_side(ask, toy, tmp_path: Path) -> None:
    record(run_method(toy()), tmp_path)
    entries = {entry["slug"]: entry for entry in json.loads(ask("list", "--json").output)}
    assert len(entries) == 166
    assert entries[SLUG]["verdict"] == "holds" and entries[SLUG]["measured"] == "error 0.6 (<= 0.9)"
    assert entries["iqn"]["verdict"] == "not yet" and entries["iqn"]["evidence"] is None


def test_filters_of_the_list_combine(ask, toy, tmp_path: Path) -> None:
    record(run_method(toy()), tmp_path)

    def slugs(*arguments: str) -> list[str]:
        return [entry["slug"] for entry in json.loads(ask("list", "--json", *arguments).output)]

    assert slugs("--verdict", "holds") == [SLUG]
    assert slugs("--room", "quantization.ranges") == [SLUG, "pre_calibration"]
    assert slugs("--room", "quantization.ranges", "--verdict", "not yet") == ["pre_calibration"]
    assert slugs("--search", "CLIPPING range layer's") == [SLUG]
    assert len(slugs("--room", "quantiles")) == sum(
        e.paper.room.startswith("quantiles.") for e in list_papers(tmp_path)
    )
    assert slugs("--search", "no such words at all") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "--room", "quantisation"), "room 'quantisation' is not in the catalogue"),
        (
            ("list", "--verdict", "great"),
            "verdict must be one of holds, partly, not here, not yet; got 'great'",
        ),
        (("show", "iqnn"), "did you mean iqn"),
        (("run", "iqnn"), "did you mean iqn"),
        (("run", "wise"), "wise has no experiment yet"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(ask, arguments: tuple[str, ...], told: str) -> None:
    refused = ask(*arguments)
    assert refused.exit_code == 2 and told in refused.output and len(refused.output.splitlines()) == 1


def test_damaged_evidence_is_refused_by_name(ask, tmp_path: Path) -> None:
    (tmp_path / f"{SLUG}.json").write_text("{}")
    for arguments in (("list",), ("show", SLUG)):
        refused = ask(*arguments)
        assert refused.exit_code == 2 and "range_estimation.json is not valid" in refused.output


def test_show_puts_the_claim_beside_what_was_measured(ask, toy, tmp_path: Path) -> None:
    assert "not yet" in ask("show", SLUG).output
    record(run_method(toy(error=(0.5, 0.6, 0.95))), tmp_path)
    shown = ask("show", SLUG).output
    for part in (
        "Claimed",
        "partly: 1 of 2 checks",
        "error <= 0.9 * baseline_error",
        "2 of 3",
        "0.5 to 0.95",
    ):
        assert part in shown
    assert json.loads(ask("show", SLUG, "--json").output)["evidence"]["verdict"] == "partly"


def test_a_full_run_writes_evidence_and_plot(ask, install, toy, tmp_path: Path) -> None:
    install(toy())
    done = ask("run", SLUG)
    assert done.exit_code == 0 and "holds" in done.output
    assert {file.name for file in tmp_path.iterdir()} == {f"{SLUG}.json", f"{SLUG}.svg"}


def test_a_quick_run_writes_nothing_and_fails_when_it_contradicts(ask, install, toy, tmp_path: Path) -> None:
    install(toy())
    assert "nothing to compare with" in ask("run", SLUG, "--quick").output
    assert list(tmp_path.iterdir()) == []
    ask("run", SLUG)
    before = (tmp_path / f"{SLUG}.json").read_bytes()
    install(toy(error=(2.0, 2.0, 2.0)))
    told = ask("run", SLUG, "--quick")
    assert told.exit_code == 1 and "contradicts the evidence" in told.output
    assert (tmp_path / f"{SLUG}.json").read_bytes() == before


def test_an_installed_package_is_told_where_to_write_before_it_measures(install, toy, monkeypatch) -> None:
    install(toy())
    monkeypatch.delenv("TERCILE_EVIDENCE", raising=False)
    monkeypatch.setattr("tercile.papers.commands.checkout", lambda: None)
    refused = CliRunner().invoke(app, ["run", SLUG])
    assert refused.exit_code == 2 and "say where the evidence goes: --evidence DIR" in refused.output


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("no model"), 1), (KeyboardInterrupt(), 130)])
def test_a_run_that_breaks_off_keeps_the_old_evidence(
    ask, install, toy, tmp_path: Path, error, status
) -> None:
    install(toy())
    ask("run", SLUG)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def breaks(size: str, seed: int) -> dict[str, Measured | float]:
        raise error

    install(replace(toy(), experiment=breaks))
    told = ask("run", SLUG)
    assert told.exit_code == status and "nothing was written" in told.output
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["list", "show", "run"])
def test_every_command_helps_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0 and f"Example: tercile papers {command}" in shown.output


def test_list_and_show_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tercile.papers.commands import app\n"
        "assert CliRunner().invoke(app, ['list', '--json']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['show', 'iqn']).exit_code == 0\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
