from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import tercile
from tercile import api
from tercile.cli import app
from tercile.demo import nearest, search_both, titles
from tercile.terminal import stages

COMMANDS = ["compress", "verify", "report", "export", "demo", "zoo list", "zoo show", "papers list"]


@pytest.fixture
def ask() -> Callable[..., Any]:
    def call(*arguments: str, **environment: str) -> Any:
        environment = {"COLUMNS": "120", "TERCILE_TRACEBACK": "0", **environment}
        return CliRunner().invoke(app, list(arguments), env=environment)

    return call


@pytest.fixture
def compressed(monkeypatch, small_folder, certificate, details) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Put a compression that takes no time where the real one is; what it was called with is noted."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def fake(*arguments: Any, **named: Any) -> api.Compressed:
        calls.append((arguments, named))
        named["progress"]("reading", 6000, 6000)
        named["progress"]("calibrating", 1, 40)
        return api.Compressed(certificate, details, small_folder())

    monkeypatch.setattr(api, "compress", fake)
    return calls


def failing(monkeypatch, name: str, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api, name, fail)


def run(code: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_gives_an_example(command, ask) -> None:
    shown = ask(*command.split(), "--help")
    assert shown.exit_code == 0 and "Example: tercile" in shown.output


def test_help_documents_the_exit_codes(ask) -> None:
    for command in ([], ["compress"], ["verify"], ["report"], ["export"], ["demo"]):
        words = " ".join(ask(*command, "--help").output.split())
        assert "0 done, 1 not certified or not verified, 2 bad input, 130 stopped by Ctrl-C" in words


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tercile.cli import app; sys.argv = ['tercile', 'compress', '--help']\n"
        "try: app()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out, _ = run(code).communicate(timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, so that a busy machine does not count.
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert out.splitlines()[-1] == "[]"
    assert min(took) < 0.5


def test_the_version_is_printed(ask) -> None:
    assert ask("--version").stdout == f"tercile {tercile.__version__}\n"


def test_compress_hands_every_option_on(ask, compressed) -> None:
    asked = ask(
        "compress", "minilm", "--max-loss", "0.02", "--confidence", "0.9", "--out", "there", "--data", "-",
        "--task", "embedding", "--loss", "mine:loss", "--quantile", "0.8", "--seed", "7", "--column", "body",
        "--label-column", "kind", "--schemes", "int8-channel, int4-g64", "--units", "500", "--for", "gguf", "--force",
    )  # fmt: skip
    assert asked.exit_code == 0, asked.stderr
    ((arguments, named),) = compressed
    named.pop("progress")
    assert arguments == ("minilm", "-")
    assert named == {
        "max_loss": 0.02, "confidence": 0.9, "out": Path("there"), "task": "embedding", "loss": "mine:loss",
        "quantile": 0.8, "seed": 7, "column": "body", "label_column": "kind", "units": 500, "force": True,
        "schemes": ("int8-channel", "int4-g64"), "to_format": "gguf",
    }  # fmt: skip


def test_compress_says_what_came_of_it(ask, compressed, certificate, tmp_path) -> None:
    shown = ask("compress", "minilm", "--max-loss", "0.02")
    assert shown.exit_code == 0
    words = " ".join(shown.stdout.replace("│", " ").split())
    for told in (
        certificate["statement"], "5,925 of 6,000 units kept", "near-duplicate 61", "the same content once",
        "90.9 MB before, 6.71 MB after: 13.5 times smaller", "passed, yours", "It stopped at rung 39",
        f"tercile verify {tmp_path}", "report.html",
    ):  # fmt: skip
        assert told in words, told
    assert (tmp_path / "small" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_progress_goes_to_standard_error_and_json_alone_to_standard_output(ask, compressed, certificate) -> None:
    shown = ask("compress", "minilm", "--max-loss", "0.02", "--json")
    told = json.loads(shown.stdout)
    assert told["certified"] is True and told["certificate"] == certificate
    assert shown.stderr.splitlines() == ["reading", "calibrating"]


def test_markup_in_data_is_printed_as_it_is(ask, compressed, details) -> None:
    sample = details["selection"]["samples"]["over-long"][0]
    sample |= {"excerpt": "[bold]x[/bold] [/]", "origin": "[red]a.txt", "detail": "[link=x]"}
    shown = ask("compress", "minilm", "--max-loss", "0.02").stdout
    assert all(told in shown for told in ("[bold]x[/bold] [/]", "[red]a.txt", "[link=x]"))


def test_a_model_that_cannot_be_certified_ends_with_1(ask, monkeypatch) -> None:
    failing(monkeypatch, "compress", api.NotCertified("even the safest size loses 0.31"))
    shown = ask("compress", "minilm", "--max-loss", "0.02")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == "tercile: even the safest size loses 0.31\n"
    as_json = ask("compress", "minilm", "--max-loss", "0.02", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout) == {"certified": False, "reason": "even the safest size loses 0.31"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("max_loss must lie between 0 and 1,\n got 2"),
            "max_loss must lie between 0 and 1, got 2",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "data.txt"),
            "data.txt: no such file or directory",
        ),
        (
            OSError(28, "no room for 5 bytes; free some and run again", "small/x"),
            "small/x: no room for 5 bytes",
        ),
        (MemoryError(), "not enough memory"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            'torch is not installed; run: pip install "te',
        ),
        (RuntimeError("odd"), "unexpected RuntimeError: odd (TERCILE_TRACEBACK=1 shows where)"),
    ],
)
@pytest.mark.parametrize("command", ["compress", "verify", "export"])
def test_an_error_is_one_line_on_standard_error_and_ends_with_2(command, error, line, ask, monkeypatch) -> None:
    failing(monkeypatch, command, error)
    options = {"compress": ["--max-loss", "0.02"], "verify": [], "export": ["--out", "there"]}[command]
    shown = ask(command, "folder", *options, "--json")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"tercile: {line}") and shown.stderr.count("\n") == 1


