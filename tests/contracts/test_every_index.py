"""Every index of the room, with every way to keep vectors, keeps what an index promises under every metric and filter.

What is found is held against brute force in double precision over the vectors that the index says it keeps.
"""

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
STORAGES = ("float32", "float16", "int8", "pq6", "opq6")
every_index = pytest.mark.parametrize("kind", INDEXES, ids=lambda kind: kind.__name__)
every_storage = pytest.mark.parametrize("storage", STORAGES)
ROWS, DIMENSION, LISTS = 3000, 12, 50
FILTERS = (
    None,
    "n < 5",
    "n = 3 and flag",
    "lang in ('en', 'fr') and not flag",
    "n is null",
    "r between 0.2 and 0.21",
    "false",
)


def empty(kind: type[Index], dimension: int, metric: Any, storage: str) -> Index:
    """With lists where it has some, though there are few rows."""
    options = {"lists": LISTS} if kind is Index else {}
    return kind(dimension, metric, storage=storage, **options)


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


def some(attributes: dict[str, Any], rows: slice | np.ndarray) -> dict[str, Any]:
    return {name: np.array(values, dtype=object)[rows].tolist() for name, values in attributes.items()}


def passes(where: str | None, a: dict[str, Any]) -> np.ndarray:
    n = np.array([np.nan if v is None else v for v in a["n"]], dtype=float)
    lang, flag, r = np.array(a["lang"]), np.array(a["flag"], dtype=bool), np.array(a["r"], dtype=float)
    answers: dict[str | None, Any] = {
        None: np.ones(len(n), dtype=bool), "n < 5": n < 5, "n = 3 and flag": (n == 3) & flag,
        "lang in ('en', 'fr') and not flag": (lang != "de") & ~flag, "n is null": np.isnan(n),
        "r between 0.2 and 0.21": (r >= 0.2) & (r <= 0.21), "false": np.zeros(len(n), dtype=bool),
    }  # fmt: skip
    return np.asarray(answers[where])


def distances(metric: str, kept: np.ndarray, queries: np.ndarray) -> np.ndarray:
    a, q = kept.astype(np.float64), queries.astype(np.float64)
    if metric == "ip":
        return -q @ a.T
    if metric == "cosine":  # of what is kept, which rounding has taken off length 1
        q = q / np.linalg.norm(q, axis=1, keepdims=True)
    squares = ((q[:, None] - a[None]) ** 2).sum(axis=2)
    return squares / 2 if metric == "cosine" else squares


def check(index: Index, metric: str, queries: np.ndarray, alive: np.ndarray, attributes: dict[str, Any]) -> None:
    """Holds rows `alive` with these attributes, finds 0.98 of the nearest by default, and all when asked for all."""
    assert len(index) == len(alive)
    records = index.get(alive)
    assert {name: list(values) for name, values in records.attributes.items()} == attributes
    exact = distances(metric, records.vectors, queries)
    size = float(np.abs(exact).max())
    found, wanted = 0, 0
    for where in FILTERS:
        mask = passes(where, attributes)
        true = np.sort(exact[:, mask], axis=1)[:, :10]
        for recall in (0.99, 1):
            hits = index.search(queries, 10, where, recall=recall)
            assert set(hits.ids[hits.ids >= 0].tolist()) <= set(alive[mask].tolist()), where
            assert (hits.distances[:, 1:] >= hits.distances[:, :-1]).all(), where
            got = hits.distances[:, : true.shape[1]]
            assert np.isinf(hits.distances[:, true.shape[1] :]).all() and (hits.ids[:, true.shape[1] :] == -1).all()
            if recall == 1:
                np.testing.assert_allclose(got, true, rtol=1e-4, atol=1e-5 * size, err_msg=str(where))
            elif true.size:
                found += int((got <= true[:, -1:] + 1e-5 * size).sum())
                wanted += true.size
    assert found >= 0.98 * wanted


