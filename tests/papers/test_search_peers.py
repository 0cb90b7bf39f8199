"""What filtered search is timed beside: brute force against a plain definition, settings from fast to thorough."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.papers.definitions import attributes
from tercile.papers.fanns_benchmark import FILTERS, passing
from tercile.papers.search_peers import Peers, exact, recall, speeds, tuned

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2000, 8)).astype(np.float32)
QUERIES = RANDOM.normal(size=(120, 8)).astype(np.float32)
ROWS = np.flatnonzero(RANDOM.random(2000) < 0.1)


def nearest() -> np.ndarray:
    apart = np.linalg.norm(QUERIES[:, None].astype(np.float64) - X[ROWS][None], axis=2)
    return ROWS[np.argsort(apart, axis=1)[:, :10]]


def test_brute_force_finds_the_nearest_of_the_rows_that_pass() -> None:
    found = exact(X, QUERIES, ROWS, 10)
    assert np.array_equal(np.sort(found, axis=1), np.sort(nearest(), axis=1))
    assert recall(found, nearest()) == 1 and recall(found[:, :5], nearest()) == 0.5


def test_every_entry_finds_what_it_should_and_is_asked_no_more_thoroughly_than_it_must_be() -> None:
    for name in ("faiss", "hnswlib", "usearch.index"):
        pytest.importorskip(name)
    peers = Peers(X, (20,))
    chosen = tuned(peers, ROWS, QUERIES, nearest(), 0.99)
    assert set(peers.build) == set(peers.stored) == {"faiss IVF-20", "faiss HNSW M=16", "hnswlib M=16", "usearch M=16"}
    assert set(chosen) == set(peers.build) | {"numpy brute force", "faiss brute force"}
    assert min(best.recall for best in chosen.values()) >= 0.99
    assert all(size > X.nbytes for size in peers.stored.values())
    # Of faiss' lists, twice as few would not do.
    ways = dict(peers.ways(ROWS, 10, len(QUERIES)))["faiss IVF-20"]
    at = [way.name for way in ways].index(chosen["faiss IVF-20"].setting.name)
    assert all(recall(way.search(QUERIES), nearest()) < 0.99 for way in ways[:at])
    fast = speeds({name: best.setting for name, best in chosen.items()}, QUERIES, 1)
    assert set(fast) == set(chosen) and min(fast.values()) > 0


def test_without_peers_numpy_alone_is_left() -> None:
    assert list(tuned(Peers(X, ()), ROWS, QUERIES, nearest(), 0.99)) == ["numpy brute force"]


def test_the_filters_of_the_experiment_mean_in_numpy_what_they_mean_in_the_index() -> None:
    from tercile.filters.search.columns import read_attributes
    from tercile.filters.search.masks import passing as passing_in_the_index
    from tercile.filters.search.masks import read_where

    columns, schema = read_attributes(attributes(), 104_000, {})
    shares = []
    for where in FILTERS.values():
        tree = read_where(where, schema)
        assert tree is not None
        ours = passing_in_the_index(tree, columns, 104_000)
        assert np.array_equal(ours, passing(where, attributes()))
        shares.append(float(ours.mean()))
    assert 0.0005 < min(shares) < 0.001 and 0.7 < max(shares) < 0.8
