"""Where a method lives in the code: read from its experiment's imports, nothing is run."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import resources

#: Rooms whose parts are the method itself; what an experiment takes from elsewhere is its surroundings.
ROOMS = ("quantiles", "filters", "quantization", "diffusion", "stats", "compression")


@dataclass(frozen=True)
class Part:
    """Something that an experiment uses.

    Parameters
    ----------
    module
        Such as ``tercile.quantization.solvers``.
    names
        What it takes from there.
    """

    module: str
    names: tuple[str, ...]


def experiment_path(slug: str) -> str | None:
    """Path in the repository of a method's experiment, if there is one.

    >>> experiment_path("gpfq"), experiment_path("nothing")
    ('src/tercile/papers/gpfq.py', None)
    """
    found = resources.files("tercile.papers").joinpath(f"{slug}.py")
    return f"src/tercile/papers/{slug}.py" if slug.isidentifier() and found.is_file() else None


@cache
def parts_of(slug: str) -> tuple[Part, ...]:
    """What a method's experiment takes from the rooms of tercile, in order.

    >>> [part.names for part in parts_of("gpfq") if part.module == "tercile.quantization.cross_moment"]
    [('CrossMoment',)]
    """
    if experiment_path(slug) is None:
        return ()
    text = resources.files("tercile.papers").joinpath(f"{slug}.py").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tercile."):
            room = node.module.split(".")[1]
            if room in ROOMS:
                found.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return tuple(Part(module, tuple(dict.fromkeys(found[module]))) for module in sorted(found))