@every_index
@every_storage
@pytest.mark.parametrize("metric", METRICS)
def test_all_that_an_index_lives_through_leaves_it_with_the_rows_and_neighbours_that_it_should_have(
    kind: type[Index], storage: str, metric: Any, tmp_path: Path
) -> None:
    x, attributes, ids = made(1)
    queries = x[:12] + np.float32(0.03)
    index = empty(kind, DIMENSION, metric, storage)
    half, gone = ROWS // 2, np.arange(ROWS) % 5 == 0
    index.add(ids[:half], x[:half], some(attributes, slice(0, half)))
    index.compact()
    index.add(ids[half:], x[half:], some(attributes, slice(half, ROWS)))
    check(index, metric, queries, ids, some(attributes, slice(0, ROWS)))
    index.delete(ids[gone])
    check(index, metric, queries, ids[~gone], some(attributes, ~gone))
    index.compact()
    check(index, metric, queries, ids[~gone], some(attributes, ~gone))
    index.save(tmp_path)
    with kind.open(tmp_path, writable=True) as opened:
        check(opened, metric, queries, ids[~gone], some(attributes, ~gone))
        opened.add(ids[gone], x[gone], some(attributes, gone))
        # A quarter of the rows gets other vectors, another quarter other attributes.
        moved, renamed = ids[::4], ids[1::4]
        opened.update(moved, -x[::4])
        opened.update(renamed, attributes={"n": [7] * len(renamed)})
        now = some(attributes, slice(0, ROWS))
        now["n"][1::4] = [7] * len(renamed)
        check(opened, metric, queries, ids, now)
        kept = opened.get(moved).vectors
        wanted = -x[::4] / (np.linalg.norm(x[::4], axis=1, keepdims=True) if metric == "cosine" else 1)
        np.testing.assert_allclose(kept, wanted, rtol=1e-6)  # new rows are kept as they are until they are compacted
    check(kind.open(tmp_path), metric, queries, ids, now)


@every_index
@every_storage
def test_a_reader_sees_the_rows_of_one_moment_until_it_looks_again(
    kind: type[Index], storage: str, tmp_path: Path
) -> None:
    x, attributes, ids = made(3)
    index = empty(kind, DIMENSION, "l2", storage)
    index.add(ids[:600], x[:600], some(attributes, slice(0, 600)))
    index.save(tmp_path)
    reader = kind.open(tmp_path)
    before = reader.search(x[:5], 10, "n < 5")
    with kind.open(tmp_path, writable=True) as writer:
        writer.add(ids[600:700], x[600:700], some(attributes, slice(600, 700)))
        writer.delete(ids[:100])
        writer.compact()
        writer.delete(ids[100:150])
        again = reader.search(x[:5], 10, "n < 5")
        assert len(reader) == 600 and np.array_equal(again.ids, before.ids)
        assert np.array_equal(again.distances, before.distances)
        reader.refresh()
        check(reader, "l2", x[:5], ids[150:700], some(attributes, slice(150, 700)))


@every_index
@every_storage
def test_an_empty_index_finds_nothing_and_fewer_rows_than_k_are_all_found(
    kind: type[Index], storage: str, tmp_path: Path
) -> None:
    index = empty(kind, 6, "l2", storage)
    assert index.search(np.zeros((2, 6)), 4).ids.tolist() == [[-1] * 4] * 2
    index.save(tmp_path)
    opened = kind.open(tmp_path, writable=True)
    opened.add([5, 3], np.zeros((2, 6)))
    assert opened.search(np.zeros(6), 4).ids.tolist() == [[3, 5, -1, -1]]
    opened.compact()
    assert opened.search(np.zeros(6), 4).ids.tolist() == [[3, 5, -1, -1]]
    opened.delete([3, 5])
    opened.compact()
    assert len(opened) == 0 and opened.search(np.zeros((0, 6)), 1).ids.shape == (0, 1)
    opened.close()


@every_index
@every_storage
def test_the_same_calls_give_the_same_answers(kind: type[Index], storage: str) -> None:
    x, attributes, ids = made(2)
    answers = []
    for _ in range(2):
        index = empty(kind, DIMENSION, "l2", storage)
        index.add(ids, x, attributes)
        index.compact()
        answers.append(index.search(x[:20], 5, "n < 5").ids.tolist())
    assert answers[0] == answers[1]


@every_index
@every_storage
def test_putting_rows_in_order_again_does_not_wear_them_out(kind: type[Index], storage: str) -> None:
    x, _, ids = made(4)
    index = empty(kind, DIMENSION, "cosine", storage)
    index.add(ids, x)
    index.compact()
    once = index.get(ids).vectors
    for _ in range(2):
        index.compact()
    np.testing.assert_allclose(index.get(ids).vectors, once, atol=1e-5)
