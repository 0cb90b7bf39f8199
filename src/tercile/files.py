"""Files written whole or not at all, and named arrays in safetensors."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


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
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no valid JSON ({error}); the file is damaged") from None


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named arrays as safetensors, atomically, in the order of their names.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_arrays(Path(folder, "a.safetensors"), {"x": np.arange(3)}, {"made": "here"})
    ...     load_arrays(Path(folder, "a.safetensors"))
    ({'x': array([0, 1, 2])}, {'made': 'here'})
    """
    kept = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    specs = {
        name: safetensors.TensorSpec(
            dtype=array.dtype.name,
            shape=np.shape(arrays[name]),  # ascontiguousarray makes a scalar one-dimensional
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in kept.items()
    }
    write_atomically(path, bytes(safetensors.serialize(specs, metadata=dict(metadata or {}))))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    Raises
    ------
    ValueError
        If the file is missing, truncated or no safetensors; the message names it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    try:
        tensors = safetensors.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        arrays = {
            name: np.frombuffer(tensor["data"], dtype=_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }
    except KeyError as error:
        raise ValueError(f"{path} holds a tensor of type {error}, which is not supported") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no valid safetensors file ({error}); it is truncated or damaged") from None
    return arrays, dict(header.get("__metadata__", {}))
