"""The entries of benchmarks/quality.py: each makes stored weights of a subject, some from what another entry left."""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.arrays import load_arrays, save_arrays
from tercile.files import write_json
from tercile.quantization import QTensor, Scheme
from tercile.quantization.block_solving import solve_blocks
from tercile.quantization.solvers import bias_correction, coordinate_descent, gptq, round_to_nearest
from tercile.quantization.statistics import Statistics
from tercile.quantization.training import Distillation, Rates, Reconstruction, Student, distil, reconstruct
from tercile.quantization.transforms import emphasis, smooth

#: Everything of ours is stored under this: 6-bit scales and minima under float16 super-scales, 0.25 bits a weight.
SCHEME = "int{}-g64-asym-k6"
#: What the plain GPTQ writes: float16 scales and whole zero points, 0.31 (4 bits) to 0.28 (2 bits) bits a weight.
PLAIN_SCHEME = "int{}-g64-asym"
#: Trellis codes on rotated weights need no groups: a scale a row, 0.01 bits a weight here, leaves 0.25 for the codes.
TRELLIS_SCHEME = "trellis{}.25-channel-rot"


@dataclass(frozen=True)
class Made:
    """What an entry made: stored weights (or decoded ones of a peer) and changed vectors, or a whole model."""

    weights: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    model: nn.Module | None = None
    bits: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """An entry.

    Attributes
    ----------
    what
        In words.
    make
        From the subject, the bits, and what the entry `after` made.
    after
        The entry that it goes on from.
    kept
        Whether another goes on from it.
    peer
        Whether somebody else's code does the work.
    models
        That it is measured on.
    """

    what: str
    make: Callable[[Any, int, Made | None], Made]
    after: str | None = None
    kept: bool = False
    peer: bool = False
    models: tuple[str, ...] = ("minilm", "debian-llama")


def save(path: Path, made: Made) -> None:
    """Keeps what an entry made for the next."""
    arrays = {f"vector:{name}": value for name, value in made.vectors.items()}
    about = {}
    for name, tensor in made.weights.items():
        arrays |= tensor.to_arrays(name)
        about[name] = [tensor.scheme.spelling, list(tensor.shape)]
    save_arrays(path, arrays, {"weights": json.dumps(about)})


def load(path: Path) -> Made:
    """What `save` kept."""
    arrays, about = load_arrays(path)
    weights = {
        name: QTensor.from_arrays(name, Scheme.parse(scheme), tuple(shape), arrays)
        for name, (scheme, shape) in json.loads(about["weights"]).items()
    }
    vectors = {key.removeprefix("vector:"): value for key, value in arrays.items() if key.startswith("vector:")}
    return Made(weights, vectors)


def _weight(model: nn.Module, name: str) -> np.ndarray:
    return model.get_parameter(f"{name}.weight").detach().numpy()


def _each(
    subject: Any, solve: Callable[[np.ndarray, Statistics], Any], model: nn.Module | None = None
) -> dict[str, Any]:
    seen = subject.statistics
    return {name: solve(_weight(model or subject.model, name), seen[name]) for name in subject.names}


def _plain(subject: Any, bits: int, before: Made | None) -> Made:
    from gptq import plain_gptq

    scheme = Scheme.parse(PLAIN_SCHEME.format(bits))
    weights = _each(subject, lambda w, seen: plain_gptq(w, seen, scheme))
    nbytes = sum(scheme.nbytes(w.shape) for w in weights.values())
    return Made(weights, bits=8 * nbytes / sum(w.size for w in weights.values()))


def _nearest(subject: Any, bits: int, before: Made | None) -> Made:
    scheme = Scheme.parse(SCHEME.format(bits))
    return Made(_each(subject, lambda w, seen: round_to_nearest(w, seen, scheme)))


def _gptq(subject: Any, bits: int, before: Made | None) -> Made:
    scheme = Scheme.parse(SCHEME.format(bits))
    return Made(_each(subject, lambda w, seen: gptq(w, seen, scheme)))


def descend(weight: np.ndarray, seen: Statistics, scheme: Scheme) -> QTensor:
    """GPTQ, then two sweeps of coordinate descent."""
    return coordinate_descent(weight, gptq(weight, seen, scheme), seen)


def _descent(subject: Any, bits: int, before: Made | None) -> Made:
    scheme = Scheme.parse(SCHEME.format(bits))
    return Made(_each(subject, lambda w, seen: descend(w, seen, scheme)))


def _smoothed(subject: Any, bits: int, before: Made | None) -> Made:
    """Columns that large inputs read are enlarged where a norm or layer before them can take the factor."""
    scheme = Scheme.parse(SCHEME.format(bits))
    model, seen = copy.deepcopy(subject.model), subject.statistics
    divided = smooth(model, subject.family, seen, 0.25, factors=emphasis).divided
    small = copy.deepcopy(model)
    weights = {}
    for name in subject.names:
        own = seen[name].scaled(1 / divided[name]) if name in divided else seen[name]
        weights[name] = descend(_weight(model, name), own, scheme)
        layer = small.get_submodule(name)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weights[name].dequantize()))
            if layer.bias is not None:
                layer.bias.add_(torch.from_numpy(bias_correction(_weight(model, name), weights[name], own)))
    nbytes = sum(tensor.nbytes for tensor in weights.values())
    return Made(model=small, bits=8 * nbytes / sum(int(np.prod(t.shape)) for t in weights.values()))


