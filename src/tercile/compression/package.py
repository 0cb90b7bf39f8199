"""The packed folder: a compressed model on disk, and back in memory.

    model.safetensors   codes and scales of the quantized weights; every other tensor as it was
    tercile.json        scheme and shape of each quantized weight, and how the module is built
    config.json, ...    what came with the original: config, tokenizer

Opening a folder runs none of it. A model that was made by `module:function` needs that function again, and the caller
has to pass it: a file never chooses what code is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.arrays import load_arrays, map_arrays, save_arrays
from tercile.compression.bank import Stored
from tercile.compression.source import (
    COMPANIONS,
    Prepare,
    Source,
    build,
    learnt,
    preparer,
    stack_arrays,
)
from tercile.compression.transformers_module import empty_transformers_module
from tercile.files import read_json, write_json
from tercile.quantization import QTensor, Scheme

WEIGHTS, DESCRIPTION = "model.safetensors", "tercile.json"
Builder = str | Callable[[], torch.nn.Module | tuple[torch.nn.Module, Prepare]]


def save_package(
    folder: Path, source: Source, quantized: Mapping[str, Stored], vectors: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes a packed folder.

    Parameters
    ----------
    folder
        Must exist.
    source
        The original.
    quantized
        What each layer is stored as, by layer name; other tensors are written as the original stored them.
    vectors
        Values of gains and biases that a repair changed, by parameter name.
    """
    arrays: dict[str, np.ndarray] = {}
    described = {}
    biases = {f"{layer}.bias": one.bias_change for layer, one in quantized.items() if one.bias_change is not None}
    weights = {f"{layer}.weight": stored.weight for layer, stored in quantized.items()}
    state = source.module.state_dict()
    own = learnt(source.module)
    for name, tensor in own.items():
        if name in weights:
            arrays |= weights[name].to_arrays(name)
            described[name] = {"scheme": weights[name].scheme.spelling, "shape": list(weights[name].shape)}
            continue
        value = tensor.detach().cpu()
        if vectors is not None and name in vectors:
            value = torch.from_numpy(vectors[name])
        elif name in biases:
            value = value + torch.from_numpy(biases[name]).to(value.dtype)
        arrays[name] = _to_numpy(value.to(source.dtypes.get(name, value.dtype)))
    place = {(t.data_ptr(), tuple(t.shape)): name for name, t in own.items()}
    tied = {name: place[t.data_ptr(), tuple(t.shape)] for name, t in state.items() if name not in own}
    save_arrays(folder / WEIGHTS, arrays, {"format": "tercile"})
    described_by = {"kind": source.kind, "class": type(source.module).__name__}
    if source.kind == "builder":
        described_by["build"] = source.spec
    write_json(
        folder / DESCRIPTION,
        {
            "format": "tercile-packed",
            "version": 1,
            "architecture": described_by,
            "quantized": described,
            "tied": tied,
        },
    )
    for name in COMPANIONS:
        if source.folder is not None and (source.folder / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.folder / name, folder / name)


def load_package(folder: Path, builder: Builder | torch.nn.Module | None = None) -> Source:
    """Opens a packed folder: a module with the stored weights, decoded to float32, and its `prepare`.

    Parameters
    ----------
    folder
        Written by `save_package`.
    builder
        What builds the module where the folder can't say: `module:function`, a function, or a module, whose weights
        are overwritten.

    Raises
    ------
    ValueError
        If a file is missing or damaged, tensors do not fit the module, or a builder is needed and missing.
    """
    return open_packed(read_package(folder), folder, builder)


def open_packed(packed: Packed, folder: Path, builder: Builder | torch.nn.Module | None = None) -> Source:
    """What `load_package` gives, from a folder that was read already."""
    source = build_empty(packed, folder, builder)
    state = {name: torch.from_numpy(array) for name, array in packed.decoded().items()}
    state |= {alias: state[name] for alias, name in packed.tied.items()}
    # A config may ask for bfloat16; decoded weights are float32 and must not be rounded again.
    source.module.float().load_state_dict(state)
    return replace(source, module=source.module.eval().requires_grad_(False))


