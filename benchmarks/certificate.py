"""Does the promise hold, and how wide are the bounds? A simulation with the true risk known.

    python benchmarks/certificate.py [--quick]

For every mean loss, number of units and shape of the loss, ladders of 20 rungs are walked 2,000 times:

- "at the edge": every rung's true mean is exactly the promised one, so certifying any is a violation;
- "beyond": every rung's true mean is 5% above it;
- "crossing": rungs on the same units with means rising evenly, the eleventh being the first to break the
  promise, by the least amount there is; the walk stops where it fails, or counts as a violation there.

Writes docs/guide/figures/certificate.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import special, stats

from tercile.quantiles import upper_bound
from tercile.quantiles.certificate.betting import log_capital

SEED = 20261124
LEVEL = 0.05
MEANS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2)
UNITS = (50, 200, 1000, 5000)
RUNGS = 20
FIRST_BROKEN = 10
CHUNK = 500
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "guide" / "figures"
Draw = Callable[[float, tuple[int, int], np.random.Generator], np.ndarray]


def coin(mean: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return (rng.random(size) < mean).astype(np.float64)


def skewed(mean: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.beta(0.3, 0.3 * (1 - mean) / mean, size)


def rare_big(mean: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    rare = mean / 10
    return np.where(rng.random(size) < rare, 1.0, (mean - rare) / (1 - rare))


def uniform(mean: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.random(size) * (2 * mean)


def atoms(mean: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Ties at both ends and between: half of the mean comes from losses of 1, half from small equal ones."""
    u = rng.random(size)
    return np.where(u < mean / 2, 1.0, np.where(u < 0.5 + mean / 2, mean, 0.0))


SHAPES: dict[str, Draw] = {
    "coin": coin,
    "skewed": skewed,
    "rare big": rare_big,
    "uniform": uniform,
    "atoms": atoms,
}


def hoeffding_bentkus(losses: np.ndarray, alpha: float) -> np.ndarray:
    n, mean = losses.shape[1], losses.mean(axis=1)
    low = np.minimum(mean, alpha)
    chernoff = np.exp(-n * (special.rel_entr(low, alpha) + special.rel_entr(1 - low, 1 - alpha)))
    return np.minimum(chernoff, math.e * special.bdtr(np.ceil(n * mean - 1e-9), n, alpha))


def empirical_bernstein(losses: np.ndarray, alpha: float) -> np.ndarray:
    n, mean = losses.shape[1], losses.mean(axis=1)
    log_term = math.log(2 / LEVEL)
    bound = mean + np.sqrt(2 * losses.var(axis=1, ddof=1) * log_term / n) + 7 * log_term / (3 * (n - 1))
    return np.where(bound <= alpha, LEVEL, 1.0)


def betting(losses: np.ndarray, alpha: float) -> np.ndarray:
    return np.exp(-log_capital(losses, np.full(losses.shape[0], alpha), LEVEL))


def binomial(losses: np.ndarray, alpha: float) -> np.ndarray:
    return special.bdtr(losses.sum(axis=1), losses.shape[1], alpha)


METHODS = {
    "betting": betting,
    "hoeffding-bentkus": hoeffding_bentkus,
    "empirical-bernstein": empirical_bernstein,
    "binomial": binomial,
}


def violations(shape: str, alpha: float, n: int, repetitions: int, seed: int) -> dict[str, dict[str, int]]:
    """For each method and ladder: how many walks certified a rung whose true risk breaks the promise."""
    names = [m for m in METHODS if m != "binomial" or shape == "coin"]
    found = {m: {"at the edge": 0, "beyond": 0, "crossing": 0} for m in names}
    rng = np.random.default_rng(seed)
    for first in range(0, repetitions, CHUNK):
        size = (min(CHUNK, repetitions - first), n)
        # The walk must get past its first rung to see any other: the first alone decides these two ladders.
        for ladder, mean in (("at the edge", alpha), ("beyond", alpha * 1.05)):
            losses = SHAPES[shape](mean, size, rng)
            for m in names:
                found[m][ladder] += int((METHODS[m](losses, alpha) <= LEVEL).sum())
        shares = np.linspace(0.1, 1.0, FIRST_BROKEN + 1)
        if shape == "coin":
            ticket = rng.random(size)
            rungs = [(ticket < alpha * share).astype(np.float64) for share in shares]
        else:
            worst = SHAPES[shape](alpha, size, rng)
            rungs = [worst * share for share in shares]
        for m in names:
            alive = np.arange(size[0])
            for losses in rungs:
                if alive.size:
                    alive = alive[METHODS[m](losses[alive], alpha) <= LEVEL]
            found[m]["crossing"] += alive.size
    return found


def betting_in_confseq() -> Callable[[np.ndarray], float] | None:
    """The peer's one-sided betting bound, if it is installed."""
    try:
        np.float_ = np.float64  # confseq 0.0.11 asks for this name, which numpy 2 dropped
        from confseq.betting import betting_ci
    except ImportError:
        return None

    # theta=0 puts all of the capital on the upper side.
    return lambda losses: float(betting_ci(losses, alpha=LEVEL, breaks=1000, theta=0)[1])


