"""Products with stored weights: tercile beside ONNX Runtime's MatMulNBits and torch, and the bandwidth, in one run.

    python benchmarks/runtime.py [--threads 1] [--out benchmarks/results] [--guide docs/guide/speed.md]

Each product takes four weights in turn, so that they come from memory rather than from a cache; the shortest of the
repeats counts. ONNX Runtime at accuracy_level 4 rounds activations to 8 bits too, at 0 it does not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--seconds", type=float, default=0.25, help="for each product")
parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
parser.add_argument("--guide", type=Path, default=Path("docs/guide/speed.md"))
ARGS = parser.parse_args()
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TERCILE_THREADS"), str(ARGS.threads))

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tercile import _native  # noqa: E402
from tercile.papers.machine import code_version, describe_machine  # noqa: E402
from tercile.quantization import QTensor, Scheme, packing  # noqa: E402
from tercile.quantization.runtime import PackedMatrix  # noqa: E402

COPIES = 4
CASES = ((4096, 4096, 1), (4096, 11008, 1), (4096, 4096, 64))
SCHEMES = ("int4-g128", "int3-g128", "int2-g128", "int8-g128")


def shortest(run: Callable[[int], object]) -> float:
    """Seconds of the fastest call; each gets the number of the weight that it shall take."""
    best, end, turn = float("inf"), time.perf_counter() + ARGS.seconds, itertools.cycle(range(COPIES))
    for _ in range(COPIES):
        run(next(turn))
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(next(turn))
        best = min(best, time.perf_counter() - start)
    return best


def stored(spelling: str, rows: int, columns: int, seed: int) -> QTensor:
    """Random codes and scales: what they stand for does not matter to the clock."""
    rng, scheme = np.random.default_rng(seed), Scheme.parse(spelling)
    ranges = scheme.ranges(rng.uniform(0.005, 0.015, size=scheme.blocks.count((rows, columns))))
    words = rng.integers(0, 2**32, size=packing.words_shape((rows, columns), scheme.grid), dtype=np.uint32)
    return QTensor(scheme, (rows, columns), words, dict(ranges.arrays))


def onnx_session(rows: int, columns: int, level: int, seed: int) -> onnxruntime.InferenceSession:
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
    options.intra_op_num_threads = ARGS.threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(rows: int, columns: int, m: int) -> list[dict]:
    x = np.random.default_rng(9).normal(size=(m, columns)).astype(np.float32)
    found = []

    def add(name: str, seconds: float, nbytes: int) -> None:
        figures = {
            "us": seconds * 1e6,
            "GB/s": nbytes / seconds / 1e9,
            "GFLOP/s": 2 * m * rows * columns / seconds / 1e9,
        }
        found.append({"shape": f"{rows}x{columns}", "batch": m, "what": name} | figures)

    for spelling, how in [(s, "int8") for s in SCHEMES] + [("int4-g128", "float")]:
        packed = [PackedMatrix.from_qtensor(stored(spelling, rows, columns, i), how) for i in range(COPIES)]
        seconds = shortest(lambda i, packed=packed: packed[i].matmul(x))
        add(f"tercile {spelling}, {how} activations", seconds, packed[0].nbytes)
    for level in (4, 0):
        sessions = [onnx_session(rows, columns, level, i) for i in range(COPIES)]
        seconds = shortest(lambda i, sessions=sessions: sessions[i].run(None, {"x": x}))
        add(f"ONNX Runtime int4 group 128, accuracy_level {level}", seconds, rows * columns * 17 // 32)
    weights, given = [torch.randn(rows, columns) for _ in range(COPIES)], torch.from_numpy(x)
    with torch.inference_mode():
        seconds = shortest(lambda i: torch.nn.functional.linear(given, weights[i]))
    add("torch float32", seconds, rows * columns * 4)
    return found


def main() -> None:
    torch.set_num_threads(ARGS.threads)
    many = np.ones(1 << 25, dtype=np.float32)
    bandwidth = many.nbytes / shortest(lambda _: many.sum()) / 1e9
    table = [row for case in CASES for row in measure(*case)]
    commit, changed = code_version(Path(__file__).resolve().parents[1])
    result = {
        "machine": describe_machine() | {"kernels": _native.packed_kernels(), "onnxruntime": onnxruntime.__version__},
        "commit": commit,
        "changed": changed,
        "threads": ARGS.threads,
        "bandwidth": bandwidth,
        "table": table,
    }
    ARGS.out.mkdir(parents=True, exist_ok=True)
    text = written(result)
    (ARGS.out / "runtime.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (ARGS.out / "runtime.md").write_text(text, encoding="utf-8")
    models = ARGS.out / "runtime_models.md"
    ARGS.guide.write_text(text + (models.read_text(encoding="utf-8") if models.is_file() else ""), encoding="utf-8")
    print(text)


def written(result: dict) -> str:
    lines = [
        "# Speed",
        "",
        f"Written by `benchmarks/runtime.py` at commit {result['commit']}: {result['machine']['cpu']}, "
        f"{result['threads']} thread, {result['machine']['kernels']} kernels, ONNX Runtime "
        f"{result['machine']['onnxruntime']}, torch {result['machine']['torch']}. "
        f"Reading memory (a sum by numpy): {result['bandwidth']:.1f} GB/s. Other work may have run on the machine.",
    ]
    for (shape, m), rows in itertools.groupby(result["table"], key=lambda row: (row["shape"], row["batch"])):
        lines += ["", f"## {shape}, batch {m}", "", "| what | us | GB/s | GFLOP/s |", "| --- | --- | --- | --- |"]
        lines += [f"| {r['what']} | {r['us']:.0f} | {r['GB/s']:.1f} | {r['GFLOP/s']:.1f} |" for r in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
