"""Short texts, their embeddings and what is known of each: what experiments on search are measured on."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tercile.zoo

SAMPLES = Path(tercile.zoo.__file__).parent / "samples"


@dataclass(frozen=True)
class Definitions:
    """104,000 texts as unit vectors, float32 (n, 256), and 40,000 queries that each have one text as their answer.

    `answers` holds the row of that text. Made by `zoo.make_definitions`.
    """

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    answers: NDArray[np.intp]


@cache
def definitions() -> Definitions:
    """All of them, as float32.

    >>> found = definitions()
    >>> found.vectors.shape, found.queries.shape, float(np.square(found.vectors[0]).sum().round(2))
    ((104000, 256), (40000, 256), 1.0)
    """
    with np.load(SAMPLES / "definitions.npz") as texts, np.load(SAMPLES / "definition_queries.npz") as queries:
        return Definitions(
            texts["codes"] * texts["scale"][:, None],
            queries["codes"] * queries["scale"][:, None],
            queries["text"].astype(np.intp),
        )


@cache
def attributes() -> dict[str, NDArray]:
    """What is known of each text: source, part of speech, category, words, year.

    >>> known = attributes()
    >>> sorted(known), len(known["words"])
    (['category', 'part', 'source', 'words', 'year'], 104000)
    """
    with gzip.open(SAMPLES / "definitions.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {name: np.array([row[name] for row in rows]) for name in ("source", "part", "category", "words", "year")}
