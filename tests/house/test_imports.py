"""The house stands on one-way imports and a light front door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tercile"
# What stands on what: a room imports from its own level or lower, never from above.
LEVELS = {
    "_native": 0, "files": 0, "arrays": 0, "named": 0, "wording": 0, "drawing": 0,
    "quantiles": 1, "filters": 2, "quantization": 3, "diffusion": 4, "stats": 5,
    "compression": 6, "zoo": 7, "papers": 7, "api": 8, "debugging": 8, "page": 9, "demo": 9, "terminal": 9,
    "commands": 10, "cli": 10, "__main__": 11,
}  # fmt: skip


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, room) of every tercile import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "tercile" else [f"tercile.{alias.name}" for alias in node.names]
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("tercile.")]
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_at_or_below_its_own(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the front door: its imports happen on first use
    upwards = [
        f"line {line}: {target}"
        for line, target in imports_of(path)
        if target in LEVELS and LEVELS[target] > LEVELS[room]
    ]
    assert not upwards, f"{room} imports from above: {upwards}"


def test_every_room_has_a_level() -> None:
    rooms = {p.name.removesuffix(".py") for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} <= LEVELS.keys()


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(m.split('.')[0] for m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


LIGHT = ["tercile", "tercile.quantiles", "tercile.filters.data", "tercile.papers", "tercile.cli"]


@pytest.mark.parametrize("room", LIGHT)
def test_the_light_rooms_load_no_torch(room: str) -> None:
    assert "torch" not in loaded_after(f"import {room}")


def test_importing_tercile_loads_not_even_numpy() -> None:
    assert "numpy" not in loaded_after("import tercile")
