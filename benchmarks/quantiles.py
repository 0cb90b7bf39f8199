"""KLL beside the `datasketches` package: speed, rank error and bytes, in one run on one thread.

    python benchmarks/quantiles.py [--values 10000000] [--repeats 5]

Writes docs/guide/figures/quantiles.json and .md. The peer is optional (`pip install datasketches`).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tercile.quantiles.sketch import KLL, KLLColumns

SEED = 20261124
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "guide" / "figures"


def seconds(job: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return times


def spread(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "least": min(times), "most": max(times)}


def rank_error(quantiles: np.ndarray, ordered: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(np.searchsorted(ordered, quantiles) / ordered.size - q).max())


def ours(values: np.ndarray, ordered: np.ndarray, q: np.ndarray, k: int, repeats: int) -> dict:
    errors, size = [], 0
    for seed in range(repeats):
        sketch = KLL(k, random_state=seed)
        sketch.update(values)
        errors.append(rank_error(sketch.quantile(q), ordered, q))
        size = len(sketch.to_bytes())
    times = seconds(lambda: KLL(k, random_state=0).update(values), repeats)
    parts = []
    for i, piece in enumerate(np.array_split(values, 1000)):
        parts.append(KLL(k, random_state=i))
        parts[-1].update(piece)

    def merge() -> None:
        total = KLL(k, random_state=0)
        for part in parts:
            total.merge(part)

    return {
        "name": f"tercile KLL k={k}",
        "update": spread(times),
        "error": errors,
        "bytes": size,
        "merge of 1,000": spread(seconds(merge, repeats)),
    }


def peer(values: np.ndarray, ordered: np.ndarray, q: np.ndarray, k: int, repeats: int) -> dict | None:
    try:
        from datasketches import kll_doubles_sketch
    except ImportError:
        return None

    def made() -> object:
        sketch = kll_doubles_sketch(k)
        sketch.update(values)
        return sketch

    errors, size = [], 0
    for _ in range(repeats):
        sketch = made()
        errors.append(rank_error(np.array(sketch.get_quantiles(q)), ordered, q))
        size = len(sketch.serialize())
    parts = []
    for piece in np.array_split(values, 1000):
        parts.append(kll_doubles_sketch(k))
        parts[-1].update(piece)

    def merge() -> None:
        total = kll_doubles_sketch(k)
        for part in parts:
            total.merge(part)

    return {
        "name": f"datasketches KLL k={k}",
        "update": spread(seconds(made, repeats)),
        "error": errors,
        "bytes": size,
        "merge of 1,000": spread(seconds(merge, repeats)),
    }


def channels(repeats: int) -> dict:
    rows = np.random.default_rng(SEED).standard_normal((4096, 1536), dtype=np.float32)

    def batches(count: int) -> KLLColumns:
        sketch = KLLColumns(rows.shape[1], random_state=0)
        for _ in range(count):
            sketch.update(rows)
        return sketch

    first = seconds(lambda: batches(1), repeats)
    forty = seconds(lambda: batches(40), max(1, repeats // 2))
    sketch = batches(40)
    return {
        "first batch of (4096, 1536)": spread(first),
        "mean of 40 batches": {name: value / 40 for name, value in spread(forty).items()},
        "bytes": sketch.nbytes,
        "error bound": sketch.error_bound,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares the sketches with their peers.")
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    values = np.random.default_rng(SEED).standard_normal(arguments.values)
    ordered, q = np.sort(values), np.linspace(0.001, 0.999, 999)
    found = [peer(values, ordered, q, 200, arguments.repeats)]
    found += [ours(values, ordered, q, k, arguments.repeats) for k in (200, 400)]
    rows = [row for row in found if row is not None]
    base = rows[0]
    lines = [
        "| sketch | million values a second (spread) | ratio | largest rank error, median (worst) | bytes | "
        "merge of 1,000 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        speed = [arguments.values / row["update"][name] / 1e6 for name in ("median", "most", "least")]
        ratio = base["update"]["median"] / row["update"]["median"]
        lines.append(
            f"| {row['name']} | {speed[0]:.0f} ({speed[1]:.0f}-{speed[2]:.0f}) | {ratio:.1f} | "
            f"{statistics.median(row['error']):.4f} ({max(row['error']):.4f}) | {row['bytes']} | "
            f"{1e3 * row['merge of 1,000']['median']:.1f} ms |"
        )
    wide = channels(arguments.repeats)
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    about = {"seed": SEED, "commit": shown.stdout.strip(), "machine": machine, "values": arguments.values}
    first, mean = (wide[name]["least"] for name in ("first batch of (4096, 1536)", "mean of 40 batches"))
    text = [
        "# Sketches, measured",
        "",
        f"{arguments.values:,} normals, 999 quantiles, one thread, {arguments.repeats} repeats. Made by "
        f"`python benchmarks/quantiles.py`; seed {SEED}, commit {about['commit']}, {machine}.",
        "",
        *lines,
        "",
        "KLLColumns, batches of (4096, 1536) float32: "
        f"first {1e3 * first:.0f} ms, "
        f"mean of 40 {1e3 * mean:.0f} ms at best; {wide['bytes'] / 1e6:.1f} MB, "
        f"error bound {wide['error bound']:.3f}.",
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = {"about": about, "sketches": rows, "channels": wide}
    (arguments.out / "quantiles.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "quantiles.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
