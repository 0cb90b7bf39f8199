"""A folder that is written whole or not at all, with the files that belong to every model."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tercile.compression.source import COMPANIONS


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name once everything in it is written.

    Raises
    ------
    ValueError
        If `out` exists.
    """
    if out.exists():
        raise ValueError(f"{out} exists; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield part
        os.chmod(part, 0o755)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_companions(folder: Path, part: Path) -> None:
    """Config, tokenizer and what else came with the original."""
    for name in COMPANIONS:
        if (folder / name).is_file():
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, part / name)
