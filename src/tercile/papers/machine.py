"""Where and from which code a number came: enough to judge it, nothing that identifies a host or a person."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("tercile", "numpy", "scipy", "torch", "transformers")
CODE = ("src", "native", "pyproject.toml", "CMakeLists.txt")


def describe_machine() -> dict[str, str | int | float | None]:
    """Processor, cores, memory in GiB, system, Python and package versions. No host name, user or path.

    >>> "cores" in describe_machine() and "hostname" not in describe_machine()
    True
    """
    described: dict[str, str | int | float | None] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            described[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            described[name] = None
    return described


def code_version(checkout: Path | None) -> tuple[str | None, bool | None]:
    """Commit of a checkout, and whether its code differs from it; (None, None) outside of one."""
    commit = git(checkout, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changed = git(checkout, "status", "--porcelain", "--", *CODE)
    return commit, bool(changed)


def git(checkout: Path | None, *arguments: str) -> str | None:
    """What git prints for a checkout, or None where there is no checkout, no git or an error."""
    if checkout is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
