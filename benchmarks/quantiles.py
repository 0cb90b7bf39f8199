"""Sketches beside their peers, and files beside DuckDB: speed, error and bytes, in one run on one thread.

    python benchmarks/quantiles.py [--values 10000000] [--rows 50000000] [--repeats 5] [--file latency.parquet]

Runs of us and of the peer alternate, and the least processor time of each counts, as other work on the machine
only ever adds to it.
Writes docs/guide/figures/quantiles.json, .md and .svg. Peers: pip install datasketches pytdigest duckdb pyarrow.
Without --file the Parquet file is made in a temporary folder, and removed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from quantiles_file import ASKED, REGIONS, alternate, make_file, tables

from tercile.quantiles.sketch import KLL, DDSketch, KLLColumns, TDigest

SEED = 20261124
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "guide" / "figures"
Q = np.linspace(0.001, 0.999, 999)


def rank_error(found: np.ndarray, ordered: np.ndarray) -> float:
    return float(np.abs(np.searchsorted(ordered, found) / ordered.size - Q).max())


def kll(values: np.ndarray, repeats: int) -> dict[str, Any]:
    """KLL beside that of DataSketches: ten million values at once, in a thousand pieces, and a thousand merged."""
    from datasketches import kll_doubles_sketch

    ordered, seeds = np.sort(values), iter(range(10**6))

    def ours(pieces: int) -> KLL:
        sketch = KLL(200, random_state=next(seeds))
        for piece in np.array_split(values, pieces):
            sketch.update(piece)
        return sketch

    def theirs(pieces: int) -> Any:
        sketch = kll_doubles_sketch(200)
        for piece in np.array_split(values, pieces):
            sketch.update(piece)
        return sketch

    found: dict[str, Any] = {}
    for name, pieces in (("at once", 1), ("in 1,000 pieces", 1000)):
        jobs = {"ours": lambda p=pieces: ours(p), "theirs": lambda p=pieces: theirs(p)}
        times, made = alternate(jobs, repeats)
        found[name] = {
            "ours": {
                "values a second": values.size / times["ours"],
                "largest rank error": [rank_error(s.quantile(Q), ordered) for s in made["ours"]],
                "bytes": max(len(s.to_datasketches()) for s in made["ours"]),
            },
            "theirs": {
                "values a second": values.size / times["theirs"],
                "largest rank error": [rank_error(np.array(s.get_quantiles(Q)), ordered) for s in made["theirs"]],
                "bytes": max(len(s.serialize()) for s in made["theirs"]),
            },
            "ratio": times["theirs"] / times["ours"],
        }
    parts, peers = [], []
    for piece in np.array_split(values, 1000):
        parts.append(KLL(200, random_state=next(seeds)))
        parts[-1].update(piece)
        peers.append(kll_doubles_sketch(200))
        peers[-1].update(piece)

    def merge(total: Any, others: list[Any]) -> Any:
        for other in others:
            total.merge(other)
        return total

    jobs = {
        "ours": lambda: merge(KLL(200, random_state=next(seeds)), parts),
        "theirs": lambda: merge(kll_doubles_sketch(200), peers),
    }
    times, made = alternate(jobs, 4 * repeats)
    found["merge of 1,000"] = {
        "ours": {
            "seconds": times["ours"],
            "largest rank error": [rank_error(s.quantile(Q), ordered) for s in made["ours"]],
        },
        "theirs": {
            "seconds": times["theirs"],
            "largest rank error": [rank_error(np.array(s.get_quantiles(Q)), ordered) for s in made["theirs"]],
        },
        "ratio": times["theirs"] / times["ours"],
    }
    return found


def tails(values: np.ndarray, repeats: int) -> dict[str, Any]:
    """The relative-error sketch beside REQ, and the t-digest beside two others, on lognormal values."""
    from datasketches import req_floats_sketch, tdigest_double
    from pytdigest import TDigest as PyTDigest

    single = values.astype(np.float32)

    def filled(sketch: Any, array: np.ndarray) -> Any:
        sketch.update(array)
        return sketch

    jobs = {
        "DDSketch 1%": lambda: filled(DDSketch(0.01), values),
        "datasketches REQ k=12": lambda: filled(req_floats_sketch(12, True), single),
        "TDigest 200": lambda: filled(TDigest(200), values),
        "pytdigest 200": lambda: PyTDigest.compute(values, compression=200),
        "datasketches t-digest 200": lambda: filled(tdigest_double(200), values),
    }
    times, made = alternate(jobs, repeats)
    last = {name: runs[-1] for name, runs in made.items()}
    ask: dict[str, Callable[[float], float]] = {
        "DDSketch 1%": last["DDSketch 1%"].quantile,
        "datasketches REQ k=12": last["datasketches REQ k=12"].get_quantile,
        "TDigest 200": last["TDigest 200"].quantile,
        "pytdigest 200": last["pytdigest 200"].inverse_cdf,
        "datasketches t-digest 200": last["datasketches t-digest 200"].get_quantile,
    }
    size = {
        "DDSketch 1%": len(last["DDSketch 1%"].to_bytes()),
        "datasketches REQ k=12": len(last["datasketches REQ k=12"].serialize()),
        "TDigest 200": len(last["TDigest 200"].to_bytes()),
        "pytdigest 200": last["pytdigest 200"].get_centroids().nbytes,
        "datasketches t-digest 200": len(last["datasketches t-digest 200"].serialize()),
    }
    ordered = np.sort(values)
    levels = [0.5, 0.99, 0.9999]
    rows: dict[str, Any] = {}
    for name, question in ask.items():
        answers = np.array([float(question(level)) for level in levels])
        exact = np.quantile(ordered, levels, method="inverted_cdf")
        rows[name] = {
            "values a second": values.size / times[name],
            "bytes": size[name],
            "relative error of the value": dict(zip(map(str, levels), np.abs(answers / exact - 1.0).tolist())),
            "rank error": dict(
                zip(map(str, levels), np.abs(np.searchsorted(ordered, answers) / ordered.size - levels).tolist())
            ),
        }
    return {
        "sketches": rows,
        "DDSketch beside REQ": times["datasketches REQ k=12"] / times["DDSketch 1%"],
        "TDigest beside pytdigest": times["pytdigest 200"] / times["TDigest 200"],
        "TDigest beside datasketches": times["datasketches t-digest 200"] / times["TDigest 200"],
    }


def channels(repeats: int) -> dict[str, Any]:
    rows = np.random.default_rng(SEED).standard_normal((4096, 1536), dtype=np.float32)

    def batches(count: int) -> KLLColumns:
        sketch = KLLColumns(rows.shape[1], random_state=0)
        for _ in range(count):
            sketch.update(rows)
        return sketch

    times, made = alternate({"first": lambda: batches(1), "forty": lambda: batches(40)}, max(1, repeats // 2))
    sketch = made["forty"][-1]
    return {
        "first batch of (4096, 1536), seconds": times["first"],
        "mean of 40 batches, seconds": times["forty"] / 40,
        "bytes": sketch.nbytes,
        "error bound": sketch.error_bound,
    }


def text(document: dict[str, Any]) -> str:
    about = document["about"]
    lines = [
        "# Sketches, measured",
        "",
        f"One thread, processor time, the least of {about['repeats']} runs in turn with the peer's. Made by `python "
        f"benchmarks/quantiles.py`; seed {SEED}, commit {about['commit']}, {about['machine']}; {about['peers']}.",
        "",
        f"## KLL beside DataSketches, {about['values']:,} normals, k=200 both",
        "",
        "| | million values a second | ratio | largest rank error of 999, median (worst) | bytes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("at once", "in 1,000 pieces"):
        part = document["kll"][name]
        for side, label in (("ours", "tercile"), ("theirs", "datasketches")):
            row = part[side]
            errors = row["largest rank error"]
            ratio = f"{part['ratio']:.1f}" if side == "ours" else "1"
            lines.append(
                f"| {label}, {name} | {row['values a second'] / 1e6:.0f} | {ratio} | {np.median(errors):.4f} "
                f"({max(errors):.4f}) | {row['bytes']:,} |"
            )
    part = document["kll"]["merge of 1,000"]
    lines += [
        "",
        f"A merge of 1,000 sketches: {1e3 * part['ours']['seconds']:.1f} ms, theirs "
        f"{1e3 * part['theirs']['seconds']:.1f} ms; largest rank error "
        f"{np.median(part['ours']['largest rank error']):.4f}, "
        f"theirs {np.median(part['theirs']['largest rank error']):.4f}.",
        "",
        f"## Tails, {about['tail values']:,} lognormal values",
        "",
        "| | million values a second | bytes | relative error of the 0.5, 0.99, 0.9999-quantile | rank error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in document["tails"]["sketches"].items():
        value = ", ".join(f"{error:.5f}" for error in row["relative error of the value"].values())
        rank = ", ".join(f"{error:.6f}" for error in row["rank error"].values())
        lines.append(f"| {name} | {row['values a second'] / 1e6:.1f} | {row['bytes']:,} | {value} | {rank} |")
    lines += [
        "",
        f"DDSketch is {document['tails']['DDSketch beside REQ']:.1f} times as fast as REQ, TDigest "
        f"{document['tails']['TDigest beside pytdigest']:.1f} times as fast as pytdigest and "
        f"{document['tails']['TDigest beside datasketches']:.1f} times as fast as that of DataSketches.",
        "",
    ]
    if "tables" in document:
        lines += [
            f"## Quantiles {', '.join(map(str, ASKED))} of {about['rows']:,} rows of Parquet in {len(REGIONS)} groups, "
            f"runs: {about['runs of tables']}",
            "",
            "| | seconds of processor time | million rows a second | largest rank error, worst run | mean rank error |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, row in document["tables"].items():
            lines.append(
                f"| {name} | {row['seconds']:.2f} | {row['rows a second'] / 1e6:.1f} | "
                f"{row['largest rank error']:.6f} | {row['mean rank error']:.6f} |"
            )
        lines.append("")
    wide = document["channels"]
    lines += [
        "KLLColumns, batches of (4096, 1536) float32: first "
        f"{1e3 * wide['first batch of (4096, 1536), seconds']:.0f} ms, "
        f"mean of 40 {1e3 * wide['mean of 40 batches, seconds']:.0f} ms; {wide['bytes'] / 1e6:.1f} MB, error bound "
        f"{wide['error bound']:.3f}.",
        "",
    ]
    return "\n".join(lines)


def picture(document: dict[str, Any], path: Path) -> None:
    """Speed to the right, error downwards: each sketch beside its peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in (("at once", "o"), ("in 1,000 pieces", "s")):
        for side, label, color in (("ours", "tercile", "C0"), ("theirs", "datasketches", "C1")):
            row = document["kll"][name][side]
            error = float(np.median(row["largest rank error"]))
            left.scatter(row["values a second"] / 1e6, error, color=color, marker=marker, label=f"{label}, {name}")
            left.annotate(
                f"{row['bytes']:,} bytes", (row["values a second"] / 1e6, error), xytext=(5, 5),
                textcoords="offset points", fontsize=7,
            )  # fmt: skip
    left.set(xscale="log", xlabel="million values a second", ylabel="largest rank error", title="KLL, k=200")
    left.set_ylim(0, left.get_ylim()[1] * 1.1)
    left.set_xlim(right=left.get_xlim()[1] * 2)
    left.legend(fontsize=7)
    if "tables" not in document:
        right.set_axis_off()
    for name, row in document.get("tables", {}).items():
        right.scatter(row["rows a second"] / 1e6, max(row["largest rank error"], 1e-7), label=name)
    right.set_xlim(left=0)
    right.set(yscale="log", xlabel="million rows a second", ylabel="largest rank error")
    right.set_title("grouped quantiles of a Parquet file")
    if "tables" in document:
        right.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.title.set_fontsize(9)
    figure.savefig(path, metadata={"Date": None})


