"""The weighted quantile sketch and the boosted trees on it, beside XGBoost's own, on a year of flights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tercile.papers import Check, Size, paper
from tercile.papers.planned_flights import planned_flights
from tercile.quantiles.regression.boosting import BoostedTreesClassifier, BoostedTreesRegressor, ColumnBlocks
from tercile.quantiles.sketch import WeightedSummary

PAPER = paper("weighted_quantile_sketch", authors="Chen, Guestrin", year=2016, source="arXiv:1603.02754")
MEASURED_ON = (
    "flights from New York City in 2013 (17 columns, up to three quarters missing): root mean squared error of the "
    "delay, log loss of being 15 minutes late, pinball loss of the delay's 0.9-quantile, on flights held out; and the "
    "largest rank error of the sketch over six weighted streams, in units of the eps that it was made with"
)
BASELINE = (
    "the xgboost package with the same number, depth and rate of trees on the same rows: tree_method 'approx' and "
    "'exact', and its quantile cuts"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"training rows": 6_000, "held out": 10_000, "trees": 10, "depth": 5, "stream": 20_000, "shards": 100},
    "full": {"training rows": 20_000, "held out": 80_000, "trees": 20, "depth": 6, "stream": 100_000, "shards": 1000},
}
SEEDS = (0, 1, 2)
RATE, LEVEL, LATE, BINS = 0.2, 0.9, 15.0, 256
#: Candidates as few as the paper's local proposals need.
FEW = 4
LOSSES = ("squared", "logistic", "pinball")

RULE = (
    Check("sketch_error_in_eps", at_most="1"),
    Check("sketch_bounds_missed", at_most="0"),
    Check("merged_error_in_eps", at_most="1"),
    Check("fullest_bin", at_most="1.1 * xgboost_fullest_bin"),
    *(Check(f"{loss}_global", at_most=f"1.02 * {loss}_xgboost_approx", quick_slack=0.05) for loss in LOSSES),
    *(
        Check(f"{loss}_exact", at_most=f"1.02 * {loss}_xgboost_exact", quick_slack=0.05)
        for loss in ("squared", "logistic")
    ),
    *(Check(f"{loss}_global", at_most=f"1.01 * {loss}_exact", quick_slack=0.05) for loss in LOSSES),
    *(Check(f"{loss}_local", at_most=f"1.01 * {loss}_exact", quick_slack=0.05) for loss in LOSSES),
    Check("squared_few_local", at_most="squared_few_global", quick=False),
    Check("from_file_differs", at_most="0"),
)


def experiment(size: Size, seed: int) -> dict[str, float]:
    """The sketch on streams, then every loss and every way to find splits on one draw of rows."""
    rng = np.random.default_rng(seed)
    measured = sketch_errors(int(SIZES[size]["stream"]), int(SIZES[size]["shards"]), rng)
    _, table, delay = planned_flights()
    train_rows, held_rows = int(SIZES[size]["training rows"]), int(SIZES[size]["held out"])
    drawn = rng.permutation(len(table))[: train_rows + held_rows]
    train, held = drawn[:train_rows], drawn[train_rows:]
    measured |= bin_weights(table[train], rng)
    trees, depth = int(SIZES[size]["trees"]), int(SIZES[size]["depth"])
    for loss in LOSSES:
        target = (delay > LATE).astype(np.float64) if loss == "logistic" else delay
        for name, fit in _learners(loss, trees, depth).items():
            told = fit(table[train], target[train])(table[held])
            measured[f"{loss}_{name}"] = _loss(loss, target[held], told)
    few = {"max_bins": FEW}
    for splits in ("global", "local"):
        model = _ours("squared", trees, depth, splits=splits, **few)
        told = model(table[train], delay[train])(table[held])
        measured[f"squared_few_{splits}"] = _loss("squared", delay[held], told)
    return measured | {"from_file_differs": file_difference(table[train], delay[train], trees // 4, depth)}


def sketch_errors(count: int, shards: int, rng: np.random.Generator) -> dict[str, float]:
    """The largest rank error over all streams and both eps, in one go and merged of shards."""
    values = rng.standard_cauchy(count)
    giant = np.ones(count)
    giant[count // 3] = 10.0 * count
    margin = rng.normal(0.0, 3.0, count)
    streams = {
        "second derivatives": (margin, 1.0 / (2.0 + 2.0 * np.cosh(margin))),
        "twelve decades": (values, np.exp(rng.uniform(-14.0, 14.0, count))),
        "one giant": (values, giant),
        "sorted, heavier": (np.sort(values), np.exp(np.linspace(0.0, 20.0, count))),
        "reversed, lighter": (np.sort(values)[::-1], np.exp(-np.linspace(0.0, 20.0, count))),
        "zigzag": (np.where(np.arange(count) % 2, 1.0, -1.0) * np.arange(count), rng.exponential(size=count)),
    }
    worst, merged, missed = 0.0, 0.0, 0
    for eps in (0.01, 0.001):
        for x, w in streams.values():
            order = np.argsort(x, kind="stable")
            upto = np.cumsum(w[order]) / w.sum()
            points = x[order][:: max(1, count // 2000)]
            truth = upto[np.searchsorted(x[order], points, side="right") - 1]
            whole = WeightedSummary(eps)
            whole.update(x, w)
            total = WeightedSummary(eps)
            for piece, heavy in zip(np.array_split(x, shards), np.array_split(w, shards)):
                shard = WeightedSummary(eps)
                shard.update(piece, heavy)
                total.merge(shard)
            worst = max(worst, float(np.abs(whole.rank(points) - truth).max()) / eps)
            merged = max(merged, float(np.abs(total.rank(points) - truth).max()) / eps)
            for sketch in (whole, total):
                low, high = sketch.rank_bounds(points)
                missed += int(((truth < low - 1e-9) | (truth > high + 1e-9)).sum())
    return {"sketch_error_in_eps": worst, "merged_error_in_eps": merged, "sketch_bounds_missed": missed}


def bin_weights(table: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """The weight in the fullest of 64 bins of a column without ties, in units of an even share; ours and XGBoost's."""
    import xgboost

    x = rng.lognormal(0.0, 2.0, (len(table), 1)).astype(np.float32)
    weight = rng.exponential(size=len(x)) ** 2
    gradient = np.stack([np.zeros(len(x)), weight], axis=1)
    blocks = ColumnBlocks.from_array(x)
    (ours,) = blocks.native.propose(gradient, np.zeros(len(x), dtype=np.int32), 64)
    matrix = xgboost.QuantileDMatrix(x, weight=weight, max_bin=64, nthread=1)
    theirs = np.sort(matrix.get_quantile_cut()[1])
    found = {}
    for name, cuts in (("fullest_bin", ours), ("xgboost_fullest_bin", theirs)):
        inside = np.searchsorted(np.asarray(cuts, dtype=np.float32), x[:, 0], side="right")
        found[name] = float(np.bincount(inside, weights=weight).max() / weight.sum() * 64)
    return found