def test_a_traceback_is_shown_on_request(ask, monkeypatch) -> None:
    failing(monkeypatch, "verify", ValueError("here"))
    shown = ask("verify", "folder", TERCILE_TRACEBACK="1")
    assert isinstance(shown.exception, ValueError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "minilm"],
        ["compress", "minilm", "--max-loss", "much"],
        ["export", "small", "--to", "gguf", "--out", "x"],
        ["squash"],
        ["zoo", "show", "minlm"],
        ["papers", "show", "no_such_method"],
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_understood_ends_with_2(arguments, ask) -> None:
    shown = ask(*arguments)
    assert (shown.exit_code, shown.stdout) == (2, "") and shown.stderr


def test_ctrl_c_ends_with_130_and_says_how_to_go_on() -> None:
    code = (
        "import sys, time\n"
        "from tercile import api\n"
        "def slow(*a, progress, **k): progress('calibrating', 1, 9); time.sleep(60)\n"
        "api.compress = slow\n"
        "from tercile.cli import app\n"
        "sys.argv = ['tercile', 'compress', 'minilm', '--max-loss', '0.02']\n"
        "app()\n"
    )
    process = run(code)
    assert process.stderr is not None and process.stderr.readline() == "calibrating\n"
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "tercile: stopped; the same command goes on from here\n"


@pytest.mark.parametrize("ok", [True, False])
def test_verify_shows_every_check_and_ends_with_its_outcome(ok, ask, monkeypatch, certificate) -> None:
    checks = (
        SimpleNamespace(name="weights", ok=True, detail="as hashed"),
        SimpleNamespace(name="bound", ok=ok, detail="recomputed [0.0192]"),
    )
    asked: list[dict[str, Any]] = []

    def fake(folder: Path, **named: Any) -> SimpleNamespace:
        asked.append({"folder": folder, **named})
        return SimpleNamespace(ok=ok, checks=checks, certificate=certificate)

    monkeypatch.setattr(api, "verify", fake)
    shown = ask("verify", "small", "--original", "model", "--data", "units.jsonl")
    assert shown.exit_code == (0 if ok else 1)
    assert "✓ weights  as hashed" in shown.stdout and "recomputed [0.0192]" in shown.stdout
    assert ("Verified. With 95%" if ok else "1 check fails: do not rely on the certificate") in shown.stdout
    assert (asked[0]["folder"], asked[0]["original"], asked[0]["data"]) == (
        Path("small"),
        "model",
        "units.jsonl",
    )
    as_json = ask("verify", "small", "--json")
    told = json.loads(as_json.stdout)
    assert as_json.exit_code == (0 if ok else 1) and told["ok"] is ok
    assert told["checks"][1] == {"name": "bound", "ok": ok, "detail": "recomputed [0.0192]"}


