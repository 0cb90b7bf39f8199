"""A plain folder of float weights: what any runtime opens that knows nothing of tercile."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercile.arrays import save_arrays
from tercile.compression.export.writing import copy_companions, new_folder
from tercile.compression.package import WEIGHTS, read_package
from tercile.files import read_json, write_json


def export_float(folder: Path, out: Path) -> Path:
    """Writes the decoded weights of a packed folder as float32 safetensors, with its config and tokenizer.

    Parameters
    ----------
    folder
        What `tercile compress` wrote.
    out
        Must not exist.

    Returns
    -------
    The folder that was written: `transformers` opens it with `from_pretrained` where the original was one of theirs.

    Raises
    ------
    ValueError
        If out exists, or the packed folder is damaged.
    """
    tensors = {
        name: value.astype(np.float32) if value.dtype.kind == "f" else value
        for name, value in read_package(folder).decoded().items()
    }
    with new_folder(out) as part:
        save_arrays(part / WEIGHTS, tensors, {"format": "pt"})
        copy_companions(folder, part)
        if (part / "config.json").is_file():
            set_float32(part)
    return out


def set_float32(folder: Path, **more: object) -> None:
    """Lets a folder's config ask for float32, and for whatever else is given."""
    config = read_json(folder / "config.json")
    types = {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
    write_json(folder / "config.json", config | types | more)
