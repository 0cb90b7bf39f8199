"""Papers as vectors of words, and a line between those that somebody likes and the rest: numpy alone.

scikit-learn has both; importing it takes 1.3 seconds of processor time and 160 MB, at every start of `tercile page
digest`. The tests hold these two functions against it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[a-z0-9][a-z0-9-]+")
#: Words that say nothing about what a paper is about.
_EMPTY_WORDS = (
    "a about after all also an and any are as at be because been before between both but by can do does each for from "
    "get given has have how if in into is it its itself just less many may more most much new no nor not of off on one "
    "only or other our out over own per same several so some such than that the their them then there these they this "
    "those through to too two under up use used uses using very via was we were what when where which while who whose "
    "will with within without yet"
)
_EMPTY = frozenset(_EMPTY_WORDS.split())


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words of a collection with their weights: ``1 + log((1 + n) / (1 + papers that have it))``."""

    texts: tuple[str, ...]

    @cached_property
    def weights(self) -> dict[str, float]:
        """Weight of each word: the rarer, the heavier."""
        seen = Counter(word for counted in self.counted for word in counted)
        return {word: 1.0 + float(np.log((1 + len(self.texts)) / (1 + number))) for word, number in seen.items()}

    @cached_property
    def counted(self) -> list[Counter[str]]:
        """How often each text has each word."""
        return [count_words(text) for text in self.texts]

    def vector(self, counted: Counter[str]) -> dict[str, float]:
        """A text of unit length: ``(1 + log(times)) * weight``; words that the collection lacks are passed over."""
        raw = {w: (1.0 + float(np.log(n))) * self.weights[w] for w, n in counted.items() if w in self.weights}
        length = float(np.sqrt(sum(value * value for value in raw.values())))
        return {word: value / length for word, value in raw.items()} if length else {}

    @cached_property
    def similar(self) -> NDArray[np.float64]:
        """(n, n) inner products of all texts. O(sum over words of the square of the texts that have it)."""
        postings: dict[str, tuple[list[int], list[float]]] = {}
        for at, counted in enumerate(self.counted):
            for word, value in self.vector(counted).items():
                rows, values = postings.setdefault(word, ([], []))
                rows.append(at)
                values.append(value)
        found = np.zeros((len(self.texts), len(self.texts)))
        for rows, values in postings.values():
            found[np.ix_(rows, rows)] += np.outer(values, values)
        return found

    def directions(self, most: int = 200) -> NDArray[np.float64]:
        """(n, at most `most`) coordinates with nearly the same inner products: the heaviest directions of the words.

        Linear models see inner products alone. O(n^3), once.
        """
        values, vectors = np.linalg.eigh(self.similar)
        kept = np.flatnonzero(values > 1e-9)[::-1][:most]
        return np.ascontiguousarray(vectors[:, kept] * np.sqrt(values[kept]))


def count_words(text: str) -> Counter[str]:
    """The words of a text that say something, in lower case.

    >>> sorted(count_words("The Post-Training of it, post-training"))
    ['post-training']
    """
    return Counter(word for word in _WORD.findall(text.lower()) if word not in _EMPTY)


def logistic(
    vectors: NDArray[np.float64], liked: NDArray[np.bool_], strength: float = 1.0, steps: int = 30
) -> NDArray[np.float64]:
    """Logistic regression by Newton's method, both sides weighing the same.

    Minimises ``|b|^2 / 2 + strength * sum_i w_i log(1 + exp(-s_i (x_i b + c)))``, where s_i is 1 or -1 and the weights
    w_i add up to n / 2 on either side; c is not held down.

    Parameters
    ----------
    vectors : (n, d) float
        One row an example.
    liked : (n,) bool
        Both values must occur.

    Returns
    -------
    (d + 1,) float
        b, then c. O(steps n d^2); six steps do as a rule.
    """
    n, d = vectors.shape
    positive = int(liked.sum())
    if not 0 < positive < n:
        raise ValueError(f"liked must hold both values, got {positive} of {n} that are true")
    x = np.column_stack([vectors, np.ones(n)])
    weight = strength * np.where(liked, n / (2 * positive), n / (2 * (n - positive)))
    held = np.append(np.ones(d), 0.0)
    found = np.zeros(d + 1)
    for _ in range(steps):
        chance = 1.0 / (1.0 + np.exp(-np.clip(x @ found, -500, 500)))
        slope = x.T @ (weight * (chance - liked)) + held * found
        if float(np.abs(slope).max()) < 1e-8 * max(1.0, strength * n):
            break
        curve = (x.T * (weight * chance * (1 - chance))) @ x
        curve[np.diag_indices(d + 1)] += held + 1e-10
        step = np.linalg.solve(curve, slope)
        found -= step * min(1.0, 10.0 / max(float(np.linalg.norm(step)), 1e-300))
    return found


def chances(vectors: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) probabilities of being liked under a model of `logistic`."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(vectors @ model[:-1] + model[-1], -500, 500))))


def said(title: str, body: str) -> str:
    """A paper's words; a title says more than any other sentence and counts twice."""
    return f"{title}. {title}. {body}"


def as_rows(vocabulary: Vocabulary, texts: Sequence[str], words: dict[str, int]) -> NDArray[np.float64]:
    """(n, len(words)) texts as plain rows, for collections that are small."""
    rows = np.zeros((len(texts), len(words)))
    for at, text in enumerate(texts):
        for word, value in vocabulary.vector(count_words(text)).items():
            rows[at, words[word]] = value
    return rows