def test_report_writes_the_page_where_it_is_asked_to(ask, small_folder, tmp_path) -> None:
    folder = small_folder()
    assert ask("report", str(folder)).exit_code == 0
    asked = ask("report", str(folder), "--out", str(tmp_path / "page.html"), "--json")
    assert json.loads(asked.stdout) == {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_bytes() == (folder / "report.html").read_bytes()


def test_a_report_of_no_folder_ends_with_2_and_writes_nothing(ask, tmp_path) -> None:
    shown = ask("report", str(tmp_path / "none"), "--out", str(tmp_path / "page.html"))
    assert shown.exit_code == 2 and "none" in shown.stderr and shown.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_export_says_where_the_model_is(ask, monkeypatch, tmp_path) -> None:
    seen = []

    def export(folder, out, to, **named):
        seen.append((to, named))
        return out

    monkeypatch.setattr(api, "export", export)
    asked = ask("export", "small", "--to", "float", "--out", str(tmp_path), "--json")
    assert json.loads(asked.stdout) == {"format": "float", "out": str(tmp_path)}
    plain = ask("export", "small", "--out", str(tmp_path)).stdout.replace("\n", "")
    assert str(tmp_path) in plain and "certif" not in plain
    rounded = ask(
        "export", "small", "--to", "onnx", "--out", str(tmp_path), "--activations", "int8", "--column", "body"
    )
    assert f"tercile certify ORIGINAL {tmp_path} --data FILE" in rounded.stdout
    assert seen[0] == ("float", {"activations": None, "data": None, "column": None})
    assert seen[2] == ("onnx", {"activations": "int8", "data": None, "column": "body"})


def test_certify_hands_every_option_on_and_ends_with_1_when_nothing_can_be_promised(ask, monkeypatch) -> None:
    seen = []

    def certify(*arguments, **named):
        seen.append((arguments, named))
        raise api.NotCertified("not certified: it loses 0.5")

    monkeypatch.setattr(api, "certify", certify)
    shown = ask(
        "certify", "minilm", "model.gguf", "--data", "-", "--max-loss", "0.1", "--confidence", "0.9", "--out", "there",
        "--task", "embedding", "--loss", "mine:loss", "--quantile", "0.8", "--seed", "7", "--column", "body",
        "--label-column", "kind", "--units", "500", "--force", "--json",
    )  # fmt: skip
    assert shown.exit_code == 1 and json.loads(shown.stdout)["certified"] is False
    ((arguments, named),) = seen
    named.pop("progress")
    assert arguments == ("minilm", "model.gguf", "-")
    assert named == {
        "max_loss": 0.1, "confidence": 0.9, "out": Path("there"), "task": "embedding", "loss": "mine:loss",
        "quantile": 0.8, "seed": 7, "column": "body", "label_column": "kind", "units": 500, "force": True,
    }  # fmt: skip


def test_the_zoo_lists_and_shows_its_models(ask) -> None:
    listed = json.loads(ask("zoo", "list", "--json").stdout)
    shown = ask("zoo", "list").stdout
    assert "minilm" in {entry["name"] for entry in listed}
    for entry in listed:
        assert entry["name"] in shown and f"{entry['weights']:,}" in shown
        card = ask("zoo", "show", entry["name"])
        assert card.exit_code == 0 and entry["task"] in card.stdout
        assert json.loads(ask("zoo", "show", entry["name"], "--json").stdout)["card"]["licence"]


def test_papers_are_mounted(ask) -> None:
    assert len(json.loads(ask("papers", "list", "--json").stdout)) == 166


def test_data_may_be_a_function_in_the_folder_where_the_user_stands(ask, compressed, tmp_path, monkeypatch) -> None:
    (tmp_path / "my_own_data.py").write_text("def units():\n    return ['one', 'two']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    assert ask("compress", "minilm", "--max-loss", "0.02", "--data", "my_own_data:units").exit_code == 0
    assert compressed[0][0] == ("minilm", ["one", "two"])
    missing = ask("compress", "minilm", "--max-loss", "0.02", "--data", "my_own_data:others")
    assert missing.exit_code == 2 and "my_own_data:others" in missing.stderr and len(compressed) == 1


def test_bars_on_a_terminal_show_stage_count_and_end() -> None:
    screen = io.StringIO()
    with stages(Console(file=screen, force_terminal=True, width=100)) as tell:
        for done in range(5):
            tell("reading", done, None)
        for step in (1, 2):
            tell(f"certifying, step {step} of at most 3", 500, 1000)
    last = screen.getvalue()
    assert "reading" in last and "certifying, step 2 of at most 3" in last
    assert "1,000 of 1,000" in last and "4 of 4" in last and "✓" in last


def test_lines_elsewhere_are_one_a_stage_and_plain() -> None:
    stream = io.StringIO()
    with stages(Console(file=stream)) as tell:
        for step in range(1, 4):
            tell("reading [bold]", step, None)
            tell(f"certifying, step {step} of at most 3", 500, 1000)
    assert stream.getvalue().splitlines() == ["reading [bold]", "certifying, step"]


def test_the_nearest_are_those_that_sorting_every_product_finds() -> None:
    random = np.random.default_rng(1)
    queries, others = (random.normal(size=(n, 6)).astype(np.float32) for n in (3, 40))
    for query, found in zip(queries, nearest(queries, others, 7)):
        products = [float(np.dot(query, other)) for other in others]
        assert list(found) == sorted(range(40), key=lambda number: -products[number])[:7]


def test_nearest_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k must be between 1 and 3"):
        nearest(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), 4)


def toy_encoder(noise: float) -> Callable[[Any], np.ndarray]:
    def encode(texts: Any) -> np.ndarray:
        rows = []
        for text in texts:
            random = np.random.default_rng(list(text.encode()))
            row = random.normal(size=16) + noise * random.normal(size=16)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)

    return encode


