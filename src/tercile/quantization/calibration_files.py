"""Statistics on disk: one safetensors file a block, whole or not there, marked with what it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from tercile.arrays import save_arrays
from tercile.quantization.families import Family
from tercile.quantization.statistics import Statistics

FORMAT = "tercile statistics 1"


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A folder of Statistics that belong to one model and one set of batches.

    Attributes
    ----------
    folder
        Made if it is not there.
    mark
        Fingerprint of what they were made from; files with another are not seen.
    """

    folder: Path
    mark: str

    def has(self, index: int) -> bool:
        """Whether the Statistics of that block are here, readable and of this mark."""
        try:
            with safe_open(self._path(index), framework="numpy") as file:
                return bool(json.loads((file.metadata() or {})[FORMAT])["mark"] == self.mark)
        except (OSError, SafetensorError, KeyError, ValueError):
            return False

    def load(self, index: int) -> dict[str, Statistics]:
        """What `save` wrote, shared objects shared again."""
        with safe_open(self._path(index), framework="numpy") as file:
            readers = json.loads(file.metadata()[FORMAT])["readers"]
            arrays: dict[int, dict[str, np.ndarray]] = {number: {} for number in readers.values()}
            for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                number, _, name = key.partition(".")
                arrays[int(number)][name] = file.get_tensor(key)
        loaded = {number: Statistics.from_arrays(found) for number, found in arrays.items()}
        return {name: loaded[number] for name, number in readers.items()}

    def save(self, index: int, statistics: Mapping[str, Statistics]) -> None:
        """Writes Statistics by layer name; the same ones always give the same bytes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers: dict[int, int] = {}
        readers = {name: numbers.setdefault(id(each), len(numbers)) for name, each in statistics.items()}
        unique = {readers[name]: each for name, each in statistics.items()}
        arrays = {
            f"{number}.{key}": array
            for number, each in unique.items()
            for key, array in each.to_arrays().items()
        }
        save_arrays(self._path(index), arrays, {FORMAT: json.dumps({"mark": self.mark, "readers": readers})})

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:04d}.safetensors"


def fingerprint(
    model: nn.Module, family: Family, sketch: bool, batches: Sequence[Any], masks: Sequence[Any]
) -> str:
    """Hash of all that Statistics are made from: layers, parameters, buffers, batches, masks."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((FORMAT, family, sketch)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        _add(digest, tensor)
    for part in (*batches, *masks):
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(f"{{{key}:".encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for each in value:
            _add(digest, each)
    elif dataclasses.is_dataclass(value):
        digest.update(type(value).__qualname__.encode())
        for part in dataclasses.fields(value):
            _add(digest, getattr(value, part.name))
    elif hasattr(value, "__array_interface__"):  # pictures
        _add(digest, np.asarray(value))
    else:
        # An object without a repr of its own says where it is in memory: then nothing is taken for known.
        digest.update(repr(value).encode())
