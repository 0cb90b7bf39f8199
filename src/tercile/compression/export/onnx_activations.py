"""Fixed 8-bit scales for what the layers of an ONNX graph read, found by running data through the model."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tercile.compression.batches import cut
from tercile.compression.source import Source
from tercile.compression.tasks import run
from tercile.files import read_json, write_json
from tercile.filters.data import Example
from tercile.quantization import Scheme
from tercile.quantization.activations import Static, calibrate, observe
from tercile.quantization.families import describe

#: 8 bits with a zero point, one scale a tensor: the one form in which every integer kernel takes activations.
SCHEME = Scheme.parse("int8-tensor-asym-f32")
#: Examples that ranges are found from.
EXAMPLES = 256
#: Beside the model: the examples that had a part in making it, which a certificate may not rest on.
CALIBRATED_ON = "calibrated_on.json"


@dataclass(frozen=True)
class InputRange:
    """How a layer's input is rounded: value = scale * (code - zero), code from 0 to 255."""

    scale: float
    zero: int


def choose_examples(pool: Iterable[Example], without: frozenset[str]) -> tuple[Example, ...]:
    """Some examples of a pool in no order that it had, by the smallest content hash; those in `without` left out.

    Raises
    ------
    ValueError
        If none is left.
    """
    fresh = (example for example in pool if example.digest not in without)
    chosen = tuple(heapq.nsmallest(EXAMPLES, fresh, key=lambda example: example.digest))
    if not chosen:
        raise ValueError("data holds no example that the certificate does not rest on; give others to calibrate with")
    return chosen


def input_ranges(source: Source, examples: tuple[Example, ...]) -> dict[str, InputRange]:
    """The range of what each linear layer and convolution reads, by layer name, as least squares chooses it.

    Parameters
    ----------
    source
        The packed model: later layers are calibrated on what its own earlier ones give.
    examples
        To run it on.

    Notes
    -----
    Costs one run of the model over the examples.
    """
    family = describe(source.module)
    batches = cut(examples, source)
    keep = None if batches[0].keep is None else lambda batch: batch.keep
    with torch.inference_mode():
        seen = observe(source.module, family, batches, forward=run, keep=keep, attention=False)
        made = calibrate(source.module, family, lambda site: SCHEME if site.operand == "input" else None, seen)
    ranges = {}
    for name, quantizer in made.items():
        assert isinstance(quantizer, Static)
        scale, offset = float(quantizer.scale[0]), float(quantizer.offset[0])
        ranges[name] = InputRange(scale or 1.0, round(-offset / scale) if scale else 0)
    return ranges


def save_calibrated_on(folder: Path, examples: Iterable[Example]) -> None:
    """Writes which examples had a part in making the model, by their hashes alone."""
    write_json(folder / CALIBRATED_ON, {"units_sha256": sorted(example.digest for example in examples)})


def load_calibrated_on(files: Mapping[str, Path]) -> frozenset[str]:
    """Hashes of the examples that had a part in making a model, by what lies beside its files."""
    found: set[str] = set()
    for path in {file.parent / CALIBRATED_ON for file in files.values()}:
        if path.is_file():
            read = read_json(path)
            units = read.get("units_sha256") if isinstance(read, dict) else None
            if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
                raise ValueError(f"{path} holds no list of hashes; the file is damaged")
            found |= set(units)
    return frozenset(found)