def file_difference(table: np.ndarray, target: np.ndarray, trees: int, depth: int) -> float:
    """The largest difference between what trees from a file say and those from memory."""
    model = BoostedTreesRegressor(trees, max_depth=depth, learning_rate=RATE)
    in_memory = model.fit(table, target).predict(table)
    with (
        tempfile.TemporaryDirectory() as folder,
        ColumnBlocks.write(Path(folder, "table.blocks"), np.array_split(table, 9)) as blocks,
    ):
        return float(np.abs(model.fit_blocks(blocks, target).predict(table) - in_memory).max())


Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predict]


def _learners(loss: str, trees: int, depth: int) -> dict[str, Fit]:
    found = {splits: _ours(loss, trees, depth, splits=splits) for splits in ("global", "local", "exact")}
    # XGBoost has no pinball loss with exact splits that renews the leaves.
    for method in ("approx",) if loss == "pinball" else ("approx", "exact"):
        found[f"xgboost_{method}"] = _theirs(loss, trees, depth, method)
    return found


def _ours(loss: str, trees: int, depth: int, **settings: Any) -> Fit:
    common = {"max_depth": depth, "learning_rate": RATE, "max_bins": BINS, **settings}

    def fit(x: np.ndarray, y: np.ndarray) -> Predict:
        if loss == "logistic":
            classifier = BoostedTreesClassifier(trees, **common).fit(x, y)
            return lambda held: classifier.predict_proba(held)[:, 1]
        return BoostedTreesRegressor(trees, loss=loss, level=LEVEL, **common).fit(x, y).predict  # type: ignore[arg-type]

    return fit


def _theirs(loss: str, trees: int, depth: int, method: str) -> Fit:
    import xgboost

    common = {"n_estimators": trees, "max_depth": depth, "learning_rate": RATE, "tree_method": method, "n_jobs": 1}
    if method == "approx":
        common["max_bin"] = BINS

    def fit(x: np.ndarray, y: np.ndarray) -> Predict:
        if loss == "logistic":
            classifier = xgboost.XGBClassifier(**common).fit(x, y)
            return lambda held: classifier.predict_proba(held)[:, 1]
        extra = {"objective": "reg:quantileerror", "quantile_alpha": LEVEL} if loss == "pinball" else {}
        return xgboost.XGBRegressor(**common, **extra).fit(x, y).predict

    return fit


def _loss(loss: str, y: np.ndarray, told: np.ndarray) -> float:
    if loss == "squared":
        return float(np.sqrt(np.mean((y - told) ** 2)))
    if loss == "logistic":
        chance = np.clip(told.astype(np.float64), 1e-12, 1.0 - 1e-12)
        return float(-np.mean(np.where(y == 1.0, np.log(chance), np.log1p(-chance))))
    return float(np.mean(np.maximum(LEVEL * (y - told), (LEVEL - 1.0) * (y - told))))
