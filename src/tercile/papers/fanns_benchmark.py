"""Filtered search over embeddings of short texts with what is known of each text, beside its peers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tercile.filters.search import Index
from tercile.filters.search.index import TAIL
from tercile.papers import Check, Size, paper
from tercile.papers.definitions import attributes, definitions
from tercile.papers.search_peers import Best, Peers, Setting, exact, recall, speeds, timed, tuned

PAPER = paper(
    "fanns_benchmark",
    authors="Iff, Brügger, Chrapek, Besta, Hoefler",
    year=2025,
    source="arXiv:2507.21989",
)
MEASURED_ON = (
    "MiniLM embeddings (256 of their directions) of WordNet's definitions, Bible verses and Python's documentation, "
    "104,000 in all, with source, part of speech, category, number of words and year; queries are words that a "
    "definition defines. Ten nearest under ten filters that pass 0.1% to 77%: ranges, sets, equality, and, or. Queries "
    "a second of processor time, one thread, all queries in a call, every entry at its first setting that finds 0.99 "
    "of the nearest; seconds to build and bytes as stored; and what is found from vectors kept in fewer bytes"
)
BASELINE = (
    "in the same run with the filter ready-made: brute force over the rows that pass in numpy and faiss, faiss IVF "
    "(512 and 1,024 lists) and HNSW with a selector, hnswlib with a filter, and usearch asked for more and filtered "
    "after. A limit is the fastest of those that reach 0.99"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"texts": 24_000, "queries": 100, "repeats": 1, "peers": "numpy", "fewer bytes": "int8"},
    "full": {
        "texts": 104_000,
        "queries": 300,
        "repeats": 3,
        "peers": "all",
        "fewer bytes": "int8 opq64 opq32",
        "seeds": "queries",
    },
}
SEEDS = (0, 1)
K, GOAL = 10, 0.99
#: From narrow to wide on all texts.
FILTERS = {
    "war_years": "year between 1939 and 1945",
    "long_verbs": "part = 'verb' and words > 12",
    "recent_or_animal": "year >= 1900 and words < 30 or category = 'noun.animal' and words > 10",
    "adverbs": "part = 'adv'",
    "documentation": "source = 'python'",
    "living": "category in ('noun.animal', 'noun.plant', 'noun.person')",
    "verses": "source = 'kjv' and words between 10 and 50",
    "adjectives_verbs": "part in ('adj', 'verb')",
    "short": "words between 5 and 12",
    "wordnet": "source = 'wordnet'",
}

RULE = (
    *(Check(f"recall_{name}", at_least=str(GOAL), quick_slack=0.02) for name in FILTERS),
    *(Check(f"speed_{name}", at_least=f"best_peer_speed_{name}", quick=False) for name in FILTERS),
    Check("build_seconds", at_most="least_peer_build_seconds", quick=False),
    Check("stored_bytes", at_most="1.1 * least_peer_stored_bytes", quick=False),
)


@dataclass(frozen=True)
class Built:
    """All entries over the same texts."""

    x: NDArray[np.float32]
    attributes: dict[str, NDArray[Any]]
    index: Index
    peers: Peers
    build_seconds: float
    stored_bytes: int


@cache
def built(texts: int, peers: str) -> Built:
    """Builds every entry once: seeds differ in their queries alone."""
    x = definitions().vectors[:texts]
    known = {name: values[:texts] for name, values in attributes().items()}
    made: list[Index] = []
    seconds = timed(lambda: made.append(kept_as("float32", texts)))
    with tempfile.TemporaryDirectory() as folder:
        made[0].save(folder)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return Built(x, known, made[0], Peers(x, (512, 1024) if peers == "all" else ()), seconds, stored)


@cache
def kept_as(storage: str, texts: int) -> Index:
    """An index of the first texts, their vectors kept in this way."""
    x = definitions().vectors[:texts]
    index = Index(x.shape[1], "l2", storage=storage)
    index.add(np.arange(texts), x, {name: values[:texts] for name, values in attributes().items()})
    if texts <= TAIL:
        index.compact()
    return index


def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every filter and every entry on one choice of queries."""
    given: dict[str, Any] = SIZES[size]
    everything = definitions().queries
    queries = everything[np.random.default_rng(seed).permutation(len(everything))[: given["queries"]]]
    attributes()  # read before anything is timed
    with threadpool_limits(1):
        entries = built(given["texts"], given["peers"])
        found, truth = measured(entries, queries, given["repeats"])
        return found | in_fewer_bytes(given["fewer bytes"].split(), entries, queries, truth)


