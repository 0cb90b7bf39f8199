"""Boosted trees: against splits found by trying all, against XGBoost, and from files larger than memory."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from tercile.quantiles.regression.boosting import BoostedTreesClassifier, BoostedTreesRegressor, ColumnBlocks
from tercile.quantiles.regression.boosting.losses import Logistic, Pinball, Squared, quantile_by_group

SPLITS = ("exact", "global", "local")


def table(seed: int, rows: int = 400, columns: int = 4, missing: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    y = np.sin(2 * x[:, 0]) + (x[:, 1] > 0.3) * x[:, 2] + 0.3 * rng.standard_normal(rows)
    x[rng.random(x.shape) < missing] = np.nan
    return x, y


@pytest.mark.parametrize(
    "estimator",
    [
        *(BoostedTreesRegressor(20, splits=splits) for splits in SPLITS),
        BoostedTreesRegressor(20, loss="pinball", level=0.3),
        BoostedTreesClassifier(20),
        BoostedTreesClassifier(20, splits="exact"),
    ],
    ids=lambda estimator: f"{type(estimator).__name__} {estimator.splits} {getattr(estimator, 'loss', '')}",
)
def test_it_passes_the_checks_that_scikit_learn_has_for_estimators(estimator: object) -> None:
    check_estimator(estimator)


def best_split_by_trying_all(
    x: np.ndarray, gradient: np.ndarray, reg_lambda: float, least_weight: float
) -> tuple[float, np.ndarray]:
    """The largest gain of any way to part the rows by one threshold with the missing on either side."""

    def score(rows: np.ndarray) -> float:
        g, h = gradient[rows].sum(axis=0)
        return g * g / (h + reg_lambda)

    best, best_left = 0.0, np.zeros(len(x), dtype=bool)
    everything = np.ones(len(x), dtype=bool)
    for column, missing_left in itertools.product(range(x.shape[1]), (False, True)):
        missing = np.isnan(x[:, column])
        for threshold in [*np.unique(x[~missing, column])[1:], np.inf]:
            left = np.where(missing, missing_left, x[:, column] < threshold)
            if min(gradient[left, 1].sum(), gradient[~left, 1].sum()) < max(least_weight, 1e-12):
                continue
            gain = score(left) + score(~left) - score(everything)
            if gain > best * (1 + 1e-9):
                best, best_left = gain, left
    return best, best_left


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("seed", range(5))
def test_a_stump_is_the_best_split_that_trying_all_finds(splits: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = table(seed, rows=120)
    weight = rng.integers(1, 4, y.size).astype(float)
    reg_lambda = float(rng.choice([0.0, 1.0, 10.0]))
    regressor = BoostedTreesRegressor(1, max_depth=1, learning_rate=1.0, reg_lambda=reg_lambda, splits=splits)
    trees = regressor.fit(x, y, weight).trees_
    start = np.average(y, weights=weight)
    gradient = np.stack([weight * (start - y), weight], axis=1)
    gain, left = best_split_by_trying_all(x, gradient, reg_lambda, 1.0)
    assert trees.gain[0] == pytest.approx(gain)
    values = [-gradient[side, 0].sum() / (gradient[side, 1].sum() + reg_lambda) for side in (left, ~left)]
    assert np.allclose(regressor.predict(x), start + np.where(left, *values))


def test_every_split_of_a_deep_logistic_tree_is_the_best_for_its_rows() -> None:
    x, y = table(7, rows=300)
    labels = (y > 0.2).astype(int)
    model = BoostedTreesClassifier(1, max_depth=3, learning_rate=1.0, min_child_weight=0.5, splits="exact")
    trees = model.fit(x, labels).trees_
    share = labels.mean()
    gradient = np.stack([share - labels, np.full(y.size, share * (1 - share))], axis=1)

    def walk(node: int, rows: np.ndarray) -> int:
        gain, left = best_split_by_trying_all(x[rows], gradient[rows], 1.0, 0.5)
        if trees.feature[node] < 0:
            return 0
        assert trees.gain[node] == pytest.approx(gain)
        return 1 + walk(trees.left[node], rows[left]) + walk(trees.right[node], rows[~left])

    assert walk(0, np.arange(y.size)) == 7


def test_min_gain_and_min_child_weight_hold_in_every_tree() -> None:
    x, y = table(8, rows=1000)
    trees = BoostedTreesRegressor(5, min_gain=3.0, min_child_weight=25.0).fit(x, y).trees_
    inner = trees.feature >= 0
    assert inner.sum() > 10
    assert (trees.gain[inner] > 3.0).all()
    assert (trees.cover >= 25.0).all()
    stump = BoostedTreesRegressor(1, min_gain=1e9).fit(x, y)
    assert np.allclose(stump.predict(x), y.mean())


def test_a_column_that_is_missing_where_it_matters_is_split_on_its_presence() -> None:
    rng = np.random.default_rng(9)
    x = np.ones((200, 2), dtype=np.float32)
    gone = rng.random(200) < 0.5
    x[gone, 1] = np.nan
    for splits in SPLITS:
        model = BoostedTreesRegressor(1, max_depth=1, learning_rate=1.0, reg_lambda=0.0, splits=splits)
        model.fit(x, gone * 5.0)
        assert np.allclose(model.predict(x), gone * 5.0)
        assert model.feature_importances_.tolist() == [0.0, 1.0]


def test_a_value_that_was_never_missing_goes_where_most_went() -> None:
    x = np.arange(10.0)[:, None]
    model = BoostedTreesRegressor(1, max_depth=1, learning_rate=1.0, reg_lambda=0.0).fit(x, (x[:, 0] >= 3) * 1.0)
    assert np.allclose(model.predict([[np.nan], [0.0], [9.0]]), [1.0, 0.0, 1.0])


@pytest.mark.parametrize("splits", ["global", "local"])
@pytest.mark.parametrize("block_rows", [37, 500, 10_000])
def test_with_fewer_values_than_bins_approximate_is_exact_in_any_blocks(splits: str, block_rows: int) -> None:
    x, y = table(10, rows=2000)
    x = np.round(x * 20) / 20
    exact = BoostedTreesRegressor(8, max_depth=4, splits="exact").fit(x, y)
    blocks = ColumnBlocks.from_array(x, block_rows)
    approximate = BoostedTreesRegressor(8, max_depth=4, splits=splits).fit_blocks(blocks, y)
    assert np.allclose(approximate.predict(x), exact.predict(x), atol=1e-9)


@pytest.mark.parametrize("bins", [8, 32, 128])
def test_candidates_cut_the_weight_of_second_derivatives_evenly(bins: int) -> None:
    rng = np.random.default_rng(11)
    x = rng.standard_exponential((60_000, 1)).astype(np.float32)
    gradient = np.stack([np.zeros(len(x)), 1 / (1 + x[:, 0] ** 4)], axis=1)
    blocks = ColumnBlocks.from_array(x, 4096)
    (cuts,) = blocks.native.propose(gradient, np.zeros(len(x), dtype=np.int32), bins)
    assert bins * 0.9 <= len(cuts) <= bins
    inside = np.searchsorted(np.asarray(cuts, dtype=np.float32), x[:, 0], side="right")
    weight = np.bincount(inside, weights=gradient[:, 1]) / gradient[:, 1].sum()
    # One bin, and what the sketch may be off: a quarter of a bin for each of its few levels, halved.
    assert weight.max() < 2.2 / bins


def test_exact_trees_are_those_of_xgboost() -> None:
    xgboost = pytest.importorskip("xgboost")
    x, y = table(12, rows=1500, columns=6)
    settings = {"max_depth": 4, "learning_rate": 0.3, "n_estimators": 20, "base_score": float(y.mean())}
    theirs = xgboost.XGBRegressor(tree_method="exact", **settings, n_jobs=1).fit(x, y)
    ours = BoostedTreesRegressor(20, max_depth=4, splits="exact").fit(x, y)
    # They sum in float32: one near-tie in some hundred splits may fall the other way.
    assert np.mean(np.abs(theirs.predict(x) - ours.predict(x)) < 1e-3) > 0.95


@pytest.mark.parametrize("kind", ["squared", "logistic", "pinball"])
def test_held_out_loss_is_that_of_xgboost_approx_within_two_percent(kind: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    x, y = table(13, rows=9000, columns=8)
    train, held = slice(0, 6000), slice(6000, None)
    labels = (y > 0).astype(int)
    common = {"max_depth": 5, "learning_rate": 0.2, "n_estimators": 30, "tree_method": "approx", "n_jobs": 1}
    if kind == "logistic":
        theirs = xgboost.XGBClassifier(**common).fit(x[train], labels[train]).predict_proba(x[held])[:, 1]
        ours = BoostedTreesClassifier(30, max_depth=5, learning_rate=0.2).fit(x[train], labels[train])
        told = ours.predict_proba(x[held])[:, 1]
        losses = [-np.mean(np.log(np.where(labels[held] == 1, p, 1 - p))) for p in (told, theirs)]
    else:
        extra = {"objective": "reg:quantileerror", "quantile_alpha": 0.8} if kind == "pinball" else {}
        theirs = xgboost.XGBRegressor(**common, **extra).fit(x[train], y[train]).predict(x[held])
        ours = BoostedTreesRegressor(30, max_depth=5, learning_rate=0.2, loss=kind, level=0.8).fit(x[train], y[train])
        off = [y[held] - p for p in (ours.predict(x[held]), theirs)]
        losses = [np.mean(o**2) if kind == "squared" else np.mean(np.maximum(0.8 * o, -0.2 * o)) for o in off]
    assert losses[0] <= 1.02 * losses[1]


def test_pinball_trees_cover_their_level_on_rows_not_seen() -> None:
    rng = np.random.default_rng(14)
    x = rng.uniform(-2, 2, (12_000, 3))
    y = x[:, 0] + (0.2 + np.abs(x[:, 1])) * rng.standard_normal(12_000)
    for level in (0.1, 0.5, 0.9):
        model = BoostedTreesRegressor(60, loss="pinball", level=level, max_depth=3, learning_rate=0.2)
        told = model.fit(x[:8000], y[:8000]).predict(x[8000:])
        assert abs((y[8000:] <= told).mean() - level) < 0.03
        wide, narrow = np.abs(x[8000:, 1]) > 1.5, np.abs(x[8000:, 1]) < 0.3
        if level == 0.9:
            assert (told - x[8000:, 0])[wide].mean() > 3 * (told - x[8000:, 0])[narrow].mean()


@pytest.mark.parametrize("splits", SPLITS)
def test_a_file_gives_the_trees_that_memory_gives(splits: str, tmp_path: Path) -> None:
    x, y = table(15, rows=3000)
    rows = 3000 if splits == "exact" else 256
    with ColumnBlocks.write(tmp_path / "t.blocks", np.array_split(x, 7), rows) as blocks:
        assert blocks.rows == 3000
        from_file = BoostedTreesRegressor(6, splits=splits).fit_blocks(blocks, y)
    in_memory = BoostedTreesRegressor(6, splits=splits).fit_blocks(ColumnBlocks.from_array(x, rows), y)
    assert (from_file.predict(x) == in_memory.predict(x)).all()
    with pytest.raises(ValueError, match="was closed"):
        from_file.fit_blocks(blocks, y)


def test_more_threads_change_nothing(tmp_path: Path) -> None:
    code = """
        import numpy as np
        from tercile.quantiles.regression.boosting import BoostedTreesRegressor
        x = np.random.default_rng(0).standard_normal((3000, 9))
        print(BoostedTreesRegressor(5).fit(x, x[:, 0] * x[:, 1]).predict(x).tobytes().hex()[:4000])
    """
    told = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], env={"TERCILE_THREADS": threads, "PATH": ""},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "3")
    }  # fmt: skip
    assert len(told) == 1


def test_a_table_larger_than_the_memory_it_may_have_is_learnt_from_its_file(tmp_path: Path) -> None:
    # 100,000 rows of 120 columns: 96 MB as blocks. The process may take 45 MB more than it has when it starts.
    code = """
        import resource, sys
        import numpy as np
        from tercile.quantiles.regression.boosting import BoostedTreesRegressor, ColumnBlocks
        rows, columns, path = 100_000, 120, sys.argv[1]
        y = np.zeros(rows)
        def batches():
            rng = np.random.default_rng(0)
            for i in range(0, rows, 5000):
                x = rng.standard_normal((5000, columns)).astype(np.float32)
                y[i : i + 5000] = 2 * x[:, 3] + x[:, 50] * x[:, 51]
                yield x
        BoostedTreesRegressor(1, max_depth=1).fit(np.zeros((4, 1)), np.zeros(4))
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        limit = int(status["VmSize"].split()[0]) * 1024 + 45_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with ColumnBlocks.write(path, batches(), 4096) as blocks:
            model = BoostedTreesRegressor(3, max_depth=3, learning_rate=1.0).fit_blocks(blocks, y)
            print(len(model.trees_.root), np.argsort(model.feature_importances_)[-1])
        try:
            ColumnBlocks.from_array(np.zeros((rows, columns), dtype=np.float32))
        except MemoryError:
            print("does not fit")
    """
    path = tmp_path / "large.blocks"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], env={"TERCILE_THREADS": "1", "PATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["3 3", "does not fit"], done.stderr
    assert path.stat().st_size > 90_000_000


def test_damaged_and_truncated_files_are_refused_and_never_acted_upon(tmp_path: Path) -> None:
    x, y = table(16, rows=500)
    path = tmp_path / "t.blocks"
    ColumnBlocks.write(path, [x], 128).close()
    data = path.read_bytes()
    for cut in (0, 7, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match="no whole file of column blocks"):
            ColumnBlocks.open(path)
    for at in range(len(data) - 80, len(data)):  # the index and what follows it
        path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        with pytest.raises(ValueError, match="no whole file of column blocks"):
            ColumnBlocks.open(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(8, len(data) - 200, 60):  # values and row numbers
        path.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
        with ColumnBlocks.open(path) as blocks:
            try:
                BoostedTreesRegressor(2).fit_blocks(blocks, y)
            except ValueError as error:
                assert "damaged" in str(error)
    with pytest.raises(ValueError, match="is missing"):
        ColumnBlocks.open(tmp_path / "none")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "t.blocks"
    ColumnBlocks.write(path, [np.ones((3, 2))]).close()
    before = path.read_bytes()
    for batches, message in [
        ([], "at least one row"),
        ([np.ones((3, 2)), np.ones((3, 4))], "must have the 2 columns"),
        ([np.ones((3, 2)), [[np.inf, 0.0]]], "no infinities, got one in row 3"),
        ([np.ones(3)], "must be a table of numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            ColumnBlocks.write(path, batches, 2)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.blocks"]


def test_the_quantile_of_each_group_is_the_one_that_sorting_it_gives() -> None:
    rng = np.random.default_rng(17)
    group = rng.integers(0, 9, 500).astype(np.int32)
    values, weight = rng.integers(0, 20, 500) * 1.0, rng.integers(0, 4, 500) * 1.0
    weight[group == 5] = 0.0
    for level in (0.05, 0.3, 0.5, 0.99):
        found = quantile_by_group(group, values, weight, level, np.full(9, -7.0))
        for g in range(9):
            copies = np.sort(np.repeat(values[group == g], weight[group == g].astype(int)))
            wanted = -7.0 if copies.size == 0 else copies[int(np.ceil(level * copies.size - 1e-9)) - 1]
            assert found[g] == wanted


@pytest.mark.parametrize("loss", [Squared(), Logistic(), Pinball(0.3)], ids=str)
def test_derivatives_are_those_of_the_loss(loss: object) -> None:
    rng = np.random.default_rng(18)
    y = (rng.random(50) < 0.5) * 1.0
    margin, weight = rng.standard_normal(50), rng.uniform(0.5, 2, 50)

    def value(m: np.ndarray) -> np.ndarray:
        if isinstance(loss, Squared):
            return weight * 0.5 * (m - y) ** 2
        if isinstance(loss, Logistic):
            return weight * (np.logaddexp(0, m) - y * m)
        return weight * np.maximum(0.3 * (y - m), -0.7 * (y - m))

    step = 1e-4
    first = (value(margin + step) - value(margin - step)) / (2 * step)
    second = (value(margin + step) - 2 * value(margin) + value(margin - step)) / step**2
    got = loss.derivatives(y, margin, weight)
    assert np.allclose(got[:, 0], first, atol=1e-6)
    assert np.allclose(got[:, 1], weight if isinstance(loss, Pinball) else second, atol=1e-5)


def test_a_pickled_model_predicts_the_same() -> None:
    x, y = table(19)
    model = BoostedTreesClassifier(5).fit(x, y > 0)
    assert (pickle.loads(pickle.dumps(model)).predict_proba(x) == model.predict_proba(x)).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_estimators": 0}, ValueError, "n_estimators must be 1 to"),
        ({"n_estimators": 2.0}, TypeError, "n_estimators must be an integer"),
        ({"max_depth": 17}, ValueError, "max_depth must be 1 to 16, got 17"),
        ({"max_bins": 1}, ValueError, "max_bins must be 2 to"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be above 0"),
        ({"reg_lambda": -1.0}, ValueError, "reg_lambda must be at least 0"),
        ({"min_gain": "much"}, TypeError, "min_gain must be a number"),
        ({"splits": "best"}, ValueError, "splits must be 'exact', 'global' or 'local'"),
        ({"loss": "absolute"}, ValueError, "loss must be 'squared' or 'pinball'"),
        ({"loss": "pinball", "level": 90}, ValueError, "level must be above 0 and below 1, got 90"),
    ],
)
def test_bad_settings_are_named(settings: dict, error: type[Exception], message: str) -> None:
    x, y = table(20, rows=20)
    with pytest.raises(error, match=message):
        BoostedTreesRegressor(**settings).fit(x, y)


def test_bad_data_are_named() -> None:
    x, y = table(21, rows=20)
    with pytest.raises(ValueError, match="y must have one value for each of the 20 rows, got 19"):
        BoostedTreesRegressor().fit_blocks(ColumnBlocks.from_array(x), y[:-1])
    with pytest.raises(ValueError, match=r"needs all rows in one block, got 2; make them with block_rows=20"):
        BoostedTreesRegressor(splits="exact").fit_blocks(ColumnBlocks.from_array(x, 10), y)
    with pytest.raises(ValueError, match="y must be finite"):
        BoostedTreesRegressor().fit_blocks(ColumnBlocks.from_array(x), np.full(20, np.nan))
    with pytest.raises(ValueError, match="at least one non-zero"):
        BoostedTreesRegressor().fit(x, y, np.zeros(20))
    with pytest.raises(ValueError, match="OneVsRestClassifier"):
        BoostedTreesClassifier().fit(x, np.arange(20) % 3)
    with pytest.raises(TypeError, match="blocks must be ColumnBlocks, got ndarray"):
        BoostedTreesRegressor().fit_blocks(x, y)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="block_rows must be an integer"):
        ColumnBlocks.from_array(x, 1.5)  # type: ignore[arg-type]
