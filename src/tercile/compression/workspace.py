"""What an interrupted run leaves behind, and a later one takes up: one file a finished piece of work.

Every piece is a function of the fingerprint (model, data, settings), so a run that resumes ends with the same bytes as
one that was never disturbed. Another fingerprint starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tercile.arrays import load_arrays, save_arrays
from tercile.files import read_json, write_json


class Workspace:
    """A folder of finished pieces.

    Parameters
    ----------
    folder
        Made if it is missing.
    settings
        Everything that the pieces depend on, as plain JSON values.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        stamp = folder / "fingerprint.json"
        if folder.exists() and not (stamp.is_file() and self._stamped(stamp)):
            if any(folder.iterdir()) and not stamp.is_file():
                raise ValueError(f"{folder} is in the way and was not made by tercile; move it or choose another --out")
            shutil.rmtree(folder)
        self.resumed = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if not self.resumed:
            write_json(stamp, {"fingerprint": self.fingerprint, "settings": dict(settings)})

    def _stamped(self, stamp: Path) -> bool:
        try:
            return bool(read_json(stamp).get("fingerprint") == self.fingerprint)
        except ValueError:
            return False

    def json(self, name: str, make: Callable[[], Any]) -> Any:
        """The value kept under `name`, or else what `make` returns, which is kept from now on."""
        path = self.folder / f"{name}.json"
        if path.is_file():
            return read_json(path)
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
        return value

    def array(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array kept under `name`, or else what `make` returns, which is kept from now on."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            return load_arrays(path)[0]["values"]
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, {"values": value})
        return value

    def remove(self) -> None:
        """Deletes everything that was kept."""
        shutil.rmtree(self.folder)