def widths(shape: str, mean: float, n: int, draws: int, seed: int, peer: Callable | None) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    losses = SHAPES[shape](mean, (draws, n), rng)
    names = ["betting", "hoeffding-bentkus", "empirical-bernstein", "hoeffding"]
    if shape == "coin":
        names.append("binomial")
    result = {}
    for m in names:
        result[m] = float(np.mean([upper_bound(x, 1 - LEVEL, m) for x in losses]) - mean)
    if peer is not None and n in (200, 1000) and mean in (0.02, 0.1):  # half a second each
        result["confseq betting"] = float(np.mean([peer(x) for x in losses[:10]]) - mean)
    return result


def table(rows: list[dict], key: str, columns: list[str]) -> list[str]:
    lines = ["| shape | mean loss | units | " + " | ".join(columns) + " |"]
    lines.append("|" + " --- |" * (len(columns) + 3))
    for row in rows:
        cells = [f"{row[key][c]:.4f}" if c in row[key] else "" for c in columns]
        lines.append(f"| {row['shape']} | {row['mean']} | {row['units']} | " + " | ".join(cells) + " |")
    return lines


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SHAPES), figsize=(15, 3.6), sharey=True, layout="constrained")
    for axis, shape in zip(axes, SHAPES):
        for name in ("betting", "binomial", "hoeffding-bentkus", "empirical-bernstein", "hoeffding"):
            chosen = [r for r in rows if r["shape"] == shape and r["mean"] == 0.02 and name in r["width"]]
            points = [(r["units"], r["width"][name]) for r in chosen]
            if points:
                axis.loglog(*zip(*points), marker="o", markersize=3, label=name)
        axis.set(title=shape, xlabel="units")
    axes[0].set_ylabel("bound - true mean (0.02)")
    axes[0].legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulates the certificate and measures its bounds.")
    parser.add_argument("--quick", action="store_true", help="200 repetitions, to see that it runs")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    repetitions, draws = (200, 4) if arguments.quick else (2000, 20)
    started, peer = time.time(), betting_in_confseq()
    rows, cells, over = [], 0, []
    for n in UNITS:
        for shape in SHAPES:
            for mean in MEANS:
                seed = SEED + len(rows)
                found = violations(shape, mean, n, repetitions, seed)
                rows.append(
                    {
                        "shape": shape,
                        "mean": mean,
                        "units": n,
                        "violations": found,
                        "rate": {m: max(v.values()) / repetitions for m, v in found.items()},
                        "width": widths(shape, mean, n, draws, seed, peer),
                    }
                )
                for m, ladders in found.items():
                    for ladder, count in ladders.items():
                        cells += 1
                        if count > stats.binom.ppf(0.999, repetitions, LEVEL):
                            over.append([shape, mean, n, m, ladder, count])
        print(f"{n} units done after {time.time() - started:.0f} s", flush=True)
    # Of so many cells, each tested at 0.1%, this many may fail by luck alone were every rate LEVEL.
    by_luck = int(stats.binom.ppf(0.999, cells, 0.001))
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    commit = shown.stdout.strip()
    about = {
        "level": LEVEL,
        "repetitions": repetitions,
        "rungs": RUNGS,
        "seed": SEED,
        "commit": commit,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "seconds": round(time.time() - started),
        "cells": cells,
        "cells over the band": over,
        "allowed by luck": by_luck,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"about": about, "rows": rows})
    (arguments.out / "certificate.json").write_text(document.replace('{"shape"', '\n{"shape"') + "\n")
    worst = {m: max(r["rate"].get(m, 0.0) for r in rows) for m in METHODS}
    lines = [
        "# The certificate, simulated",
        "",
        f"{repetitions} walks of a {RUNGS}-rung ladder for each of {len(rows)} settings and three ladders, "
        f"at confidence {1 - LEVEL:g}. Made by `python benchmarks/certificate.py`; seed {SEED}, "
        f"commit {commit}, {about['machine']}, {about['seconds']} s.",
        "",
        f"Of {cells} violation rates, {len(over)} lie above the 99.9% binomial band of {LEVEL:g} "
        f"(up to {by_luck} would by luck alone). Highest rate of each method: "
        + ", ".join(f"{m} {rate:.4f}" for m, rate in worst.items())
        + ".",
        "",
        "![Width of the bounds](certificate.svg)",
        "",
        f"## Highest violation rate of the three ladders (promised: {LEVEL:g} or less)",
        "",
        *table(rows, "rate", list(METHODS)),
        "",
        "## Mean width: bound minus true mean",
        "",
        f"Over {draws} samples each; the peer over 10.",
        "",
        *table(
            rows,
            "width",
            [
                "betting",
                "binomial",
                "hoeffding-bentkus",
                "empirical-bernstein",
                "hoeffding",
                *(["confseq betting"] if peer else []),
            ],
        ),
        "",
    ]
    (arguments.out / "certificate.md").write_text("\n".join(lines))
    plot(rows, arguments.out / "certificate.svg")
    print(lines[4])


if __name__ == "__main__":
    main()