def measured(
    given: Built, queries: NDArray[np.float32], repeats: int
) -> tuple[dict[str, float], dict[str, NDArray[np.intp]]]:
    """Recall and speed by filter, and what building and storing took; and the true nearest by filter."""
    found: dict[str, float] = {"build_seconds": given.build_seconds, "stored_bytes": given.stored_bytes}
    for what, by_entry in (("build_seconds", given.peers.build), ("stored_bytes", given.peers.stored)):
        found |= {f"{spelled(name)}_{what}": value for name, value in by_entry.items()}
        found[f"least_peer_{what}"] = min(by_entry.values(), default=found[what])
    truth: dict[str, NDArray[np.intp]] = {}
    for name, where in FILTERS.items():
        rows = np.flatnonzero(passing(where, given.attributes))
        truth[name] = exact(given.x, queries, rows, K)
        chosen = tuned(given.peers, rows, queries, truth[name], GOAL, slow=5)
        ours = recall(given.index.search(queries, K, where).ids, truth[name])
        chosen["ours"] = Best(Setting("", lambda q, w=where: given.index.search(q, K, w).ids, len(queries)), ours)  # type: ignore[misc]
        fast = speeds({entry: best.setting for entry, best in chosen.items()}, queries, repeats)
        found |= {f"share_{name}": len(rows) / len(given.x), f"recall_{name}": ours, f"speed_{name}": fast.pop("ours")}
        found |= {f"{spelled(entry)}_speed_{name}": value for entry, value in fast.items()}
        found |= {f"{spelled(entry)}_recall_{name}": chosen[entry].recall for entry in fast}
        reached = [value for entry, value in fast.items() if chosen[entry].recall >= GOAL]
        found[f"best_peer_speed_{name}"] = max(reached)
    return found, truth


def in_fewer_bytes(
    storages: list[str], given: Built, queries: NDArray[np.float32], truth: dict[str, NDArray[np.intp]]
) -> dict[str, float]:
    """Of the true nearest, the share that is found from vectors that are kept in fewer bytes, over all filters."""
    found: dict[str, float] = {}
    for storage in storages:
        index = kept_as(storage, len(given.x))
        shares = [recall(index.search(queries, K, FILTERS[name]).ids, true) for name, true in truth.items()]
        found[f"recall_in_{storage}"] = float(np.mean(shares))
        taken = min(timed(lambda i=index: i.search(queries, K, FILTERS["short"])) for _ in range(3))  # type: ignore[misc]
        found[f"speed_in_{storage}"] = len(queries) / taken
    return found


def passing(where: str, known: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """The filters once more, written out in numpy."""
    source, part, category, words, year = (known[name] for name in ("source", "part", "category", "words", "year"))
    answers = {
        "war_years": (year >= 1939) & (year <= 1945),
        "long_verbs": (part == "verb") & (words > 12),
        "recent_or_animal": ((year >= 1900) & (words < 30)) | ((category == "noun.animal") & (words > 10)),
        "adverbs": part == "adv",
        "documentation": source == "python",
        "living": np.isin(category, ["noun.animal", "noun.plant", "noun.person"]),
        "verses": (source == "kjv") & (words >= 10) & (words <= 50),
        "adjectives_verbs": np.isin(part, ["adj", "verb"]),
        "short": (words >= 5) & (words <= 12),
        "wordnet": source == "wordnet",
    }
    return np.asarray(answers[{text: name for name, text in FILTERS.items()}[where]])


def spelled(entry: str) -> str:
    """The name of an entry as a quantity's.

    >>> spelled("faiss HNSW M=16"), spelled("faiss IVF-512")
    ('faiss_hnsw', 'faiss_ivf_512')
    """
    return entry.removesuffix(" M=16").lower().replace(" ", "_").replace("-", "_")