def test_a_search_by_two_models_counts_what_both_find() -> None:
    same = search_both(toy_encoder(0.0), toy_encoder(0.0))
    assert all(found.overlap == 5 and found.original == found.small for found in same)
    other = search_both(toy_encoder(0.0), toy_encoder(2.0))
    assert all(set(found.small) <= set(titles()) for found in other)
    assert sum(found.overlap for found in other) < 15


def test_the_demo_compresses_once_and_searches_by_both_models(ask, compressed, monkeypatch, small_folder) -> None:
    monkeypatch.setattr(api, "load", lambda spec: SimpleNamespace(encode=toy_encoder(0.0 if spec == "minilm" else 2.0)))
    out = small_folder()
    certificate = (out / "certificate.json").read_bytes()
    (out / "certificate.json").unlink()

    def put(*arguments: Any, **named: Any) -> Any:
        (out / "certificate.json").write_bytes(certificate)
        return fake(*arguments, **named)

    fake = api.compress
    monkeypatch.setattr(api, "compress", put)
    first, second = ask("demo", "--out", str(out)), ask("demo", "--out", str(out), "--json")
    assert first.exit_code == second.exit_code == 0, first.stderr
    assert len(compressed) == 1 and compressed[0][1]["max_loss"] == 0.02
    results = json.loads(second.stdout)["search"]
    shared = sum(len(set(r["original"]) & set(r["small"])) for r in results)
    assert f"{shared} of {5 * len(results)} titles are found by both models" in first.stdout
