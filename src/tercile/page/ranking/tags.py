"""What a reader may like, learnt from the papers that the reader tagged: words in, a linear model for each tag.

Everything that bears a tag is an example, everything else counts against it, weighted so that both sides weigh the
same (as A. Karpathy's arxiv-sanity-lite does with a support vector machine). One tagged paper is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercile.page.ranking.texts import Text


@dataclass(frozen=True, eq=False)
class Words:
    """Papers as vectors of words: term frequencies, rare words weighing more, of unit length.

    Making it reads every text once, some 30 ms for 200.
    """

    texts: tuple[Text, ...]

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Row of each key."""
        return {text.key: at for at, text in enumerate(self.texts)}

    @cached_property
    def vectors(self) -> NDArray[np.float64]:
        """One row a paper. The words' space is turned so that it has no more dimensions than there are papers."""
        similar = np.asarray((self._sparse @ self._sparse.T).todense())
        # Linear models see inner products alone, and these rows have the same: small where the words are many.
        values, directions = np.linalg.eigh(similar)
        kept = values > 1e-9
        return np.asarray(directions[:, kept] * np.sqrt(values[kept]))

    @cached_property
    def _sparse(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        # A title says more than any other sentence: it counts twice.
        said = [f"{text.title}. {text.title}. {text.body}" for text in self.texts]
        return TfidfVectorizer(sublinear_tf=True, stop_words="english").fit_transform(said)


def rank_by_tags(words: Words, tags: Mapping[str, Collection[str]]) -> dict[str, float]:
    """How well each paper goes with what a reader tagged.

    Parameters
    ----------
    words
        All papers.
    tags
        Keys of the tagged papers, by tag; keys that are not there any more are passed over.

    Returns
    -------
    dict of str to float
        For papers without a tag, best first: the highest of the tags' probabilities. Empty without tags.

    >>> from tercile.papers import catalogue
    >>> texts = tuple(Text(p.slug, p.title, p.room, p.summary) for p in catalogue())
    >>> best = next(iter(rank_by_tags(Words(texts), {"to read": ["iqn"]})))
    >>> next(text.room for text in texts if text.key == best)
    'quantiles.rl'
    """
    from sklearn.linear_model import LogisticRegression

    best = np.full(len(words.texts), -np.inf)
    tagged: set[int] = set()
    for keys in tags.values():
        rows = sorted({words.position[key] for key in keys if key in words.position})
        tagged.update(rows)
        if not rows or len(rows) == len(words.texts):
            continue
        liked = np.zeros(len(words.texts), bool)
        liked[rows] = True
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=100).fit(words.vectors, liked)
        best = np.maximum(best, model.predict_proba(words.vectors)[:, 1])
    order: Sequence[int] = np.argsort(-best, kind="stable").tolist()
    return {words.texts[at].key: float(best[at]) for at in order if at not in tagged and np.isfinite(best[at])}
