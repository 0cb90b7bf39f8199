"""The main job from Python: `tercile.compress`, `tercile.load`, `tercile.verify`.

A thin layer over `tercile.compression` that knows the zoo's names.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tercile import compression
from tercile.compression import NotCertified, Settings, Source, Verification
from tercile.compression.batches import cut
from tercile.compression.package import DESCRIPTION
from tercile.compression.source import Prepare, open_source
from tercile.compression.tasks import guess_task, make_task, outputs_of
from tercile.compression.third_party import place_of
from tercile.files import read_json_object
from tercile.filters.data.example import Content, Example
from tercile.zoo import find, list_models

__all__ = [
    "Compressed",
    "Model",
    "NotCertified",
    "Verification",
    "bench",
    "certify",
    "compress",
    "export",
    "load",
    "open_runtime",
    "verify",
]

ZOO = tuple(entry.name for entry in list_models())
ModelSpec = str | os.PathLike[str] | torch.nn.Module
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Model:
    """A model that is ready to be run.

    Attributes
    ----------
    module
        torch module in evaluation mode, float32.
    source
        How inputs are made for it, and where it came from.
    """

    module: torch.nn.Module
    source: Source
    task: str | None = None

    def outputs(self, contents: Sequence[Content]) -> np.ndarray:
        """What the model says of each text or array: embeddings (normalised), logits, or next-token logits; float32."""
        outputs = outputs_of(self.source, self.task or guess_task(self.source))
        examples = [Example(content) for content in contents]
        rows: list[np.ndarray] = [np.empty(0)] * len(examples)
        with torch.inference_mode():
            for batch in cut(examples, self.source):
                for at, row in zip(batch.at, outputs(self.module, batch).float().cpu().numpy()):
                    rows[at] = row
        return np.stack(rows)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Sentence embeddings, float32 (n, d), of unit length."""
        return replace(self, task="embedding").outputs(texts)


