"""Grouped quantiles of a large Parquet file, beside DuckDB: the part of benchmarks/quantiles.py that reads files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tercile import _native
from tercile.quantiles.tables import quantiles_of_files

REGIONS = ["eu-west", "eu-north", "us-east", "us-west", "ap-south", "ap-east", "sa-east", "af-south"]
SHARES = [0.25, 0.05, 0.3, 0.15, 0.1, 0.1, 0.04, 0.01]
ASKED = [0.1, 0.5, 0.9, 0.99]


def alternate(jobs: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """The least processor time of each job, and what each run gave.

    Time of the process, not of the clock: all runs on one thread and reads from memory, and other work on the machine
    then counts for neither side.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    made: dict[str, list[Any]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.process_time()
            made[name].append(job())
            times[name].append(time.process_time() - start)
    return {name: min(spent) for name, spent in times.items()}, made


def make_file(path: Path, rows: int, seed: int) -> None:
    """Latencies of a service: a lognormal body for each region, and a few time-outs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    schema = pa.schema([("region", pa.dictionary(pa.int8(), pa.string())), ("latency", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 1_000_000):
            size = min(1_000_000, rows - start)
            region = rng.choice(len(REGIONS), size, p=SHARES).astype(np.int8)
            latency = np.exp(rng.normal(3.0 + 0.2 * region, 0.6))
            latency += np.where(rng.random(size) < 0.002, rng.pareto(1.5, size) * 1000, 0)
            names = pa.DictionaryArray.from_arrays(pa.array(region), pa.array(REGIONS))
            table = pa.table([names, pa.array(np.round(latency, 4))], schema=schema)
            writer.write_table(table, row_group_size=1_000_000)


def exact_groups(path: Path) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, read_dictionary=["region"])
    regions = table["region"].combine_chunks()  # every row group has the same dictionary
    regions = regions.chunk(0) if hasattr(regions, "chunks") else regions
    codes = regions.indices.to_numpy().astype(np.int32)
    names = regions.dictionary.to_pylist()
    ordered, starts = _native.partition(table["latency"].to_numpy(), codes, len(names))
    return {name: ordered[starts[i] : starts[i + 1]] for i, name in enumerate(names)}


def table_error(found: dict[str, list[float]], groups: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest and the mean difference between the rank of an answer and the one asked for."""
    errors = []
    for name, answers in found.items():
        for level, answer in zip(ASKED, answers):
            low = np.count_nonzero(groups[name] < answer) / groups[name].size
            high = np.count_nonzero(groups[name] <= answer) / groups[name].size
            errors.append(max(0.0, low - level, level - high))
    return {"largest": max(errors), "mean": float(np.mean(errors))}


def tables(path: Path, repeats: int, accuracies: list[int]) -> dict[str, Any]:
    """Grouped quantiles of a Parquet file beside DuckDB's approximate and exact ones."""
    import duckdb

    database = duckdb.connect()
    database.execute("SET threads = 1")
    database.execute("SET enable_progress_bar = false")
    seeds = iter(range(10**6))

    def ask(function: str) -> dict[str, list[float]]:
        query = f"SELECT region, {function}(latency, {ASKED}) FROM read_parquet('{path}') GROUP BY region"
        return {name: list(map(float, answers)) for name, answers in database.execute(query).fetchall()}

    def ours(**options: Any) -> dict[str, list[float]]:
        table = quantiles_of_files([path], ["latency"], ["region"], threads=1, random_state=next(seeds), **options)
        found: dict[str, list[float]] = {}
        for answer in table.answers(ASKED):
            found.setdefault(str(answer.group[0]), []).append(answer.value)
        return found

    jobs = {
        **{f"tercile, k={k}": lambda k=k: ours(k=k) for k in accuracies},
        "DuckDB approx_quantile": lambda: ask("approx_quantile"),
        "DuckDB quantile_cont": lambda: ask("quantile_cont"),
    }
    times, made = alternate(jobs, repeats)
    groups = exact_groups(path)
    rows = sum(map(len, groups.values()))
    # The worst of all runs counts: a lucky seed is no merit.
    errors = {name: [table_error(found, groups) for found in runs] for name, runs in made.items()}
    return {
        name: {
            "seconds": times[name],
            "rows a second": rows / times[name],
            "largest rank error": max(error["largest"] for error in errors[name]),
            "mean rank error": float(np.mean([error["mean"] for error in errors[name]])),
        }
        for name in jobs
    }
