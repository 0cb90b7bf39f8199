"""The two files that a report is made of, checked before a word is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CERTIFICATE, DETAILS = "certificate.json", "details.json"

# What the page and the terminal speak about; a file that lacks one of these is not ours.
_PARTS = {
    CERTIFICATE: ("statement loss max_loss confidence method bound risk units walk rung original small seed versions"),
    DETAILS: "model selection used layers ladder losses worst",
}


def read(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the certificate and the details of a folder that `tercile compress` made.

    Parameters
    ----------
    folder
        Holds ``certificate.json`` and ``details.json``.

    Returns
    -------
    tuple of dict
        The certificate and the details, as written.

    Raises
    ------
    ValueError
        The folder or a file is missing, is not what it should be, or comes from a newer version.

    >>> read("nowhere")
    Traceback (most recent call last):
    ValueError: no folder 'nowhere'; give one that `tercile compress --out` made
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"no folder {str(folder)!r}; give one that `tercile compress --out` made")
    return _file(place / CERTIFICATE), _file(place / DETAILS)


def _file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the folder was not made by `tercile compress`") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    expected = f"tercile-{path.stem}"
    if not isinstance(found, dict) or found.get("format") != expected:
        raise ValueError(f"{path} is not a {expected} file")
    if found.get("version") != 1:
        raise ValueError(f"{path} has version {found.get('version')!r}, known is 1; install a newer tercile")
    missing = [part for part in _PARTS[path.name].split() if part not in found]
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}")
    return found