@dataclass(frozen=True)
class Compressed:
    """The result of `compress`.

    Attributes
    ----------
    certificate, details
        Contents of certificate.json and details.json.
    folder
        Where everything is.
    """

    certificate: dict[str, Any]
    details: dict[str, Any]
    folder: Path
    builder: ModelSpec | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The small model as a torch module, its weights decoded to float32."""
        return load(self.folder, builder=self.builder).module

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report, one self-contained HTML page."""
        from tercile.compression.report import write

        write(self.folder, Path(path))
        return Path(path)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Copies everything to another folder, which must not exist."""
        target = Path(folder)
        if target.exists():
            raise ValueError(f"{target} exists; choose another folder")
        shutil.copytree(self.folder, target)
        return target


def compress(
    model: ModelSpec,
    data: Any = None,
    *,
    max_loss: float,
    confidence: float = 0.95,
    out: str | os.PathLike[str] | None = None,
    task: str | None = None,
    loss: Any = None,
    quantile: float | None = None,
    seed: int = 0,
    column: str | None = None,
    label_column: str | None = None,
    schemes: Sequence[str] | None = None,
    units: int = 1500,
    to_format: str | None = None,
    prepare: Prepare | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """The smallest model that loses no more than you allow, with a certificate.

    Parameters
    ----------
    model
        A name from `tercile zoo`, a Transformers folder or hub name, `module:function`, or a torch module.
    data
        Examples like those that the model will see: a file, folder or iterable of texts or arrays (anything that
        `tercile.filters.data.read` takes). A zoo model brings a sample, used when data is None.
    max_loss, confidence, quantile
        The promise: with this confidence, the mean loss (or its quantile) is at most max_loss.
    out
        Folder to write; by default a new temporary one.
    task, loss
        What the model is for (embedding, classifier, language-model, custom) and the loss of one unit; guessed by
        default. A loss may be a function (original outputs, small outputs, batch) -> (n,) in [0, 1].
    seed, column, label_column, schemes, units
        Of the split; of the data's fields; on offer for each layer; most units that the certificate rests on.
    to_format
        Use only schemes that this format of another program holds, so that `export` can write it: gguf, onnx or
        compressed-tensors.
    prepare
        For a model of your own: turns a list of contents into its inputs.
    force
        Replace `out` if it exists.
    progress
        Called with (stage, done, total).

    Raises
    ------
    NotCertified
        If not even the safest small model keeps the promise.
    ValueError, TypeError, OSError, MemoryError
        For input that can't be used; nothing is left half-written.

    Examples
    --------
    >>> small = compress("digits-cnn", max_loss=0.03, units=400)  # doctest: +SKIP
    >>> small.certificate["statement"]  # doctest: +SKIP
    """
    offered = None if schemes is None else tuple(schemes)
    settings = Settings(max_loss, confidence, quantile, seed, offered, units, to_format=to_format)
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="tercile-")) / "small"
    if folder.exists() and not force:
        raise ValueError(f"{folder} exists; choose another --out, or replace it with --force")
    source, label, own_task, sample = _open(model, prepare)
    if data is None and sample is None:
        raise ValueError(f"data is missing: {label!r} brings no sample of its own; give --data")
    made = make_task(source, task or own_task, loss)
    outcome = compression.compress(
        source, made, sample if data is None else data, settings, folder,
        label=label, column=column, label_column=label_column, force=force, progress=progress,
    )  # fmt: skip
    return Compressed(outcome.certificate, outcome.details, outcome.folder, None if source.kind == "folder" else model)


def certify(
    original: ModelSpec,
    small: ModelSpec,
    data: Any = None,
    *,
    max_loss: float | None = None,
    confidence: float = 0.95,
    out: str | os.PathLike[str] | None = None,
    task: str | None = None,
    loss: Any = None,
    quantile: float | None = None,
    seed: int = 0,
    column: str | None = None,
    label_column: str | None = None,
    units: int = 1500,
    prepare: Prepare | None = None,
    builder: Any = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """A certificate for a small model that any tool made.

    Parameters
    ----------
    original
        As `model` in `compress`.
    small
        A folder that `compress` wrote (``int8:FOLDER`` runs it with activations of eight bits), a Transformers folder
        (also one quantized by a tool that Transformers loads, such as compressed-tensors), a GGUF or ONNX file,
        `module:function`, or a torch module. It is run as it is, on the inputs that the original's tokenizer makes.
    data
        Examples that played no part in making the small model. A zoo model's own sample is used when data is None.
    max_loss
        The promise to test; by default the least that can be promised is found.
    confidence, quantile, out, task, loss, seed, column, label_column, units, prepare, force, progress
        As in `compress`; `units` is the most examples that are scored.
    builder
        What builds the module of a packed folder that says only `module:function`.

    Returns
    -------
    Compressed: its folder holds the certificate, the examples and what the report shows; the small model stays where
    it is.

    Raises
    ------
    NotCertified
        If `max_loss` can't be promised; the message says what can.
    ValueError, TypeError, OSError
        For input that can't be used; nothing is left half-written.

    Examples
    --------
    >>> made = certify("debian-llama", "debian-llama-q4_0.gguf", units=400)  # doctest: +SKIP
    >>> made.certificate["statement"]  # doctest: +SKIP
    """
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="tercile-")) / "certified"
    source, label, own_task, sample = _open(original, prepare)
    if data is None and sample is None:
        raise ValueError(f"data is missing: {label!r} brings no sample of its own; give --data")
    packed = _packed_folder(small)
    if data is None and packed is not None:
        raise ValueError(
            f"{packed} was made by tercile, as a rule with the sample of {label!r} that would be used now; give fresh "
            "examples with --data, or see the certificate that it came with"
        )
    made = make_task(source, task or own_task, loss)
    opened = compression.open_third_party(small, builder or (None if packed is None else _zoo_builder(packed)))
    outcome = compression.certify(
        source, opened, made, sample if data is None else data, folder,
        max_loss=max_loss, confidence=confidence, quantile=quantile, seed=seed, units=units,
        label=label, column=column, label_column=label_column, force=force, progress=progress,
    )  # fmt: skip
    return Compressed(outcome.certificate, outcome.details, outcome.folder)


def load(folder: ModelSpec, *, builder: Any = None) -> Model:
    """Opens a compressed folder, or an original by the same names that `compress` takes.

    Parameters
    ----------
    folder
        A folder that `compress` wrote, a Transformers folder, or a name from the zoo.
    builder
        For models made by `module:function`: that spec, the function, or a module to fill.

    Examples
    --------
    >>> load("small/").encode(["A sentence."]).shape  # doctest: +SKIP
    (1, 384)
    """
    if not isinstance(folder, torch.nn.Module) and (Path(folder) / DESCRIPTION).is_file():
        source = compression.load_package(Path(folder), builder or _zoo_builder(Path(folder)))
        return Model(source.module, source)
    source, _, task, _ = _open(folder, None)
    return Model(source.module, source, task)


def verify(
    folder: str | os.PathLike[str],
    *,
    original: ModelSpec | None = None,
    loss: Any = None,
    data: Any = None,
    small: ModelSpec | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Recomputes a certificate from the files: hashes, losses of both models, and the bound.

    Parameters
    ----------
    folder
        What `compress` wrote.
    original
        The original model; by default the one that the certificate names, if it is a folder or a name from the zoo.
    loss
        The loss function, if the certificate was made with one of your own.
    data
        The certification units, where the folder does not hold them.
    small
        The small model, for a certificate of `certify` whose model is not where it was.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give the folder that `tercile compress --out` wrote")
    named = compression.certificate.read_certificate(path)["original"]["source"]
    if original is None and named not in ZOO and not Path(named).is_dir():
        raise ValueError(
            f"the original is {named!r}; a file may not choose what code is run, so name it: --original {named}"
        )
    source, _, _, _ = _open(original if original is not None else named, None)
    examples = None
    if data is not None:
        from tercile.filters.data import read

        examples = tuple(read(data))
    builder = None if source.kind == "folder" else (source.spec if source.kind == "builder" else _copy_of(source))
    return compression.verify(path, source, builder=builder, loss=loss, data=examples, small=small, progress=progress)


def export(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str = "float",
    builder: Any = None,
    *,
    activations: str | None = None,
    data: Any = None,
    column: str | None = None,
) -> Path:
    """Writes a compressed folder in the format of another program, which then gives the same answers.

    Parameters
    ----------
    folder
        What `compress` wrote, with `to_format` for all but float.
    out
        Must not exist.
    to
        float (plain safetensors), compressed-tensors (Transformers, vLLM) or onnx (ONNX Runtime): folders; gguf
        (llama.cpp): a file.
    builder
        For onnx, what builds a model that is no Transformers folder, as in `load`.
    activations
        For onnx, int8: what layers read is rounded to 8 bits too, with fixed ranges found from `data`. This is another
        model than the one that was certified, for which `certify` makes a certificate of its own.
    data, column
        Examples to find the ranges from, as in `compress`; by default the sample of the zoo model that the folder was
        made from. Those that the certificate rests on are left out.

    Raises
    ------
    ValueError
        If a layer has a scheme that the format can't hold (the message names the nearest that it can), or `out` exists.
    """
    source, target = Path(folder), Path(out)
    if activations not in (None, "int8") or (activations and to != "onnx"):
        raise ValueError(f"activations can be int8, with to='onnx'; got {activations!r} with to={to!r}")
    if data is not None and activations is None:
        raise ValueError("data is for calibrating activations, and none are to be rounded; add activations='int8'")
    if to == "onnx":
        known = builder or (_zoo_builder(source) if (source / DESCRIPTION).is_file() else None)
        pool = None if activations is None else _pool(source, data, column)
        return compression.export_onnx(source, target, known, pool)
    exporters = {
        "float": compression.export_float,
        "compressed-tensors": compression.export_compressed_tensors,
        "gguf": compression.export_gguf,
    }
    if to not in exporters:
        raise ValueError(f"to must be one of {', '.join([*exporters, 'onnx'])}, got {to!r}")
    return exporters[to](source, target)


def open_runtime(
    folder: str | os.PathLike[str], *, builder: Any = None, activations: str = "float", unfold: bool = False
) -> Model:
    """Opens a compressed folder to run on its packed weights, which are mapped into memory and never expanded.

    Parameters
    ----------
    folder, builder
        As in `load`, which gives a module of plain float32 weights instead.
    activations
        float gives the answers that were certified; int8 rounds what layers read, which is faster.
    unfold
        With int8: layers stored as a trellis are held as a byte a weight, which is faster for single texts.

    Examples
    --------
    >>> open_runtime("small/").encode(["A sentence."]).shape  # doctest: +SKIP
    (1, 384)
    """
    if activations not in ("float", "int8"):
        raise ValueError(f"activations must be float or int8, got {activations!r}")
    path = Path(folder)
    known = builder or (_zoo_builder(path) if (path / DESCRIPTION).is_file() else None)
    way: Literal["float", "int8"] = "int8" if activations == "int8" else "float"
    runtime = compression.open_runtime(path, known, activations=way, unfold=unfold)
    return Model(runtime.module, runtime.source)


def bench(
    folder: str | os.PathLike[str],
    original: ModelSpec | None = None,
    data: Any = None,
    *,
    activations: str | None = None,
    repeats: int = 7,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Times a compressed folder, run packed, beside its original.

    Parameters
    ----------
    folder
        What `compress` wrote.
    original
        The original; by default the one that the certificate names, if that is a folder or of the zoo. Without one the
        small model is timed alone.
    data
        Examples to run on; by default those that the certificate rests on.
    activations
        float or int8; None times both.
    repeats, threads
        Turns, of which the best counts; threads of torch.

    Returns
    -------
    Plain JSON values: `timings` (work, model, rate, seconds, ratio to the original), `models` (stored bytes, seconds to
    open, peak memory), machine, threads and repeats.
    """
    import platform
    import time

    from tercile.compression.benching import compare as compare_sides
    from tercile.compression.benching import peak_memory
    from tercile.compression.units import load_certification

    path = Path(folder)
    if data is None:
        examples = load_certification(path)
    else:
        from tercile.filters.data import read

        examples = tuple(example for example, _ in zip(read(data), range(512), strict=False))
    if original is None and (path / compression.certificate.CERTIFICATE).is_file():
        named = compression.certificate.read_certificate(path)["original"]["source"]
        original = named if named in ZOO or Path(named).is_dir() else None
    ways = ("float", "int8") if activations is None else (activations,)
    opened: dict[str, Callable[[], Source]] = {}
    if original is not None:
        opened["original"] = lambda: _open(original, None)[0]
    for way in ways:
        name = "small" if way == "float" else "small, int8 activations"
        opened[name] = lambda way=way: open_runtime(path, activations=way).source  # type: ignore[misc]
    stored = read_json_object(path / DESCRIPTION)["quantized"].values()
    if "int8" in ways and any(part["scheme"].startswith("trellis") for part in stored):
        opened["small, int8 activations, unfolded"] = lambda: open_runtime(path, activations="int8", unfold=True).source
    torch.set_num_threads(threads)
    models: dict[str, dict[str, Any]] = {}
    sides: dict[str, Source] = {}
    tell = progress or (lambda stage, done, total: None)
    for number, (name, open_one) in enumerate(opened.items()):
        tell("memory", number, len(opened))
        models[name] = {"peak_bytes": peak_memory(open_one, examples)}
    for name, open_one in opened.items():
        start = time.perf_counter()
        source = open_one()
        models[name]["open_seconds"] = time.perf_counter() - start
        stored = (path / "model.safetensors").stat().st_size
        models[name]["nbytes"] = source.nbytes if name == "original" else stored
        sides[name] = replace(source, module=source.module.float())
    timings = compare_sides(sides, examples, repeats=repeats, progress=progress)
    base = {timing.work: timing.rate for timing in timings if timing.side == "original"}
    rows = [
        {
            "work": t.work, "model": t.side, "rate": t.rate, "unit": t.unit, "seconds": min(t.seconds),
            "spread": t.spread, "ratio": t.rate / base[t.work] if t.work in base else None,
        }
        for t in timings
    ]  # fmt: skip
    machine = f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}"
    return {"timings": rows, "models": models, "threads": threads, "repeats": repeats, "machine": machine}