def _in_sequence(spelling: str, apart: int | None = None) -> Callable[[Any, int, Made | None], Made]:
    """Each layer solved on what the stored ones before it give, from one batch in so many."""

    def make(subject: Any, bits: int, before: Made | None) -> Made:
        scheme = Scheme.parse(spelling.format(bits))
        solved = solve_blocks(
            subject.model, subject.family, subject.batches[:: apart or subject.apart], forward=subject.forward,
            keep=subject.keep, solve=lambda layer, weight, seen: descend(weight, seen, scheme),
        )  # fmt: skip
        return Made(solved.weights, solved.vectors)

    return make


def _trellis(subject: Any, bits: int, before: Made | None) -> Made:
    scheme = Scheme.parse(TRELLIS_SCHEME.format(bits))
    return Made(_each(subject, lambda w, seen: descend(w, seen, scheme)))


BLOCK_PASSES, WHOLE_PASSES = 1, 1
BLOCK_RATES, WHOLE_RATES = Rates(0.008, 0.001, 0.004, 0.002), Rates(0.004, 0.0005, 0.002, 0.001)


def _taught(subject: Any, bits: int) -> list[Any]:
    """Batches that are trained on: fewer bits have more to win, and are worth more time."""
    batches: list[Any] = subject.batches if bits == 2 else subject.batches[1::2]
    return batches


def _blocks(subject: Any, bits: int, before: Made | None) -> Made:
    assert before is not None
    student = Student(subject.model, subject.family, before.weights, before.vectors)
    settings = Reconstruction(BLOCK_PASSES, BLOCK_RATES)
    with torch.autocast("cpu", torch.bfloat16):
        made = list(
            reconstruct(
                student, subject.model, subject.family, _taught(subject, bits), forward=subject.forward,
                keep=subject.keep, settings=settings,
            )
        )  # fmt: skip
    return Made(student.tensors(), student.vectors(), notes={"blocks": [[m.before, m.after] for m in made]})


def _whole(subject: Any, bits: int, before: Made | None) -> Made:
    assert before is not None
    student = Student(subject.model, subject.family, before.weights, before.vectors)
    settings = Distillation(WHOLE_PASSES, WHOLE_RATES)
    with torch.autocast("cpu", torch.bfloat16):
        made = distil(
            student, subject.model, subject.family, _taught(subject, bits), outputs=subject.outputs,
            losses=subject.losses, keep=subject.keep, settings=settings,
        )  # fmt: skip
    return Made(student.tensors(), student.vectors(), notes={"spared": [made.before, made.after]})


def _peer(method: str) -> Callable[[Any, int, Made | None], Made]:
    """Somebody else's method, run by an interpreter that has it."""

    def make(subject: Any, bits: int, before: Made | None) -> Made:
        python = os.environ.get("TERCILE_PEERS_" + method.upper().replace("-", "_"), sys.executable)
        with tempfile.TemporaryDirectory() as folder:
            texts, out = Path(folder, "texts.json"), Path(folder, "out.safetensors")
            write_json(texts, subject.texts)
            script = Path(__file__).with_name("quality_peer.py")
            begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            done = subprocess.run(
                [python, str(script), method, str(bits), subject.folder, str(texts), str(out)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
            seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun
            arrays, about = load_arrays(out)
        return Made(arrays, bits=float(about["bits"]), notes={"seconds": seconds})

    return make


#: Peers that quantize a Llama on a CPU.
PEERS = {
    "hqq": "HQQ 0.2.8",
    "torchao": "torchao 0.18 IntxWeightOnly, scales by HQQ",
    "llm-compressor": "llm-compressor 0.14 GPTQModifier",
    "gptqmodel": "GPTQModel 7.7",
    "auto-round": "AutoRound 0.16, 200 steps a block",
    "llama-cpp": "llama.cpp (llama-cpp-python 0.3.36), Q4_K_S, Q3_K_S, Q2_K_S with an importance matrix",
}

STEPS: dict[str, Step] = {
    "plain-gptq": Step("plain GPTQ in torch, min-max, columns in order", _plain, peer=True),
    **{name: Step(what, _peer(name), peer=True, models=("debian-llama",)) for name, what in PEERS.items()},
    "nearest": Step("round to nearest, MSE ranges", _nearest),
    "gptq": Step("GPTQ", _gptq),
    "descent": Step("GPTQ, two sweeps of coordinate descent", _descent),
    "smoothed": Step("the same behind smoothing, biases corrected", _smoothed),
    "sequential": Step("in sequence: each layer on what stored ones before it give", _in_sequence(SCHEME), kept=True),
    "trellis": Step("trellis codes on rotated weights, GPTQ, coordinate descent", _trellis),
    "trellis-sequential": Step("the same in sequence, all batches shown", _in_sequence(TRELLIS_SCHEME, 1), kept=True),
    "blocks": Step("in sequence, then block reconstruction", _blocks, after="sequential", kept=True),
    "whole": Step("in sequence, then distilled as a whole", _whole, after="sequential"),
    "both": Step("in sequence, block reconstruction, then distilled as a whole", _whole, after="blocks"),
    "trellis-whole": Step("trellis codes in sequence, then scales and vectors distilled", _whole, "trellis-sequential"),
}
