"""Products with stored weights: tercile beside ONNX Runtime, torch and torchao, and the bandwidth, in one run.

    python benchmarks/runtime.py [--threads 1 2] [--out benchmarks/results] [--guide docs/guide/speed.md]

All sides work in turn. A product of one row takes as many weights in turn as make 150 MB, so that they come from memory
rather than from a cache; the bandwidth is that of reading as much, by as many threads. ONNX Runtime's MatMulNBits at
accuracy_level 4 rounds activations to 8 bits too, at 0 it does not.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "2")  # set again before each table

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from tercile import _native
from tercile.papers.machine import code_version, describe_machine
from tercile.quantization import QTensor, Scheme, packing
from tercile.quantization.runtime import PackedMatrix

MEMORY = 150e6
CASES = ((4096, 4096, 1), (4096, 11008, 1), (4096, 4096, 64))
SCHEMES = ("int4-g128", "int3-g128", "int2-g128", "int8-g128")
Sides = dict[str, tuple[list[Callable[[], object]], int]]  # calls that take turns, and the bytes that each reads


def in_turn(sides: Sides, seconds: float, rounds: int = 5) -> dict[str, tuple[float, float]]:
    """Least and middle seconds of a call of each side; every round gives each side its share of the time."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (calls, _bytes) in sides.items():
            turn, end = itertools.cycle(calls), time.perf_counter() + seconds / rounds
            next(turn)()
            while time.perf_counter() < end or not took[name]:
                start = time.perf_counter()
                next(turn)()
                took[name].append(time.perf_counter() - start)
    return {name: (min(times), statistics.median(times)) for name, times in took.items()}


def copies(nbytes: float, m: int) -> int:
    return max(2, min(40, round(MEMORY / nbytes))) if m == 1 else 2


def stored(spelling: str, rows: int, columns: int, seed: int) -> QTensor:
    """Random codes and scales: what they stand for does not matter to the clock."""
    rng, scheme = np.random.default_rng(seed), Scheme.parse(spelling)
    ranges = scheme.ranges(rng.uniform(0.005, 0.015, size=scheme.blocks.count((rows, columns))))
    words = rng.integers(0, 2**32, size=packing.words_shape((rows, columns), scheme.grid), dtype=np.uint32)
    return QTensor(scheme, (rows, columns), words, dict(ranges.arrays))