def build_empty(packed: Packed, folder: Path, builder: Builder | torch.nn.Module | None = None) -> Source:
    """A module that a folder's tensors fit, names and shapes, before any of them is put there.

    Raises
    ------
    ValueError
        If a builder is needed and missing, or tensors do not fit the module.
    """
    shapes = {name: q.shape for name, q in packed.quantized.items()}
    shapes |= {name: value.shape for name, value in packed.plain.items()}
    for alias, name in packed.tied.items():
        if name not in shapes:
            raise ValueError(f"{folder / DESCRIPTION}: tensor {alias!r} is tied to {name!r}, which is missing")
        shapes[alias] = shapes[name]

    def check(module: torch.nn.Module) -> None:
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        if missing := sorted(expected.keys() - shapes.keys()) or sorted(shapes.keys() - expected.keys()):
            raise ValueError(f"{folder / WEIGHTS} does not fit the module: {missing[0]!r} is on one side only")
        for name, shape in expected.items():
            if tuple(shapes[name]) != shape:
                raise ValueError(f"{folder / WEIGHTS}: {name} is {tuple(shapes[name])}, the module has {shape}")

    made = packed.description["architecture"]
    if made.get("kind") == "folder":
        module = empty_transformers_module(folder, made.get("class"), len(shapes), check)
        prepare, limit = preparer(folder, module)
        return Source(str(folder), "folder", module.eval(), prepare, folder, limit)
    source = _from_builder(folder, made, builder)
    check(source.module)
    return source


@dataclass(frozen=True)
class Packed:
    """What a packed folder holds.

    Attributes
    ----------
    description
        Contents of tercile.json.
    quantized
        By name, the tensors that are stored as codes.
    plain
        By name, all others, in the type they are stored in.
    tied
        By name, tensors that are another one.
    """

    description: Mapping[str, Any]
    quantized: Mapping[str, QTensor]
    plain: Mapping[str, np.ndarray]
    tied: Mapping[str, str]

    def decoded(self) -> dict[str, np.ndarray]:
        """Every tensor as numbers: float32 where it was quantized or bfloat16, else as stored."""
        numbers = {name: q.dequantize() for name, q in self.quantized.items()}
        for name, value in self.plain.items():
            numbers[name] = value.astype(np.float32) if value.dtype.name == "bfloat16" else np.array(value)
        return numbers


def read_package(folder: Path, *, mapped: bool = False) -> Packed:
    """Reads a packed folder without building a model.

    Parameters
    ----------
    folder
        Written by `save_package`.
    mapped
        Leave arrays in the file, as `map_arrays` does.

    Raises
    ------
    ValueError
        If it is no packed folder, of a version that is not known, or a file is missing or damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder that `tercile compress --out` wrote")
    if not (folder / DESCRIPTION).is_file():
        raise ValueError(f"{folder} is no packed model; give the folder that `tercile compress --out` wrote")
    description = read_json(folder / DESCRIPTION)
    if not isinstance(description, dict) or description.get("format") != "tercile-packed":
        raise ValueError(f"{folder / DESCRIPTION} is no description of a packed model")
    if description.get("version") != 1:
        found = description.get("version")
        raise ValueError(f"{folder} is in format version {found}; this tercile reads version 1: update it")
    for part in ("architecture", "quantized", "tied"):
        if not isinstance(description.get(part, {} if part == "tied" else None), dict):
            raise ValueError(f"{folder / DESCRIPTION}: {part!r} is missing or no object; the file is damaged")
    tied = description.get("tied", {})
    if not all(isinstance(name, str) for name in tied.values()):
        raise ValueError(f"{folder / DESCRIPTION}: 'tied' must hold names of tensors; the file is damaged")
    arrays, _ = (map_arrays if mapped else load_arrays)(folder / WEIGHTS)
    quantized: dict[str, QTensor] = {}
    used: set[str] = set()
    for name, about in description["quantized"].items():
        try:
            scheme, shape = Scheme.parse(about["scheme"]), tuple(int(n) for n in about["shape"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{folder / DESCRIPTION}: {name} has no valid scheme and shape ({error})") from None
        try:
            quantized[name] = QTensor.from_arrays(name, scheme, shape, arrays)
        except ValueError as error:
            raise ValueError(f"{folder / WEIGHTS}: {error}") from None
        used |= quantized[name].to_arrays(name).keys()
    return Packed(description, quantized, {name: arrays[name] for name in arrays.keys() - used}, tied)


def _from_builder(folder: Path, made: Mapping[str, Any], builder: Builder | torch.nn.Module | None) -> Source:
    if builder is None:
        named = f" (it was {made['build']!r})" if made.get("build") else ""
        raise ValueError(f"{folder} holds weights only; say what builds the module{named}: builder='module:function'")
    if isinstance(builder, torch.nn.Module):
        module, prepare_own = builder, None
    elif isinstance(builder, str):
        module, prepare_own = build(builder)
    else:
        built = builder()
        module, prepare_own = built if isinstance(built, tuple) else (built, None)
    return Source(str(folder), "builder", module.eval(), prepare_own or stack_arrays)


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.contiguous().numpy()
