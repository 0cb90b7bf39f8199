"""Which papers a change touches: followed from file to file by the imports in the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tercile.papers.evidence import checkout
from tercile.papers.machine import git


def changed_papers(base: str, slugs: Sequence[str]) -> list[str]:
    """Papers whose experiment, its evidence or any module that it imports differs from a revision.

    Those whose own files changed come first. Reads imports from the source; runs nothing.

    Raises
    ------
    ValueError
        There is no checkout, or git does not know the revision.
    """
    root = checkout()
    # From where this branch left `base`, so that what others did there since does not count as a change here.
    fork = git(root, "merge-base", base, "HEAD") or base
    listed = git(root, "diff", "--name-only", fork, "--")
    if root is None or listed is None:
        raise ValueError(f"base {base!r} is not a revision that git can compare with here")
    changed = set(listed.splitlines())
    direct = [s for s in slugs if {f"src/tercile/papers/{s}.py", f"evidence/{s}.json"} & changed]
    source = root / "src"
    touched = {source / path.removeprefix("src/") for path in changed if path.startswith("src/")}
    native = any(path.startswith("native/") or path == "CMakeLists.txt" for path in changed)
    indirect = []
    for slug in slugs:
        needs = dependencies(source / "tercile" / "papers" / f"{slug}.py", source)
        if slug not in direct and (needs & touched or (native and source / "tercile" / "_native" in needs)):
            indirect.append(slug)
    return direct + indirect


def dependencies(module: Path, source: Path) -> frozenset[Path]:
    """Files under `source` that a module imports, directly or through others.

    ``from tercile.room import name`` leads to the file that defines `name`, not to the entire room.
    The compiled module stands as ``tercile/_native``.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [target for target in _imports(file, source) if target not in found]
    return frozenset(found)


@cache
def _imports(file: Path, source: Path) -> tuple[Path, ...]:
    if not file.is_file():
        return ()
    targets: list[Path] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets += [path for alias in node.names if (path := _file_of(alias.name, source))]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            targets += [path for alias in node.names if (path := _origin(node.module, alias.name, source))]
    return tuple(targets)


def _origin(module: str, name: str, source: Path) -> Path | None:
    """The file that defines `name` of a module, looking through a room's re-exports."""
    submodule = _file_of(f"{module}.{name}", source)
    if submodule:
        return submodule
    file = _file_of(module, source)
    if file is None or file.name != "__init__.py":
        return file
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module != module:
                    return _origin(node.module, alias.name, source)
    return file


def _file_of(module: str, source: Path) -> Path | None:
    if not module.startswith("tercile"):
        return None
    path = source.joinpath(*module.split("."))
    if module.endswith("_native"):
        return source / "tercile" / "_native"
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None
