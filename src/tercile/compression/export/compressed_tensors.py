"""A folder in the compressed-tensors format: Transformers and vLLM load it with that package, codes and all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.arrays import save_arrays
from tercile.compression.export.plain import set_float32
from tercile.compression.export.writing import copy_companions, new_folder
from tercile.compression.package import WEIGHTS, open_packed, read_package
from tercile.quantization.export import find_format, pack_quantized, quantization_args


def export_compressed_tensors(folder: Path, out: Path) -> Path:
    """Writes a packed folder in the pack-quantized layout of compressed-tensors.

    Parameters
    ----------
    folder
        What `tercile compress --for compressed-tensors` wrote, of a Transformers model.
    out
        Must not exist.

    Returns
    -------
    The folder that was written.

    Raises
    ------
    ValueError
        If the model is not one of Transformers', a tensor has a scheme that the format can't hold, or out exists.

    Notes
    -----
    Scales are written as float32, 2 bytes a group more than here, since the loader computes in the scales' type.
    """
    packed = read_package(folder)
    if packed.description["architecture"].get("kind") != "folder":
        raise ValueError(
            f"{folder} holds a model that code builds, and compressed-tensors is for those of Transformers; export it "
            "with --to float or --to onnx"
        )
    form = find_format("compressed-tensors")
    module = open_packed(packed, folder).module
    arrays: dict[str, np.ndarray] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, q in packed.quantized.items():
        form.check(name, q.scheme, q.shape)
        layer = name.removesuffix(".weight")
        if not isinstance(module.get_submodule(layer), torch.nn.Linear):
            raise ValueError(
                f"loaders of compressed-tensors know packed linear layers only, and {layer} is none: compress again "
                "with --for compressed-tensors, which leaves it as it is"
            )
        arrays |= {f"{layer}.{end}": array for end, array in pack_quantized(q).items()}
        args = quantization_args(q)
        group = groups.setdefault(json.dumps(args), {"targets": [], "weights": args, "format": "pack-quantized"})
        group["targets"].append(f"re:^(.*[.])?{re.escape(layer)}$")
    for name, value in packed.plain.items():
        is_float = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
        arrays[name] = value.astype(np.float32) if is_float else value
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups.values())},
        "ignore": [],
    }
    with new_folder(out) as part:
        save_arrays(part / WEIGHTS, arrays, {"format": "pt"})
        copy_companions(folder, part)
        set_float32(part, quantization_config=quantization)
    return out
