"""Every index of the room keeps what an index promises, under every metric and filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercile.filters import search
from tercile.filters.search import Index
from tercile.filters.search.index import METRICS

INDEXES = [
    member
    for member in (getattr(search, name) for name in search.__all__)
    if isinstance(member, type) and issubclass(member, Index)
]
every_index = pytest.mark.parametrize("kind", INDEXES, ids=lambda kind: kind.__name__)
ROWS, DIMENSION = 12_000, 12
FILTERS = (
    None,
    "n < 5",
    "n = 3 and flag",
    "lang in ('en', 'fr') and not flag",
    "n is null",
    "r between 0.2 and 0.21",
    "false",
)


def made(seed: int) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(40, DIMENSION))[random.integers(40, size=ROWS)] + 0.5 * random.normal(
        size=(ROWS, DIMENSION)
    )
    attributes = {
        "n": [None if v == 9 else int(v) for v in random.integers(10, size=ROWS)],
        "r": random.random(ROWS),
        "flag": random.random(ROWS) < 0.5,
        "lang": random.choice(["en", "de", "fr"], size=ROWS).tolist(),
    }
    return x.astype(np.float32), attributes, random.permutation(10 * ROWS)[:ROWS]


def passes(where: str | None, a: dict[str, Any]) -> np.ndarray:
    n = np.array([np.nan if v is None else v for v in a["n"]])
    lang = np.array(a["lang"])
    answers: dict[str | None, Any] = {
        None: np.ones(ROWS, dtype=bool), "n < 5": n < 5, "n = 3 and flag": (n == 3) & a["flag"],
        "lang in ('en', 'fr') and not flag": (lang != "de") & ~a["flag"], "n is null": np.isnan(n),
        "r between 0.2 and 0.21": (a["r"] >= 0.2) & (a["r"] <= 0.21), "false": np.zeros(ROWS, dtype=bool),
    }  # fmt: skip
    return np.asarray(answers[where])


def true_ids(metric: str, x: np.ndarray, ids: np.ndarray, queries: np.ndarray, mask: np.ndarray, k: int) -> np.ndarray:
    a, q = x[mask].astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        a, q = a / np.linalg.norm(a, axis=1, keepdims=True), q / np.linalg.norm(q, axis=1, keepdims=True)
    distance = -q @ a.T if metric == "ip" else (q**2).sum(1)[:, None] - 2 * q @ a.T + (a**2).sum(1)
    return ids[mask][np.argsort(distance, axis=1)[:, :k]]


@every_index
@pytest.mark.parametrize("metric", METRICS)
def test_recall_holds_under_every_filter_through_all_that_an_index_lives_through(
    kind: type[Index], metric: Any, tmp_path: Path
) -> None:
    x, attributes, ids = made(1)
    queries = x[:30] + np.float32(0.03)
    index = kind(DIMENSION, metric)
    half = ROWS // 2
    for part in (slice(0, half), slice(half, ROWS)):
        index.add(ids[part], x[part], {name: values[part] for name, values in attributes.items()})
        if part.start == 0:
            index.compact()
    gone = np.zeros(ROWS, dtype=bool)
    gone[::5] = True

    def check(index: Index, alive: np.ndarray) -> None:
        assert len(index) == alive.sum()
        for where in FILTERS:
            mask = passes(where, attributes) & alive
            hits = index.search(queries, 10, where)
            true = true_ids(metric, x, ids, queries, mask, 10)
            assert set(hits.ids[hits.ids >= 0].tolist()) <= set(ids[mask].tolist())
            found = np.mean([len(set(a) & set(b)) / max(len(b), 1) for a, b in zip(hits.ids.tolist(), true.tolist())])
            assert found >= 0.98 or not mask.any(), where  # 300 neighbours: 0.99 give or take
            exact = index.search(queries, 10, where, recall=1).ids
            assert np.array_equal(exact[:, : true.shape[1]], true), where
            assert (hits.distances[:, 1:] >= hits.distances[:, :-1]).all()

    check(index, np.ones(ROWS, dtype=bool))
    index.delete(ids[gone])
    check(index, ~gone)
    index.compact()
    check(index, ~gone)
    index.save(tmp_path)
    with kind.open(tmp_path, writable=True) as opened:
        check(opened, ~gone)
        opened.add(
            ids[gone], x[gone], {name: np.array(v, dtype=object)[gone].tolist() for name, v in attributes.items()}
        )
        check(opened, np.ones(ROWS, dtype=bool))
    check(kind.open(tmp_path), np.ones(ROWS, dtype=bool))


@every_index
def test_an_empty_index_finds_nothing_and_fewer_rows_than_k_are_all_found(kind: type[Index], tmp_path: Path) -> None:
    index = kind(3, "l2")
    assert index.search(np.zeros((2, 3)), 4).ids.tolist() == [[-1] * 4] * 2
    index.save(tmp_path)
    opened = kind.open(tmp_path, writable=True)
    opened.add([5, 3], np.zeros((2, 3)))
    assert opened.search(np.zeros(3), 4).ids.tolist() == [[3, 5, -1, -1]]
    opened.delete([3, 5])
    opened.compact()
    assert len(opened) == 0 and opened.search(np.zeros((0, 3)), 1).ids.shape == (0, 1)
    opened.close()


@every_index
def test_the_same_calls_give_the_same_answers(kind: type[Index]) -> None:
    x, attributes, ids = made(2)
    answers = []
    for _ in range(2):
        index = kind(DIMENSION, "l2")
        index.add(ids, x, attributes)
        index.compact()
        answers.append(index.search(x[:20], 5, "n < 5").ids.tolist())
    assert answers[0] == answers[1]
