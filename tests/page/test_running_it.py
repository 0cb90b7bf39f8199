"""The page as somebody runs it: from the command line, with no configuration at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.page.conftest import free_port

from tercile.page.database import NAME, Database

COMMAND = [sys.executable, "-m", "tercile.cli", "page"]


def run(home: Path, *given: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TERCILE_")}
    return subprocess.run(
        [*COMMAND, *given], env=environment | {"XDG_DATA_HOME": str(home)}, capture_output=True, text=True, timeout=120
    )


def test_it_starts_without_configuration_answers_logs_json_and_ends_when_told(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TERCILE_")}
    port = free_port()
    page = subprocess.Popen(
        [*COMMAND, "serve", "--port", str(port)], env=environment | {"XDG_DATA_HOME": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert page.stdout is not None
        assert page.stdout.readline() == f"tercile page  http://127.0.0.1:{port}  (Ctrl-C stops it)\n"
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    told = json.load(answer)
                break
            except OSError:
                time.sleep(0.1)
        assert told["status"] == "ok" and told["methods"] == 166
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b'tercile_page_requests_total{method="GET",route="/health",status="200"}' in answer.read()
        assert (tmp_path / "tercile" / NAME).is_file()
        page.send_signal(signal.SIGINT)
        _, said = page.communicate(timeout=30)
    finally:
        page.kill()
    assert page.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert {"/health", "/metrics"} <= {line.get("route") for line in lines}
    assert all(line["time"] and line["level"] for line in lines)


def test_backup_restore_and_check_are_one_command_each(tmp_path: Path) -> None:
    database = Database(tmp_path / "tercile" / NAME)
    with database.transaction() as rows:
        rows.execute("INSERT INTO papers (key, title, added, changed) VALUES ('k', 'kept', 'now', 'now')")
    copy = tmp_path / "copy.sqlite3"
    assert run(tmp_path, "backup", str(copy)).returncode == 0 and copy.is_file()
    with database.transaction() as rows:
        rows.execute("DELETE FROM papers")
    database.close()
    assert run(tmp_path, "restore", str(copy)).returncode == 0
    restored = Database(tmp_path / "tercile" / NAME)
    assert [row["title"] for row in restored.connection().execute("SELECT title FROM papers")] == ["kept"]
    restored.close()
    checked = run(tmp_path, "check")
    assert checked.returncode == 0 and "166 methods measured" in checked.stdout
    (tmp_path / "tercile" / NAME).write_bytes(b"no database" * 1000)
    broken = run(tmp_path, "check")
    assert broken.returncode == 1 and "wrong database" in broken.stdout
    refused = run(tmp_path, "serve", "--port", "0")
    assert refused.returncode != 0 and "can't be used as the page's database" in refused.stderr
    assert "Traceback" not in refused.stderr