def onnx_session(rows: int, columns: int, level: int, seed: int, threads: int) -> onnxruntime.InferenceSession:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, size=(rows, columns // 128, 64), dtype=np.uint8)
    scales = rng.uniform(0.005, 0.015, size=rows * columns // 128).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=columns, N=rows, bits=4, block_size=128, accuracy_level=level,
    )  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "product",
        [value("x", TensorProto.FLOAT, ["m", columns])],
        [value("y", TensorProto.FLOAT, ["m", rows])],
        [numpy_helper.from_array(codes, "w"), numpy_helper.from_array(scales, "s")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def sides_of(rows: int, columns: int, m: int, threads: int) -> Sides:
    x = np.random.default_rng(9).normal(size=(m, columns)).astype(np.float32)
    given, sides = torch.from_numpy(x), Sides()
    for spelling, how in [(s, "int8") for s in SCHEMES] + [("int4-g128", "float")]:
        nbytes = round(Scheme.parse(spelling).bits_per_weight((rows, columns)) * rows * columns / 8)
        packed = [PackedMatrix.from_qtensor(stored(spelling, rows, columns, i), how) for i in range(copies(nbytes, m))]
        calls = [functools.partial(matrix.matmul, x) for matrix in packed]
        sides[f"tercile {spelling}, {how} activations"] = calls, nbytes
    nbytes = rows * columns * 17 // 32
    for level in (4, 0):
        made = [onnx_session(rows, columns, level, i, threads) for i in range(copies(nbytes, m) if level else 2)]
        calls = [functools.partial(session.run, None, {"x": x}) for session in made]
        sides[f"ONNX Runtime int4 group 128, accuracy_level {level}"] = calls, nbytes
    layers = [torch.nn.Linear(columns, rows, bias=False) for _ in range(2)]
    sides["torch float32"] = [functools.partial(layer, given) for layer in layers], rows * columns * 4
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

        for name, config in (
            ("torchao int8 weights and activations", Int8DynamicActivationInt8WeightConfig()),
            ("torchao int8 weights", Int8WeightOnlyConfig()),
        ):
            rounded = [copy.deepcopy(layer) for layer in layers]
            for layer in rounded:
                quantize_(layer, config)
            sides[name] = [functools.partial(layer, given) for layer in rounded], rows * columns
    except (ImportError, RuntimeError) as error:
        print(f"torchao is not measured: {error}")
    return sides


def measure(rows: int, columns: int, m: int, threads: int, seconds: float) -> list[dict]:
    os.environ["TERCILE_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    sides = sides_of(rows, columns, m, threads)
    many = np.ones(int(MEMORY), dtype=np.uint8)
    sides["reading memory"] = [functools.partial(_native.read_bytes, many)], many.nbytes
    found = []
    with torch.inference_mode():
        took = in_turn(sides, seconds)
    for name, (best, middle) in took.items():
        figures = {
            "us": best * 1e6,
            "middle us": middle * 1e6,
            "GB/s": sides[name][1] / best / 1e9,
            "middle GB/s": sides[name][1] / middle / 1e9,
            "GFLOP/s": 0.0 if name == "reading memory" else 2 * m * rows * columns / best / 1e9,
        }
        found.append({"shape": f"{rows}x{columns}", "batch": m, "threads": threads, "what": name} | figures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each side of each product")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--guide", type=Path, default=Path("docs/guide/speed.md"))
    asked = parser.parse_args()
    load = [round(value, 1) for value in os.getloadavg()]
    table = [row for case in CASES for n in asked.threads for row in measure(*case, n, asked.seconds)]
    commit, changed = code_version(Path(__file__).resolve().parents[1])
    machine = describe_machine() | {"kernels": _native.packed_kernels(), "onnxruntime": onnxruntime.__version__}
    result = {"machine": machine, "commit": commit, "changed": changed, "load before": load, "table": table}
    asked.out.mkdir(parents=True, exist_ok=True)
    text = written(result)
    (asked.out / "runtime.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (asked.out / "runtime.md").write_text(text, encoding="utf-8")
    models, notes = Path("benchmarks/results/runtime_models.md"), Path(__file__).with_name("speed_notes.md")
    parts = [part.read_text(encoding="utf-8") for part in (notes, models) if part.is_file()]
    asked.guide.write_text("\n".join([text, *parts]), encoding="utf-8")
    print(text)


def written(result: dict) -> str:
    machine = result["machine"]
    lines = [
        "# Speed",
        "",
        f"Written by `benchmarks/runtime.py` at commit {result['commit'][:12]}: {machine['cpu']}, {machine['kernels']} "
        f"kernels, ONNX Runtime {machine['onnxruntime']}, torch {machine['torch']}. All sides in turn; the best call, "
        f"and the middle one. Load of the machine before the run: {result['load before'][0]}.",
    ]
    for (shape, m, threads), group in itertools.groupby(
        result["table"], key=lambda row: (row["shape"], row["batch"], row["threads"])
    ):
        rows = list(group)
        lines += ["", f"## {shape}, batch {m}, {threads} thread{'s' * (threads > 1)}", ""]
        lines += ["| what | us | middle | GB/s | middle | GFLOP/s |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {r['what']} | {r['us']:.0f} | {r['middle us']:.0f} | {r['GB/s']:.1f} | {r['middle GB/s']:.1f} | "
            f"{r['GFLOP/s']:.0f} |"
            for r in rows
        ]
        lines += ["", compared({row["what"]: row for row in rows}, m)]
    return "\n".join(lines) + "\n"


def compared(rows: dict[str, dict], m: int) -> str:
    """What the table says of 4 bits, by the best calls and by the middle ones."""
    name = "tercile {}-g128, int8 activations"

    def times(other: str, us: str) -> float:
        return rows[other][us] / rows[name.format("int4")][us]

    def both(other: str) -> str:
        return f"{times(other, 'us'):.2f} ({times(other, 'middle us'):.2f})"

    level4 = both("ONNX Runtime int4 group 128, accuracy_level 4")
    said = (
        f"4 bits, by the best calls (by the middle ones): {level4} times as fast as ONNX Runtime at accuracy_level 4, "
    )
    said += f"{both('torch float32')} times as fast as torch float32"
    if m == 1:
        ours, memory = rows[name.format("int4")], rows["reading memory"]
        share = ours["GB/s"] / memory["GB/s"], ours["middle GB/s"] / memory["middle GB/s"]
        said += f", {share[0]:.2f} ({share[1]:.2f}) of the bandwidth"
        for bits in (3, 2):
            faster = [1 / times(name.format(f"int{bits}"), us) for us in ("us", "middle us")]
            said += f"; {bits} bits are {faster[0]:.2f} ({faster[1]:.2f}) times as fast"
    return said + "."


if __name__ == "__main__":
    main()
