"""Files that are written whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    Raises
    ------
    OSError
        If the disk is full or the folder can't be written; the old file, if any, is still there and nothing else is.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            said = f"no room for {len(data):,} bytes; free some and run again"
            raise OSError(errno.ENOSPC, said, str(path)) from None
        raise
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes plain JSON, atomically; the same value gives the same bytes."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises
    ------
    ValueError
        If the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers of too many digits, nested too deeply
        raise ValueError(f"{path} is no valid JSON ({error}); the file is damaged") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads JSON that is an object, names and values.

    Raises
    ------
    ValueError
        If the file is missing, is not JSON, or is anything else than an object; the message names it.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} and no JSON object; the file is damaged")
    return value
