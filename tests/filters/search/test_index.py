"""The index, held against numpy by brute force."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercile import _native
from tercile.filters.search import FlatIndex, Index
from tercile.filters.search.columns import Column, read_attributes
from tercile.filters.search.lists import k_means, nearest_center, packed, unpacked
from tercile.filters.search.masks import passing, read_where
from tercile.filters.search.product_codes import product_codes
from tercile.filters.search.selectivity import ColumnShares, estimated_share
from tercile.filters.search.summaries import ListSummary, may_pass
from tercile.filters.search.vectors import Floats, Int8

RANDOM = np.random.default_rng(7)


def clustered(rows: int, dimension: int, clusters: int = 60, seed: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(clusters, dimension))
    return (centers[random.integers(clusters, size=rows)] + 0.6 * random.normal(size=(rows, dimension))).astype(
        np.float32
    )


def nearest(vectors: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray, metric: str = "l2") -> np.ndarray:
    """Rows of the k nearest among `rows`, in double precision."""
    x, q = vectors[rows].astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        x, q = x / np.linalg.norm(x, axis=1, keepdims=True), q / np.linalg.norm(q, axis=1, keepdims=True)
    distance = (
        -q @ x.T
        if metric != "l2"
        else ((q[:, None] - x[None]) ** 2).sum(-1)
        if len(q) * len(x) < 1e5
        else ((q**2).sum(1)[:, None] - 2 * q @ x.T + (x**2).sum(1)[None])
    )
    return rows[np.argsort(distance, axis=1, kind="stable")[:, :k]]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist())]))


@pytest.mark.parametrize("dimension", [1, 7, 16, 33, 128])
@pytest.mark.parametrize("codec", [Floats(32), Floats(16), Int8()], ids=lambda codec: codec.name)
@pytest.mark.parametrize("kernel_set", _native.available_kernels())
def test_every_set_of_kernels_computes_distances_as_numpy_does(dimension: int, codec: Any, kernel_set: str) -> None:
    x = RANDOM.normal(size=(37, dimension)).astype(np.float32)
    q = RANDOM.normal(size=(6, dimension)).astype(np.float32)
    codec = codec.fit(x)
    stored = codec.encode(x)
    kept = codec.decode(stored).astype(np.float64)
    for squared in (True, False):
        out = np.empty((6, 40), dtype=np.float32)
        asked = codec.ask(q, squared)
        _native.search_distances(asked.queries, stored.view(np.uint8), *asked[1:], kernel_set, out)
        expected = ((q[:, None] - kept[None]) ** 2).sum(-1) if squared else -q @ kept.T
        np.testing.assert_allclose(out[:, :37], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("pieces", [1, 5, 8, 16, 17, 31, 64])
@pytest.mark.parametrize("kernel_set", _native.available_kernels())
def test_product_codes_add_up_their_tables(kernel_set: str, pieces: int) -> None:
    codes = RANDOM.integers(256, size=(9, pieces)).astype(np.uint8)
    tables = RANDOM.normal(size=(3, pieces, 256)).astype(np.float32)
    out, none = np.empty((3, 12), dtype=np.float32), np.zeros(0, dtype=np.float32)
    _native.search_distances(tables.reshape(3, -1), codes, 3, True, none, none, kernel_set, out)
    expected = np.take_along_axis(tables[:, None], codes[None, :, :, None].astype(int), 3)[..., 0].sum(-1)
    np.testing.assert_allclose(out[:, :9], expected, rtol=1e-5, atol=1e-5)


def test_halves_of_every_value_come_back_from_the_plain_kernels() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = np.ascontiguousarray(halves[np.isfinite(halves)][:, None])
    one, out = np.zeros((1, 16), dtype=np.float32), np.empty((1, 65536), dtype=np.float32)
    one[0, 0] = -1
    asked = Floats(16).ask(one[:, :1], False)
    _native.search_distances(asked.queries, halves.view(np.uint8), *asked[1:], "plain", out)
    assert np.array_equal(out[0, : len(halves)], halves[:, 0].astype(np.float32))


def test_the_nearest_centre_is_that_of_brute_force() -> None:
    x, centers = RANDOM.normal(size=(500, 9)).astype(np.float32), RANDOM.normal(size=(37, 9)).astype(np.float32)
    distance = ((x[:, None].astype(np.float64) - centers) ** 2).sum(-1)
    assert np.array_equal(nearest_center(x, centers), distance.argmin(1))
    assert np.array_equal(unpacked(packed(centers), 37), centers)


def test_k_means_comes_as_near_as_lloyd_with_as_many_rounds() -> None:
    from scipy.cluster.vq import kmeans2

    x = clustered(4000, 8)
    ours = k_means(x, 50, seed=0, rounds=10)
    theirs, _ = kmeans2(x.astype(np.float64), 50, iter=10, seed=0, minit="points", missing="warn")
    error = [float(((x[:, None] - c) ** 2).sum(-1).min(1).mean()) for c in (ours, theirs)]
    assert error[0] <= 1.05 * error[1]
    with pytest.raises(ValueError, match="count must be between 1"):
        k_means(x[:3], 4, seed=0)


def test_no_list_stays_empty_when_rows_repeat() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    label = nearest_center(x, k_means(x, 3, seed=5))
    assert len(set(label.tolist())) == 3


@pytest.fixture(scope="module")
def large() -> tuple[Index, np.ndarray, dict[str, np.ndarray]]:
    x = clustered(30_000, 24, seed=11)
    random = np.random.default_rng(2)
    attributes = {
        "u": random.random(len(x)),
        "along": x[:, 0].astype(np.float64),
        "part": random.integers(5, size=len(x)),
    }
    index = Index(24, "l2")
    index.add(np.arange(len(x)), x, attributes)
    index.compact()
    return index, x, attributes


@pytest.mark.parametrize("where", [None, "u < 0.003", "u < 0.01", "u < 0.1", "u < 0.5", "part = 2 and u > 0.7"])
def test_recall_is_what_was_asked_for(where: str | None, large: Any) -> None:
    index, x, attributes = large
    queries = clustered(200, 24, seed=11) + 0.1 * np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)
    rows = np.arange(len(x))
    if where is not None:
        columns, schema = read_attributes(attributes, len(x), {})
        rows = np.flatnonzero(passing(read_where(where, schema), columns, len(x)))  # type: ignore[arg-type]
    true = nearest(x, queries, 10, rows)
    hits = index.search(queries, 10, where)
    assert recall(hits.ids, true) >= 0.99
    assert np.array_equal(index.search(queries, 10, where, recall=1).ids, true)
    alone = np.concatenate([index.search(query, 10, where).ids for query in queries[:50]])
    assert recall(alone, true[:50]) >= 0.99
    np.testing.assert_allclose(hits.distances, ((queries[:, None] - x[hits.ids]) ** 2).sum(-1), rtol=1e-4)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("side", ["far", "near"])
def test_recall_holds_when_the_filter_has_to_do_with_the_query(share: float, side: str, large: Any) -> None:
    index, x, attributes = large
    queries = x[np.argsort(-attributes["along"])[:100]] + np.float32(0.05)
    values = attributes["along"]
    limit = float(np.quantile(values, share if side == "far" else 1 - share))
    where = f"along {'<' if side == 'far' else '>'} {limit!r}"
    rows = np.flatnonzero(values < limit if side == "far" else values > limit)
    assert recall(index.search(queries, 10, where).ids, nearest(x, queries, 10, rows)) >= 0.99


def test_a_guess_that_is_wrong_by_a_hundred_is_noticed(large: Any) -> None:
    _, x, _ = large
    # Two columns that say the same: the planner multiplies 0.1 by 0.1, and by 0.9 each where they exclude each other.
    first = np.arange(len(x)) % 10
    index = Index(24, "l2")
    index.add(np.arange(len(x)), x, {"a": first, "b": first, "c": -first, "d": (first > 0).astype(int)})
    index.compact()
    queries = x[:40] + np.float32(0.01)
    for where, passes in (
        ("a = 3 and b = 3 and c = -3", first == 3),  # thought to be 0.1%, is 10%
        ("d = 1 and a < 5 and c < -4", np.zeros(len(x), dtype=bool)),  # thought to be a quarter, is none
    ):
        rows = np.flatnonzero(passes)
        hits = index.search(queries, 10, where)
        alone = index.search(queries[0], 10, where)
        if len(rows):
            assert hits.plan.share < 0.02
            assert recall(hits.ids, nearest(x, queries, 10, rows)) >= 0.99
        else:
            assert (hits.ids == -1).all() and np.isinf(hits.distances).all() and (alone.ids == -1).all()
            assert alone.plan.share > 0.1


def test_few_rows_that_lie_elsewhere_are_found_by_switching_to_a_scan(large: Any) -> None:
    _, x, _ = large
    kept = np.zeros(len(x), dtype=bool)
    kept[np.random.default_rng(1).choice(len(x), 40, replace=False)] = True
    one = np.random.default_rng(3).random(len(x))
    index = Index(24, "l2")  # each half of the filter passes a half of the rows, both together 40 rows
    index.add(np.arange(len(x)), x, {"a": one < 0.5, "b": (one >= 0.5) | kept})
    index.compact()
    passes = np.flatnonzero((one < 0.5) & kept)
    hits = index.search(x[:1], 5, "a and b")
    assert hits.plan.share > 0.2 and hits.plan.switched and hits.plan.method == "scan"
    assert np.array_equal(hits.ids, nearest(x, x[:1], 5, passes))


def test_vectors_far_from_the_origin_keep_their_order() -> None:
    x = (1e4 + RANDOM.normal(size=(300, 12))).astype(np.float32)
    index = FlatIndex(12, "l2")
    index.add(np.arange(300), x)
    assert np.array_equal(index.search(x[:20], 5).ids, nearest(x, x[:20], 5, np.arange(300)))


def test_product_codes_of_more_rows_than_a_block_find_the_nearest_by_their_tables() -> None:
    x = clustered(5000, 24, seed=6)
    codec = product_codes("pq12")
    assert codec is not None
    codec = codec.fit(x)
    stored, queries = codec.encode(x), x[:7] + np.float32(0.1)
    asked = codec.ask(queries, True)
    distance, row = np.full((7, 10), np.inf, dtype=np.float32), np.full((7, 10), -1, dtype=np.int64)
    which = np.arange(0, 5000, 2, dtype=np.uint32)
    _native.search_rows(asked.queries, stored, *asked[1:], which, 0, distance, row)
    apart = ((queries[:, None].astype(np.float64) - codec.decode(stored[::2])[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(np.sort(distance, axis=1), np.sort(apart, axis=1)[:, :10], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(apart, row // 2, 1), distance, rtol=1e-4)


def test_product_codes_far_from_the_origin_keep_their_order() -> None:
    near, away = clustered(3000, 8, seed=5), np.float32(1000)
    found = []
    for x in (near, near + away):
        index = Index(8, "l2", storage="pq4", lists=0)
        index.add(np.arange(3000), x)
        index.compact()
        found.append(index.search(x[:50], 10).ids)
    assert recall(found[1], found[0]) > 0.9


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("pq7", "cuts vectors into 7 pieces, which do not divide dimension 20"),
        ("pq0", "or product codes of so many bytes"),
    ],
)
def test_product_codes_that_do_not_fit_are_refused_before_anything_is_put_in(storage: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Index(20, storage=storage)


def test_product_codes_find_more_the_more_bytes_they_have(large: Any) -> None:
    _, x, attributes = large
    queries, rows = x[:100] + np.float32(0.02), np.flatnonzero(attributes["u"] < 0.5)
    true, found = nearest(x, queries, 10, rows), []
    for size in (3, 6, 12, 24):
        index = Index(24, "l2", storage=f"pq{size}")
        index.add(np.arange(len(x)), x, attributes)
        index.compact()
        assert index._now.base.vectors.nbytes == len(x) * size
        found.append(recall(index.search(queries, 10, "u < 0.5").ids, true))
    assert found == sorted(found) and found[0] < 0.5 < 0.9 < found[-1]


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_smaller_storage_finds_the_nearest_of_what_it_stores(storage: str) -> None:
    x = clustered(15_000, 20, seed=4)
    index = Index(20, "l2", storage=storage)
    index.add(np.arange(len(x)), x)
    index.compact()
    assert index._now.base.vectors.nbytes == len(x) * 20 * {"float16": 2, "int8": 1}[storage]
    queries = x[:60] + np.float32(0.02)
    kept = index.get(np.arange(len(x))).vectors
    assert recall(index.search(queries, 10).ids, nearest(kept, queries, 10, np.arange(len(x)))) >= 0.99
    assert recall(index.search(queries, 10).ids, nearest(x, queries, 10, np.arange(len(x)))) >= 0.9
    before = kept.copy()
    index.compact()
    assert np.allclose(index.get(np.arange(len(x))).vectors, before, atol=1e-5)


def test_a_text_that_comes_later_is_found_beside_those_on_disk(tmp_path: Path) -> None:
    index = Index(2, "l2")
    index.add([1, 2], [[0, 0], [1, 1]], {"lang": ["en", None]})
    index.save(tmp_path)
    with Index.open(tmp_path, writable=True) as opened:
        opened.add([3], [[2, 2]], {"lang": ["fr"], "stars": [5]})
        assert opened.search([2, 2], 3, "lang = 'fr' or lang = 'en'").ids.tolist() == [[3, 1, -1]]
        assert opened.search([2, 2], 3, "stars is null").ids.tolist() == [[2, 1, -1]]
        opened.compact()
        assert opened.search([2, 2], 3, "lang = 'fr' or lang = 'en'").ids.tolist() == [[3, 1, -1]]
        assert opened.get([1, 2, 3]).attributes == {"lang": ["en", None, "fr"], "stars": [None, None, 5]}


def test_an_update_keeps_what_is_not_given() -> None:
    index = Index(2, "l2")
    index.add([1, 2], [[0, 0], [3, 4]], {"year": [2000, None], "lang": ["en", "de"]})
    index.update([2], attributes={"year": [2024]})
    index.update([1], [[9, 9]])
    records = index.get([1, 2])
    assert records.vectors.tolist() == [[9, 9], [3, 4]]
    assert records.attributes == {"year": [2000, 2024], "lang": ["en", "de"]} and len(index) == 2
    assert index.search([3, 4], 2, "year = 2024").ids.tolist() == [[2, -1]]


def test_readers_in_threads_see_whole_changes_only() -> None:
    index = Index(3, "l2")
    index.add(np.arange(20), np.zeros((20, 3)), {"round": [0] * 20})
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            found = index.search([0, 0, 0], 40)
            if (found.ids >= 0).sum() != 20:
                wrong.append(found.ids)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 60):
        index.update(np.arange(20), np.zeros((20, 3)), {"round": [number] * 20})
        if number % 20 == 0:
            index.compact()
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda i: i.add([1], [[0, 0]]), "ids holds 1, which is in the index; use update"),
        (lambda i: i.add([5, 5], [[0, 0], [0, 0]]), "ids holds 5 more than once"),
        (lambda i: i.add([[5]], [[0, 0]]), "ids must have one dimension"),
        (lambda i: i.add([-1], [[0, 0]]), "ids must lie between 0"),
        (lambda i: i.add(["a"], [[0, 0]]), "ids must be integers"),
        (lambda i: i.add([5], [[0, 0, 0]]), "vectors must have shape (1, 2), got (1, 3)"),
        (lambda i: i.add([5], [[0, np.nan]]), "vectors[0] holds NaN"),
        (lambda i: i.add([5], [[0, 1e300]]), "beyond float32"),
        (lambda i: i.add([5], [["a", "b"]]), "vectors must be numbers"),
        (lambda i: i.delete([77]), "ids holds 77, which is not in the index"),
        (lambda i: i.update([77], [[0, 0]]), "ids holds 77, which is not in the index"),
        (lambda i: i.get([77]), "ids holds 77"),
        (lambda i: i.search([0, 0], 0), "k must be a whole number of at least 1, got 0"),
        (lambda i: i.search([0, 0], 2.5), "k must be a whole number"),
        (lambda i: i.search([0, 0], 2, recall=0), "recall must be above 0"),
        (lambda i: i.search([0, 0, 0], 2), "queries must have shape (n, 2)"),
        (lambda i: i.search([0, 0], 2, where="nix = 3"), "no column is named 'nix'"),
        (lambda i: i.search([0, 0], 2, where=3), "where must be a text"),
        (lambda i: Index(0), "dimension must be a whole number of at least 1"),
        (lambda i: Index(2, "euclid"), "metric must be one of l2, ip, cosine, got 'euclid'"),  # type: ignore[arg-type]
        (lambda i: Index(2, storage="int3"), "storage must be one of"),
        (lambda i: Index(2, lists=-1), "lists must be a whole number"),
        (lambda i: Index(2, "cosine").add([1], [[0, 0]]), "vectors[0] is all zeros"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(call: Any, said: str) -> None:
    index = Index(2, "l2")
    index.add([1, 2], [[0, 0], [1, 1]], {"year": [1, 2]})
    with pytest.raises((ValueError, TypeError)) as caught:
        call(index)
    assert said in str(caught.value)
    assert len(index) == 2 and index.schema == {"year": "integer"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-50, 50)), min_size=1, max_size=60), st.integers(-60, 60), st.data())
def test_lists_that_are_skipped_hold_no_row_that_passes(values: list[int | None], limit: int, data: Any) -> None:
    text = ["abcdefgh"[v % 8] if v is not None else None for v in values]
    columns, schema = read_attributes(
        {"n": values, "r": [v and v / 7 for v in values], "t": text},
        len(values),
        {"n": "integer", "r": "real", "t": "text"},
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=6)))
    begins = np.array([0, *cuts, len(values)])
    summaries = {name: ListSummary.of(column, begins) for name, column in columns.items()}
    where_text = data.draw(
        st.sampled_from(
            [
                "n < {}",
                "n >= {}",
                "n = {}",
                "n != {}",
                "not n in ({}, 3)",
                "n in ({}, 3)",
                "r > {}",
                "r = {}",
                "t = 'c'",
                "t != 'c'",
                "t in ('a', 'zz')",
                "t is null",
                "n is not null",
                "n > {} and t = 'a'",
                "n > {} or t = 'a'",
            ]
        )
    ).format(limit)
    where = read_where(where_text, schema)
    assert where is not None
    mask = passing(where, columns, len(values))
    texts = {"t": columns["t"].texts}
    possible = may_pass(where, summaries, texts, len(begins) - 1)  # type: ignore[arg-type]
    for i, (begin, end) in enumerate(itertools.pairwise(begins)):
        assert possible[i] or not mask[begin:end].any()


def test_shares_are_guessed_within_a_few_percent() -> None:
    random = np.random.default_rng(0)
    rows = 20_000
    columns, schema = read_attributes(
        {
            "u": random.random(rows),
            "n": random.integers(100, size=rows),
            "lang": random.choice(["en", "de", "fr"], p=[0.7, 0.2, 0.1], size=rows).tolist(),
            "flag": random.random(rows) < 0.3,
            "gone": [None if v < 0.25 else 1.0 for v in random.random(rows)],
        },
        rows,
        {},
    )
    shares = {name: ColumnShares.of([column[:7000], column[7000:]]) for name, column in columns.items()}
    for text in (
        "u < 0.2",
        "u between 0.3 and 0.4",
        "n = 7",
        "n < 30 and n >= 20",
        "lang = 'de'",
        "not lang = 'en'",
        "flag",
        "not flag and u > 0.5",
        "gone is null",
        "gone = 1",
        "lang in ('de', 'fr') or n > 89",
        "lang = 'xx'",
    ):
        where = read_where(text, schema)
        assert where is not None
        true = float(passing(where, columns, rows).mean())
        assert abs(estimated_share(where, shares) - true) < 0.03, text
    again = {name: ColumnShares.from_plain(share.to_plain()) for name, share in shares.items()}
    where = read_where("n < 30 and lang = 'de'", schema)
    assert estimated_share(where, again) == estimated_share(where, shares)
    assert isinstance(columns["gone"], Column)