def from_file(file: Path | None, rows: int, repeats: int, accuracies: list[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = file or Path(folder, "latency.parquet")
        if not path.exists():
            make_file(path, rows, SEED)
        return tables(path, max(1, repeats - 2), accuracies)


def peers() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("datasketches", "pytdigest", "duckdb", "pyarrow", "numpy"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares sketches and tables with their peers.")
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--tail-values", type=int, default=2_000_000)
    parser.add_argument("--rows", type=int, default=50_000_000, help="0 leaves the Parquet file out")
    parser.add_argument(
        "--only", nargs="+", help="kll, tails, channels, tables: measure these, keep the others as they are"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--k", type=int, nargs="+", default=[8000, 50_000], help="of the sketches of the file")
    parser.add_argument("--file", type=Path, help="a Parquet file with region and latency, made when it is not there")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    about = {
        "seed": SEED, "commit": shown.stdout.strip(), "repeats": arguments.repeats, "values": arguments.values,
        "tail values": arguments.tail_values, "rows": arguments.rows, "peers": peers(),
        "runs of tables": max(1, arguments.repeats - 2),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }  # fmt: skip
    document: dict[str, Any] = {}
    if arguments.only and (arguments.out / "quantiles.json").exists():
        document = json.loads((arguments.out / "quantiles.json").read_text())
    document["about"] = about
    normals = np.random.default_rng(SEED)
    sections: dict[str, Callable[[], Any]] = {
        "kll": lambda: kll(normals.standard_normal(arguments.values), arguments.repeats),
        "tails": lambda: tails(
            np.random.default_rng(SEED).lognormal(0.0, 1.5, arguments.tail_values), arguments.repeats
        ),
        "channels": lambda: channels(arguments.repeats),
        "tables": lambda: from_file(arguments.file, arguments.rows, arguments.repeats, arguments.k),
    }
    for name, measure in sections.items():
        if name in (arguments.only or sections) and (name != "tables" or arguments.rows):
            document[name] = measure()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quantiles.json").write_text(json.dumps(document, indent=1) + "\n")
    if document.keys() >= {"kll", "tails", "channels"}:
        (arguments.out / "quantiles.md").write_text(text(document))
        picture(document, arguments.out / "quantiles.svg")
        print(text(document))


if __name__ == "__main__":
    main()
