"""The parts of the experiment on recommenders' codes: what is held out and hidden, and how a ranking is scored."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from tercile.papers.vq4rec import FIRST, Split, dependencies, split_of


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of(2000, 5)


def test_baskets_are_learnt_from_or_held_out_and_what_is_hidden_is_not_seen(split: Split) -> None:
    assert split.taken.shape[0] == 1600 and split.seen.shape == split.hidden.shape == (400, len(split.names))
    assert split.seen.multiply(split.hidden).nnz == 0
    whole = split.seen + split.hidden
    sizes, hidden = np.diff(whole.tocsr().indptr), np.diff(split.hidden.indptr)
    assert np.array_equal(hidden, np.maximum(1, sizes // 3))
    # Together they are the baskets of the sample, each once.
    baskets, _ = dependencies()
    rows = {row.tobytes() for row in np.split(baskets.indices, baskets.indptr[1:-1])}
    whole.sort_indices()
    assert all(
        row.astype(baskets.indices.dtype).tobytes() in rows for row in np.split(whole.indices, whole.indptr[1:-1])
    )


def test_ranking_what_is_hidden_first_scores_one_and_what_was_seen_is_never_ranked(split: Split) -> None:
    hidden = split.hidden.toarray()
    perfect = split.best(hidden + np.float32(0.001) * np.random.default_rng(0).random(hidden.shape, dtype="f4"), 0)
    assert split.ndcg_at(perfect) == pytest.approx(1)
    assert not np.take_along_axis(split.seen.toarray(), perfect, 1).any()


def test_the_gain_is_that_of_scikit_learn(split: Split) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores = np.random.default_rng(1).random(split.hidden.shape, dtype="f4") + 0.5 * split.hidden.toarray()
    theirs = metrics.ndcg_score(
        split.hidden.toarray(), np.where(split.seen.toarray() > 0, -1.0, scores), k=FIRST, ignore_ties=True
    )
    assert split.ndcg_at(split.best(scores.copy(), 0)) == pytest.approx(theirs)
    assert 0.01 < theirs < 0.9
