"""Boosted trees beside XGBoost's, and the weighted sketch beside exact sorting, in one run on one thread.

    python benchmarks/trees.py [--rows 60000] [--trees 20] [--repeats 3]

Each round trains every learner once, one after another; the least time of all rounds counts, and the ratio to XGBoost's
in the same table. Writes benchmarks/results/trees.json and .md. Needs `xgboost`; the package xgboost-cpu is small.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TERCILE_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import xgboost

from tercile.papers.machine import describe_machine
from tercile.papers.planned_flights import planned_flights
from tercile.quantiles.regression.boosting import BoostedTreesClassifier, BoostedTreesRegressor
from tercile.quantiles.sketch import KLL, WeightedSummary

FOLDER = Path(__file__).resolve().parent / "results"
LATE, LEVEL, DEPTH, RATE = 15.0, 0.9, 6, 0.2
Score = Callable[[np.ndarray, np.ndarray], float]


def root_mean_square(y: np.ndarray, told: np.ndarray) -> float:
    return float(np.sqrt(np.mean((y - told) ** 2)))


def log_loss(y: np.ndarray, chance: np.ndarray) -> float:
    return float(-np.mean(np.where(y == 1.0, np.log(chance), np.log1p(-chance))))


def pinball(y: np.ndarray, told: np.ndarray) -> float:
    return float(np.mean(np.maximum(LEVEL * (y - told), (LEVEL - 1.0) * (y - told))))


def ours(loss: str, splits: str, trees: int) -> Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        settings = {"max_depth": DEPTH, "learning_rate": RATE, "splits": splits}
        if loss == "logistic":
            classifier = BoostedTreesClassifier(trees, **settings).fit(x, y)
            return lambda held: classifier.predict_proba(held)[:, 1]
        return BoostedTreesRegressor(trees, loss=loss, level=LEVEL, **settings).fit(x, y).predict

    return fit


def theirs(
    loss: str, method: str, trees: int
) -> Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        settings = {
            "n_estimators": trees,
            "max_depth": DEPTH,
            "learning_rate": RATE,
            "tree_method": method,
            "n_jobs": 1,
        }
        if loss == "logistic":
            classifier = xgboost.XGBClassifier(**settings).fit(x, y)
            return lambda held: classifier.predict_proba(held)[:, 1]
        if loss == "pinball":
            settings |= {"objective": "reg:quantileerror", "quantile_alpha": LEVEL}
        return xgboost.XGBRegressor(**settings).fit(x, y).predict

    return fit


def train(rows: int, trees: int, repeats: int) -> list[dict[str, float | str]]:
    _, table, delay = planned_flights()
    drawn = np.random.default_rng(0).permutation(len(table))
    learn, held = drawn[:rows], drawn[rows : rows + 50_000]
    found: list[dict[str, float | str]] = []
    for loss, score in (("squared", root_mean_square), ("logistic", log_loss), ("pinball", pinball)):
        target = (delay > LATE).astype(np.float64) if loss == "logistic" else delay
        learners = {f"tercile {splits}": ours(loss, splits, trees) for splits in ("global", "local", "exact")}
        learners |= {f"xgboost {method}": theirs(loss, method, trees) for method in ("approx", "exact", "hist")}
        times: dict[str, list[float]] = {name: [] for name in learners}
        scores = {}
        for _ in range(repeats):
            for name, fit in learners.items():
                start = time.process_time()
                predict = fit(table[learn], target[learn])
                times[name].append(time.process_time() - start)
                scores[name] = score(target[held], predict(table[held]))
        for name, taken in times.items():
            peer = "xgboost exact" if name.endswith("exact") else "xgboost approx"
            found.append(
                {"loss": loss, "learner": name, "seconds": min(taken), "most": max(taken), "held out": scores[name],
                 "peer": peer, "ratio": min(times[peer]) / min(taken)}
            )  # fmt: skip
    return found


def sketches(repeats: int) -> list[dict[str, float | str]]:
    rng = np.random.default_rng(1)
    values, weights = rng.standard_normal(2_000_000), rng.exponential(size=2_000_000)

    def sort_weighted() -> None:
        np.cumsum(weights[np.argsort(values)])

    def summary(eps: float, heavy: np.ndarray | None) -> Callable[[], None]:
        return lambda: WeightedSummary(eps).update(values, heavy)

    jobs: dict[str, Callable[[], object]] = {
        "numpy: sort with weights": sort_weighted,
        "WeightedSummary eps=0.01, weights": summary(0.01, weights),
        "WeightedSummary eps=0.001, weights": summary(0.001, weights),
        "numpy: sort": lambda: np.sort(values),
        "WeightedSummary eps=0.01": summary(0.01, None),
        "KLL k=200": lambda: KLL(random_state=0).update(values),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            times[name].append(time.process_time() - start)
    found = []
    for name, taken in times.items():
        peer = "numpy: sort with weights" if "weights" in name else "numpy: sort"
        found.append({"job": name, "seconds": min(taken), "peer": peer, "ratio": min(times[peer]) / min(taken)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares boosted trees and the weighted sketch with their peers.")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    trained = train(arguments.rows, arguments.trees, arguments.repeats)
    sketched = sketches(arguments.repeats)
    machine = describe_machine()
    lines = [
        f"{arguments.rows:,} flights, 17 columns, {arguments.trees} trees of depth {DEPTH}, one thread; processor "
        f"seconds, least of {arguments.repeats} rounds. A ratio above 1: faster than the peer.",
        "",
        "| loss | learner | seconds (most) | ratio | to | held-out loss |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {r['loss']} | {r['learner']} | {r['seconds']:.2f} ({r['most']:.2f}) | {r['ratio']:.2f} | {r['peer']} | "
            f"{r['held out']:.4f} |"
            for r in trained
        ),
        "",
        "| 2 million values | seconds | ratio | to |",
        "| --- | --- | --- | --- |",
        *(f"| {r['job']} | {r['seconds']:.3f} | {r['ratio']:.2f} | {r['peer']} |" for r in sketched),
        "",
        f"xgboost {xgboost.__version__}, numpy {np.__version__}; {machine['cpu']}, {machine['cores']} cores",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "trees.md").write_text("\n".join(lines) + "\n")
    told = {"machine": machine, "trees": trained, "sketches": sketched}
    (arguments.out / "trees.json").write_text(json.dumps(told, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
