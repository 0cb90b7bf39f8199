"""Filtered search by others, each with its settings from fast to thorough: what our index is timed beside.

Every entry is given the filter ready-made, as the rows that pass. By when it looks at it: brute force filters first,
faiss' lists and graph and hnswlib's graph filter inside the search, and usearch, whose Python interface takes none, is
asked for more neighbours, of which those that don't pass are dropped.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Search = Callable[[np.ndarray], np.ndarray]
#: Links of a graph's nodes, and how many neighbours are looked at while one is built.
LINKS, BUILT_WITH = 16, 100
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Setting:
    """One way to ask an entry, and how many queries it is given: fewer where a call into Python decides each row."""

    name: str
    search: Search
    queries: int


@dataclass(frozen=True)
class Best:
    """An entry at the first of its settings that reaches the recall, or at the one that comes nearest to it."""

    setting: Setting
    recall: float


class Peers:
    """Entries over the same vectors, built once: squared distances, one thread.

    Parameters
    ----------
    x
        float32 (n, dimension).
    lists
        For faiss' lists, one index each; none leaves out all that needs a package beyond numpy.

    Attributes
    ----------
    build
        Processor seconds by entry.
    stored
        Bytes by entry, as it writes itself.
    """

    def __init__(self, x: np.ndarray, lists: tuple[int, ...] = (512, 1024)) -> None:
        self.x = x
        self.build: dict[str, float] = {}
        self.stored: dict[str, int] = {}
        self.indexes: dict[str, Any] = {}
        if lists:
            self._build(lists)

    def _build(self, lists: tuple[int, ...]) -> None:
        faiss, hnswlib, usearch = (imported(name) for name in ("faiss", "hnswlib", "usearch.index"))
        faiss.omp_set_num_threads(1)
        dimension, keys = self.x.shape[1], np.arange(len(self.x))
        for count in lists:
            ivf = faiss.index_factory(dimension, f"IVF{count},Flat")
            self._add(f"faiss IVF-{count}", ivf, lambda i: (i.train(self.x), i.add(self.x)), faiss_bytes)
        graph = faiss.IndexHNSWFlat(dimension, LINKS)
        graph.hnsw.efConstruction = BUILT_WITH
        self._add(f"faiss HNSW M={LINKS}", graph, lambda i: i.add(self.x), faiss_bytes)
        graph = hnswlib.Index("l2", dimension)
        graph.init_index(len(self.x), M=LINKS, ef_construction=BUILT_WITH)
        self._add(f"hnswlib M={LINKS}", graph, lambda i: i.add_items(self.x, keys, num_threads=1), file_bytes)
        graph = usearch.Index(
            ndim=dimension, metric="l2sq", dtype="f32", connectivity=LINKS, expansion_add=BUILT_WITH, multi=False
        )
        self._add(f"usearch M={LINKS}", graph, lambda i: i.add(keys, self.x, threads=1), lambda i: i.serialized_length)

    def _add(self, name: str, index: Any, build: Callable[[Any], Any], size: Callable[[Any], int]) -> None:
        self.build[name] = timed(lambda: build(index))
        self.stored[name], self.indexes[name] = int(size(index)), index

    def ways(self, rows: np.ndarray, k: int, queries: int) -> Iterator[tuple[str, list[Setting]]]:
        """Each entry for the filter that passes these rows, its settings from fast to thorough."""
        mask = np.zeros(len(self.x), dtype=bool)
        mask[rows] = True
        yield "numpy brute force", [Setting("", lambda q: exact(self.x, q, rows, k), queries)]
        if not self.indexes:
            return
        faiss = imported("faiss")
        kept = np.ascontiguousarray(self.x[rows])
        # faiss.knn counts what it finds among the rows that pass.
        yield "faiss brute force", [Setting("", lambda q: rows[faiss.knn(q, kept, k)[1]], queries)]
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

        def by_faiss(q: np.ndarray, index: Any, given: Any) -> np.ndarray:
            return np.asarray(index.search(q, k, params=given)[1])

        def by_callback(q: np.ndarray, index: Any, width: int) -> np.ndarray:
            index.set_ef(max(width, k))
            return np.asarray(index.knn_query(q, k, num_threads=1, filter=lambda i: bool(mask[i]))[0])

        for name, index in self.indexes.items():
            ways: list[tuple[str, Search]]
            if name.startswith("faiss IVF"):
                ways = [
                    (
                        f"nprobe {probes}",
                        partial(by_faiss, index=index, given=faiss.SearchParametersIVF(sel=selector, nprobe=probes)),
                    )
                    for probes in (*(p for p in PROBES if p < index.nlist), index.nlist)
                ]
            elif name.startswith("faiss"):
                ways = [
                    (
                        f"ef {width}",
                        partial(by_faiss, index=index, given=faiss.SearchParametersHNSW(sel=selector, efSearch=width)),
                    )
                    for width in WIDTHS
                ]
            elif name.startswith("hnswlib"):
                ways = [(f"ef {width}", partial(by_callback, index=index, width=width)) for width in (16, 64, 256)]
            else:
                ways = [
                    (f"{factor} x k/share", partial(self._more, index=index, mask=mask, k=k, factor=factor))
                    for factor in (1.5, 4, 16)
                ]
            count = {"hnswlib": 25, "usearch": 25}.get(name.split()[0], queries)
            yield name, [Setting(said, way, min(count, queries)) for said, way in ways]

    def _more(self, q: np.ndarray, index: Any, mask: np.ndarray, k: int, factor: float) -> np.ndarray:
        wanted = min(len(self.x), int(factor * k * len(self.x) / mask.sum()))
        found = index.search(q, wanted, threads=1).keys.astype(np.int64).reshape(len(q), -1)
        out = np.full((len(q), k), -1)
        for one, keys in zip(out, found):
            passed = keys[mask[keys]][:k]
            one[: len(passed)] = passed
        return out


def tuned(
    peers: Peers, rows: np.ndarray, queries: np.ndarray, true: np.ndarray, goal: float, slow: float = np.inf
) -> dict[str, Best]:
    """Each entry at its first setting whose recall is the goal; one that takes longer than `slow` seconds stops there.

    Parameters
    ----------
    rows
        That pass. queries, true: and the rows that are nearest to each.
    """
    chosen: dict[str, Best] = {}
    for name, settings in peers.ways(rows, true.shape[1], len(queries)):
        for setting in settings:
            start = time.process_time()
            found = recall(setting.search(queries[: setting.queries]), true)
            if name not in chosen or found > chosen[name].recall:
                chosen[name] = Best(setting, found)
            if found >= goal or time.process_time() - start > slow:
                break
    return chosen


def speeds(ways: dict[str, Setting], queries: np.ndarray, repeats: int) -> dict[str, float]:
    """Queries a second by entry: the least processor time of the repeats, which take turns."""
    least = dict.fromkeys(ways, np.inf)
    for repeat in range(repeats):
        for name, way in ways.items():
            if repeat == 0 or way.queries == len(queries):  # those with few queries are far behind
                least[name] = min(least[name], timed(lambda w=way: w.search(queries[: w.queries])))  # type: ignore[misc]
    return {name: way.queries / max(least[name], 1e-9) for name, way in ways.items()}


def imported(name: str) -> Any:
    """A peer's module; none of them is needed but here."""
    return importlib.import_module(name)


def exact(x: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of the rows that pass, in no order: brute force as one writes it in numpy."""
    kept = x[rows]
    distance = np.square(kept).sum(axis=1)[None] - 2 * (queries @ kept.T)
    return rows[np.argpartition(distance, k - 1, axis=1)[:, :k]]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the true nearest among what was found, for as many queries as there are answers.

    >>> recall(np.array([[1, 2]]), np.array([[2, 3], [4, 5]]))
    0.5
    """
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist())]))


def timed(call: Callable[[], Any]) -> float:
    """Processor seconds of a call on one thread: other work on the machine only ever adds to them."""
    start = time.process_time()
    call()
    return time.process_time() - start


def faiss_bytes(index: Any) -> int:
    """Of a faiss index as it writes itself."""
    return int(imported("faiss").serialize_index(index).nbytes)


def file_bytes(index: Any) -> int:
    """Of an index that only writes files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.save_index(str(path))
        return path.stat().st_size
