"""What a reader may like, learnt from the papers that the reader tagged: a linear model over words for each tag.

Everything that bears a tag is an example, everything else counts against it, weighted so that both sides weigh the
same (as A. Karpathy's arxiv-sanity-lite does with a support vector machine). One tagged paper is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tercile.page.ranking.texts import Text
from tercile.page.ranking.words import Vocabulary, chances, logistic, said

#: The catalogue and the newest imports are ranked; a page with more still answers in the same time.
MOST = 1200


@dataclass(frozen=True, eq=False)
class Words:
    """Papers to rank, with their vectors; made once for all readers."""

    texts: tuple[Text, ...]

    @classmethod
    def of(cls, texts: Collection[Text]) -> Words:
        """The catalogue and the newest imports of all texts."""
        return cls((*(t for t in texts if not t.id), *sorted((t for t in texts if t.id), key=lambda t: -t.id)[:MOST]))

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Row of each key."""
        return {text.key: at for at, text in enumerate(self.texts)}

    @cached_property
    def vectors(self) -> NDArray[np.float64]:
        """(n, at most 200), one row a paper."""
        return Vocabulary(tuple(said(text.title, text.body) for text in self.texts)).directions()


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
    best = np.full(len(words.texts), -np.inf)
    tagged: set[int] = set()
    for keys in tags.values():
        rows = sorted({words.position[key] for key in keys if key in words.position})
        tagged.update(rows)
        if not rows or len(rows) == len(words.texts):
            continue
        liked = np.zeros(len(words.texts), bool)
        liked[rows] = True
        best = np.maximum(best, chances(words.vectors, logistic(words.vectors, liked)))
    order = np.argsort(-best, kind="stable").tolist()
    return {words.texts[at].key: float(best[at]) for at in order if at not in tagged and np.isfinite(best[at])}
