"""A plain folder of float weights: what any runtime opens that knows nothing of tercile."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from tercile.arrays import save_arrays
from tercile.compression.package import DESCRIPTION, WEIGHTS, decoded
from tercile.compression.source import COMPANIONS
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
    if out.exists():
        raise ValueError(f"{out} exists; choose another folder")
    description = read_json(folder / DESCRIPTION)
    if not isinstance(description, dict) or description.get("format") != "tercile-packed":
        raise ValueError(f"{folder} is no packed model; give the folder that `tercile compress --out` wrote")
    tensors = decoded(folder, description)
    tensors = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in tensors.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        save_arrays(part / WEIGHTS, tensors, {"format": "pt"})
        for name in COMPANIONS:
            if (folder / name).is_file():
                (part / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, part / name)
        if (part / "config.json").is_file():
            config = read_json(part / "config.json")
            types = {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
            write_json(part / "config.json", config | types)
        os.chmod(part, 0o755)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out
