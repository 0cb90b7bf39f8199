"""An index written from a stream holds what the stream gave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercile.filters.search import Index, write_index

WORDS = ["en", "de", "fr", "it", "é'", ""]


def batches(rows: int = 60_000, size: int = 2500) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    for start in range(0, rows, size):
        random = np.random.default_rng(start)
        here = np.arange(start, min(start + size, rows))
        # Each batch has the words in another order, and its arrays are gone when the next one comes.
        words = random.permutation(WORDS)
        yield (
            here,
            random.normal(size=(len(here), 6)),
            {"word": words[random.integers(6, size=len(here))], "n": here % 10},
        )


@pytest.mark.parametrize("storage", ["float16", "int8", "pq6", "opq3"])
def test_a_stream_is_kept_in_fewer_bytes_as_an_index_in_memory_is(storage: str, tmp_path: Path) -> None:
    write_index(tmp_path, lambda: batches(10_000), 6, "cosine", storage=storage)
    stream, memory = Index.open(tmp_path), Index(6, "cosine", storage=storage)
    for ids, vectors, attributes in batches(10_000):
        memory.add(ids, vectors, attributes)
    memory.compact()
    given = np.concatenate([vectors for _, vectors, _ in batches(10_000)])
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    error = [float(np.square(one.get(np.arange(10_000)).vectors - given).mean()) for one in (stream, memory)]
    # Each learnt from a sample of its own.
    assert error[0] == pytest.approx(error[1], rel=0.1)
    assert stream._now.base.vectors.shape[1] == {"pq6": 6, "opq3": 3}.get(storage, 6)


def test_every_row_is_there_with_its_own_vector_and_attributes(tmp_path: Path) -> None:
    write_index(tmp_path, batches, 6, "l2")
    index = Index.open(tmp_path)
    assert len(index) == 60_000 and index._now.base.lists is not None and index.damaged() == []
    for ids, vectors, attributes in batches():
        kept = index.get(ids)
        assert np.array_equal(kept.vectors, np.asarray(vectors, dtype=np.float32))
        assert kept.attributes["word"] == attributes["word"].tolist()
        assert kept.attributes["n"] == attributes["n"].tolist()


def test_a_stream_finds_what_an_index_in_memory_finds(tmp_path: Path) -> None:
    write_index(tmp_path, lambda: batches(12_000), 6, "l2")
    memory = Index(6, "l2")
    for ids, vectors, attributes in batches(12_000):
        memory.add(ids, vectors, attributes)
    queries = np.random.default_rng(1).normal(size=(20, 6))
    for where in (None, "word = 'é''' and n < 5", "word in ('', 'it') or n = 3"):
        one = Index.open(tmp_path).search(queries, 7, where, recall=1)
        assert np.array_equal(one.ids, memory.search(queries, 7, where, recall=1).ids)


def test_an_id_that_comes_twice_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    def twice() -> Iterator[tuple[Any, Any, dict[str, Any]]]:
        yield [1, 2], np.zeros((2, 3)), {}
        yield [3, 1], np.zeros((2, 3)), {}

    with pytest.raises(ValueError, match="ids holds 1 more than once"):
        write_index(tmp_path, twice, 3, "l2")
    with pytest.raises(ValueError, match="holds no index"):
        Index.open(tmp_path)


def test_an_empty_stream_makes_an_empty_index(tmp_path: Path) -> None:
    write_index(tmp_path, lambda: iter(()), 3, "l2")
    assert len(Index.open(tmp_path)) == 0
