"""A packed folder that runs as it is stored: mapped into memory, its weights multiplied by packed kernels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tercile.compression.package import Builder, build_empty, read_package
from tercile.compression.source import Source
from tercile.quantization.runtime.encoder import join_encoder_blocks
from tercile.quantization.runtime.matrix import Activations
from tercile.quantization.runtime.modules import use_packed


@dataclass(frozen=True)
class Runtime:
    """A model ready to be run on its packed weights.

    Attributes
    ----------
    source
        The module, and how its inputs are made.
    packed, decoded
        Names of the weights that run packed, and of those whose layers have no packed form (they are decoded).
    nbytes
        Of all tensors as they are stored.
    """

    source: Source
    packed: tuple[str, ...]
    decoded: tuple[str, ...]
    nbytes: int

    @property
    def module(self) -> torch.nn.Module:
        """The torch module, in evaluation mode."""
        return self.source.module


def open_runtime(
    folder: str | os.PathLike[str],
    builder: Builder | torch.nn.Module | None = None,
    *,
    activations: Activations = "float",
    unfold: bool = False,
) -> Runtime:
    """Opens a packed folder to be run, not to be looked at: nothing is decoded but what a layer needs when it needs it.

    Parameters
    ----------
    folder
        Written by `tercile compress`.
    builder
        As in `load_package`, for models that only code can build.
    activations
        How packed layers treat what they read: ``float`` gives the answers that were certified, to rounding; ``int8``
        rounds each token to 8 bits first, which is faster and is another model than the certified one (`certify` with
        ``int8:FOLDER`` gives it a certificate of its own).
    unfold
        Of ``int8``: layers stored as a trellis are held in memory as a byte a weight. The same answers, in a third of
        the time for single texts.

    Raises
    ------
    ValueError
        As `load_package`, or if `unfold` is given without ``int8``.

    Notes
    -----
    Costs one pass over the scales, not the codes: a model of 23 million weights opens in a tenth of a second. Memory is
    that of the stored weights, shared by all processes that open the same file.

    Examples
    --------
    >>> open_runtime("small/").module  # doctest: +SKIP
    """
    if unfold and activations != "int8":
        raise ValueError("unfold is for activations='int8' alone; leave it out")
    path = Path(folder)
    packed = read_package(path, mapped=True)
    source = build_empty(packed, path, builder)
    module = source.module.float().eval().requires_grad_(False)
    plain = {name: _shared(value) for name, value in packed.plain.items()}
    plain |= {alias: plain[name] for alias, name in packed.tied.items() if name in plain}
    module.load_state_dict(plain, strict=False, assign=True)
    running, decoded = [], {}
    for name, q in packed.quantized.items():
        try:
            module = use_packed(module, {name: q}, activations, unfold=unfold)
            running.append(name)
        except ValueError:  # its layer is of a kind that has no packed form
            decoded[name] = torch.from_numpy(q.dequantize())
    decoded |= {alias: decoded[name] for alias, name in packed.tied.items() if name in decoded}
    _put(module, decoded)
    join_encoder_blocks(module)
    nbytes = sum(q.nbytes for q in packed.quantized.values()) + sum(value.nbytes for value in packed.plain.values())
    made = Source(source.spec, source.kind, module, source.prepare, source.folder, source.max_tokens)
    return Runtime(made, tuple(running), tuple(name for name in decoded if name in packed.quantized), nbytes)


def _put(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            module.get_parameter(name).data = tensor


def _shared(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory, or float32 made of 16 bits."""
    if (array.dtype.kind == "f" and array.dtype != np.float64) or array.dtype.name == "bfloat16":
        array = array.astype(np.float32, copy=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is mapped to be read, and nothing here writes
        return torch.from_numpy(array)
