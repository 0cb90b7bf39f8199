"""Whole models on packed weights beside what else runs them: MiniLM in batches, the language model against llama.cpp.

    python benchmarks/runtime_models.py [--repeats 7] [--only minilm|llama] [--out benchmarks/results]

One thread, all sides on the same inputs, turn by turn in one run; a side's time is that of its best turn, which was the
least disturbed. Weights that are stored in few bits are rounded to nearest for this: how they were found changes no
kernel. The model of the default recipe is the zoo's own. A peer that is not installed is named with the reason.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TERCILE_THREADS"), "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tercile import zoo
from tercile.api import export
from tercile.compression.reader import reader_of
from tercile.compression.runtime import open_runtime
from tercile.compression.source import open_source
from tercile.compression.third_party import open_third_party

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.compression.packs import pack

#: A side: what it is called, and what it does with the inputs of one piece of work.
Sides = dict[str, Callable[[Any], object]]
BATCHES = (1, 32)
PROMPT, WRITTEN = 256, 64


def in_turn(sides: Sides, work: Any, repeats: int) -> dict[str, dict[str, float]]:
    """Least and middle seconds of each side; every turn lasts a tenth of a second or more."""

    def seconds(run: Callable[[Any], object], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            run(work)
        return (time.perf_counter() - start) / times

    with torch.inference_mode():
        times = {name: max(1, min(50, round(0.1 / seconds(run, 1)))) for name, run in sides.items()}
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(repeats):
            for name, run in sides.items():
                found[name].append(seconds(run, times[name]))
    return {name: {"seconds": min(took), "middle": statistics.median(took)} for name, took in found.items()}


def minilm(folder: Path, repeats: int) -> dict[str, Any]:
    entry = zoo.find("minilm")
    source = open_source(entry.source)
    missing: dict[str, str] = {}
    sides: Sides = {"torch float32": _call(source.module.float())}
    plain = pack(source, folder / "plain", lambda number, layer: None)
    try:
        onnx = export(plain, folder / "onnx", "onnx")
        sides["ONNX Runtime float32"] = _call(open_third_party(onnx).module)
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(onnx / "model.onnx", folder / "dynamic.onnx", weight_type=QuantType.QInt8)
        sides["ONNX Runtime int8 dynamic"] = _call(open_third_party(folder / "dynamic.onnx").module)
    except (ImportError, ValueError) as error:
        missing["ONNX Runtime"] = str(error)
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

        for name, config in (
            ("torchao int8 weights and activations", Int8DynamicActivationInt8WeightConfig()),
            ("torchao int8 weights", Int8WeightOnlyConfig()),
        ):
            module = copy.deepcopy(source.module)
            quantize_(module, config)
            sides[name] = _call(module)
    except (ImportError, RuntimeError) as error:
        missing["torchao"] = str(error)
    sizes = {}
    small = Path(zoo.__file__).parent / "models" / "small-minilm"
    folders = {"tercile, default recipe": small} if (small / "tercile.json").is_file() else {}
    for spelling in ("int8-channel", "int4-g32", "int4-g128"):
        table = "int8-channel" if spelling == "int8-channel" else "int4-g32"
        folders[f"tercile {spelling}"] = pack(
            source, folder / spelling, lambda n, layer, s=spelling, t=table: t if layer.kind == "embedding" else s
        )
    for name, place in folders.items():
        sizes[name] = (place / "model.safetensors").stat().st_size
        for activations in ("float", "int8"):
            runtime = open_runtime(place, activations=activations)
            sides[name if activations == "float" else f"{name}, int8 activations"] = _call(runtime.module)
        if place == small:
            runtime = open_runtime(place, activations="int8", unfold=True)
            sides[f"{name}, int8 activations, unfolded"] = _call(runtime.module)
    start = time.perf_counter()
    open_runtime(next(iter(folders.values())))
    opened = time.perf_counter() - start
    from tercile.filters.data import read

    texts = sorted((e.content for e, _ in zip(read(entry.sample), range(2000), strict=False)), key=len)
    works = {}
    for size in BATCHES:
        start_at = (len(texts) - size) // 2
        batch = source.prepare(texts[start_at : start_at + size])
        works[f"batch of {size}, {batch['input_ids'].shape[1]} tokens"] = in_turn(sides, batch, repeats)
    return {"works": works, "stored_bytes": sizes, "open_seconds": opened, "missing": missing}


def _call(module: torch.nn.Module) -> Callable[[Any], object]:
    module.eval()
    return lambda inputs: module(**inputs)


def llama(folder: Path, repeats: int) -> dict[str, Any]:
    source = open_source(zoo.find("debian-llama").source)
    from tercile.filters.data import read

    ids: list[int] = []
    for example in read(zoo.find("debian-llama").sample):
        ids += source.prepare([example.content])["input_ids"][0].tolist()
        if len(ids) >= PROMPT + WRITTEN:
            break
    reading, writing = {}, {}
    missing: dict[str, str] = {}
    reading["torch float32"], writing["torch float32"] = _own_sides(source.module.float())
    for spelling, kind in (("int8-g32", "Q8_0"), ("int4-g32", "Q4_0"), ("int4-g32-asym-k6", "Q4_K")):
        small = pack(source, folder / spelling, lambda n, layer, s=spelling: s if _fits(s, layer.shape) else "int8-g32")
        for activations in ("float", "int8"):
            runtime = open_runtime(small, activations=activations)
            name = f"tercile {spelling}" + (", int8 activations" if activations == "int8" else "")
            reading[name], writing[name] = _own_sides(runtime.module)
        try:
            import llama_cpp

            path = export(small, folder / f"{kind}.gguf", "gguf")
            model = llama_cpp.Llama(
                str(path), n_ctx=384, n_batch=384, n_ubatch=384, verbose=False, n_threads=1, n_threads_batch=1
            )
            reading[f"llama.cpp {kind}"], writing[f"llama.cpp {kind}"] = _llama_cpp_sides(model)
        except ImportError as error:
            missing["llama.cpp"] = str(error)
    prompt = ids[:PROMPT], ids[PROMPT : PROMPT + WRITTEN]
    return {
        "works": {
            f"read {PROMPT} tokens": in_turn(reading, prompt, repeats),
            f"write {WRITTEN} tokens": in_turn(writing, (prompt[0][:32], prompt[1]), repeats),
        },
        "missing": missing,
    }


def _fits(spelling: str, shape: tuple[int, ...]) -> bool:
    from tercile.quantization import Scheme
    from tercile.quantization.export import block_type

    return block_type(Scheme.parse(spelling), shape) is not None


def _own_sides(module: Any) -> tuple[Callable[[Any], object], Callable[[Any], object]]:
    """Reading a prompt, and reading a short one with the tokens that follow one by one."""

    def read(prompt: Any) -> None:
        reader_of(module).read(prompt[0])

    def write(prompt: Any) -> None:
        reader = reader_of(module)
        reader.read(prompt[0])
        for token in prompt[1]:
            reader.read([token])

    return read, write


def _llama_cpp_sides(model: Any) -> tuple[Callable[[Any], object], Callable[[Any], object]]:
    def read(prompt: Any) -> None:
        model.reset()
        model.eval(prompt[0])

    def write(prompt: Any) -> None:
        read(prompt)
        for token in prompt[1]:
            model.eval([token])

    return read, write


def table(made: dict[str, Any]) -> str:
    lines = [
        "# Whole models on packed weights",
        "",
        f"One thread of {made['machine']}; the best of {made['repeats']} turns, all sides in turn in one run. "
        "Made by `python benchmarks/runtime_models.py`.",
        "",
    ]
    for model, part in made["models"].items():
        for work, sides in part["works"].items():
            base = sides["torch float32"]["seconds"]
            lines += [f"## {model}: {work}", "", "| | milliseconds | a second | to torch float32 | middle / best |"]
            lines += ["| --- | ---: | ---: | ---: | ---: |"]
            count = int(work.split()[1] if work[0] in "rw" else work.split()[2].rstrip(","))
            for name, took in sides.items():
                lines.append(
                    f"| {name} | {1000 * took['seconds']:.2f} | {count / took['seconds']:,.0f} | "
                    f"{base / took['seconds']:.2f}x | {took['middle'] / took['seconds']:.2f} |"
                )
            lines.append("")
        if "open_seconds" in part:
            lines += [f"Opening the default recipe's folder takes {1000 * part['open_seconds']:.0f} ms.", ""]
        lines += [f"Not measured: {name} ({why})." for name, why in part["missing"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _room(room: str, name: str) -> Path:
    made = Path(room) / name
    made.mkdir()
    return made


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    has = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags]
    return f"{name} ({', '.join(has)})" if has else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("minilm", "llama"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    made: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "repeats": asked.repeats, "models": {}}
    with tempfile.TemporaryDirectory() as room:
        if asked.only != "llama":
            made["models"]["MiniLM"] = minilm(_room(room, "minilm"), asked.repeats)
        if asked.only != "minilm":
            made["models"]["The zoo's language model"] = llama(_room(room, "llama"), asked.repeats)
    print(table(made))
    if asked.only is None:
        (asked.out / "runtime_models.json").write_text(json.dumps(made, indent=1) + "\n")
        (asked.out / "runtime_models.md").write_text(table(made))


if __name__ == "__main__":
    main()