def _pool(folder: Path, data: Any, column: str | None) -> Any:
    """Examples to calibrate with: the user's, or those of the zoo model that a folder was made from."""
    from tercile.filters.data import read

    if data is None:
        made = folder / compression.certificate.CERTIFICATE
        named = compression.certificate.read_certificate(folder)["original"]["source"] if made.is_file() else None
        if named not in ZOO:
            raise ValueError("data is missing: rounding activations takes examples to find their ranges from (--data)")
        data = find(named).sample
    return read(data, column=column)


def _open(model: ModelSpec, prepare: Prepare | None) -> tuple[Source, str, str | None, Path | None]:
    """The source, the name it goes by, its task and its sample, where the zoo knows them."""
    if isinstance(model, str) and model in ZOO:
        entry = find(model)
        return open_source(entry.source, prepare), model, entry.task, entry.sample
    source = open_source(model, prepare)
    return source, source.spec, None, None


def _zoo_builder(folder: Path) -> str | None:
    """The builder that a packed folder names, if it is one of the zoo's own."""
    architecture = read_json_object(folder / DESCRIPTION).get("architecture")
    made = architecture.get("build") if isinstance(architecture, dict) else None
    return made if made in {find(name).card.get("build") for name in ZOO} else None


def _packed_folder(small: ModelSpec) -> Path | None:
    """The folder of a model that tercile packed; None for every other model."""
    path = place_of(small) if isinstance(small, (str, os.PathLike)) else None
    return path if path is not None and (path / DESCRIPTION).is_file() else None


def _copy_of(source: Source) -> torch.nn.Module:
    import copy

    return copy.deepcopy(source.module)
