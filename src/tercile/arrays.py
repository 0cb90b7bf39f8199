"""Named arrays in safetensors, of every type that tercile stores, bfloat16 among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from tercile.files import write_atomically

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


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
        header = _header(data)
        arrays = {
            name: np.frombuffer(tensor["data"], dtype=_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }
    except KeyError as error:
        raise ValueError(f"{path} holds a tensor of type {error}, which is not supported") from None
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid safetensors file ({error}); it is truncated or damaged") from None
    return arrays, dict(header.get("__metadata__", {}))


def map_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `load_arrays`, but the arrays lie in the file: a page is read when something on it is, and can be let go.

    They can't be written to. The file must not change as long as they are used.

    Raises
    ------
    ValueError
        As `load_arrays`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_arrays(Path(folder, "a.safetensors"), {"x": np.arange(3)})
    ...     map_arrays(Path(folder, "a.safetensors"))
    ({'x': array([0, 1, 2])}, {})
    """
    try:
        with safetensors.safe_open(path, framework="np"):  # checks sizes, offsets and types against the file
            pass
        data = np.memmap(path, dtype=np.uint8, mode="r")
        header = _header(data)
        start, metadata = 8 + int.from_bytes(data[:8].tobytes(), "little"), header.pop("__metadata__", {})
        arrays = {}
        for name, about in header.items():
            first, last = about["data_offsets"]
            array = np.frombuffer(data[start + first : start + last], dtype=np.uint8).view(_DTYPES[about["dtype"]])
            arrays[name] = np.require(array.reshape(about["shape"]), requirements="A")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except KeyError as error:
        raise ValueError(f"{path} holds a tensor of type {error}, which is not supported") from None
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid safetensors file ({error}); it is truncated or damaged") from None
    return arrays, dict(metadata)


def _header(data: bytes | np.ndarray) -> dict[str, Any]:
    size = int.from_bytes(bytes(data[:8]), "little")
    found: dict[str, Any] = json.loads(bytes(data[8 : 8 + size]))
    return found
