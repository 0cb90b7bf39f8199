"""Rankings: held against scikit-learn, against plain sums, and against the rooms that people gave."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from tercile.page.database import Database
from tercile.page.ranking import Text, Words, count_reading, guess_room, most_read, rank_by_tags
from tercile.page.ranking.reading_log import ReadingLog
from tercile.page.ranking.words import Vocabulary, chances, count_words, logistic, said
from tercile.papers import catalogue

PAPERS = catalogue()
TEXTS = tuple(said(p.title, f"{p.summary} {p.claim}") for p in PAPERS)


def test_inner_products_of_words_are_scikit_learns() -> None:
    vectors = TfidfVectorizer(sublinear_tf=True, analyzer=lambda text: count_words(text).elements()).fit_transform(
        TEXTS
    )
    np.testing.assert_allclose(Vocabulary(TEXTS).similar, (vectors @ vectors.T).toarray(), atol=1e-12)


@pytest.mark.parametrize(("positive", "strength"), [(1, 1.0), (5, 1.0), (80, 10.0), (165, 0.1)])
def test_the_line_between_liked_and_rest_is_scikit_learns(positive: int, strength: float) -> None:
    vectors = Vocabulary(TEXTS).directions()
    liked = np.random.default_rng(positive).permutation(len(TEXTS)) < positive
    peer = LogisticRegression(C=strength, class_weight="balanced", tol=1e-12, max_iter=10_000).fit(vectors, liked)
    ours = logistic(vectors, liked, strength)
    np.testing.assert_allclose(chances(vectors, ours), peer.predict_proba(vectors)[:, 1], atol=2e-6)


def test_liking_nothing_or_everything_is_refused_by_the_model_and_passed_over_by_the_ranking() -> None:
    with pytest.raises(ValueError, match="both values"):
        logistic(np.eye(3), np.ones(3, bool))
    texts = tuple(Text(p.slug, p.title, p.room, p.summary) for p in PAPERS[:5])
    assert rank_by_tags(Words(texts), {}) == {}
    assert rank_by_tags(Words(texts), {"all": [t.key for t in texts], "gone": ["no such paper"]}) == {}


@pytest.mark.parametrize(("tagged", "least"), [(1, 0.3), (3, 0.42), (5, 0.5)])
def test_tagging_a_few_papers_of_a_room_brings_up_the_rest_of_it(tagged: int, least: float) -> None:
    texts = tuple(Text(p.slug, p.title, p.room, f"{p.summary} {p.claim}") for p in PAPERS)
    words, draw, precision, chance = Words(texts), random.Random(0), [], []
    for room in sorted({t.room for t in texts}):
        members = [t.key for t in texts if t.room == room]
        if len(members) < 6:
            continue
        for _ in range(4):
            liked = draw.sample(members, tagged)
            ranked = rank_by_tags(words, {"liked": liked})
            truth = [key in members for key in ranked]
            precision.append(average_precision_score(truth, list(ranked.values())))
            chance.append(sum(truth) / len(truth))
    assert np.mean(precision) > least > 5 * np.mean(chance)


def test_two_tags_bring_up_both_kinds_of_papers() -> None:
    texts = tuple(Text(p.slug, p.title, p.room, f"{p.summary} {p.claim}") for p in PAPERS)
    ranked = rank_by_tags(Words(texts), {"a": ["iqn"], "b": ["gptq_study"]})
    rooms = {text.key: text.top for text in texts}
    assert {rooms[key] for key in list(ranked)[:10]} >= {"quantiles", "quantization"}
    assert "iqn" not in ranked and "gptq_study" not in ranked


def test_every_paper_of_the_catalogue_is_placed_where_it_is() -> None:
    placed = [guess_room(p.title, f"{p.summary} {p.claim}") == p.room.split(".")[0] for p in PAPERS]
    assert np.mean(placed) > 0.97
    assert guess_room("日本語の題名") == "" and guess_room("") == ""


def test_the_weight_of_readings_is_the_sum_of_all_of_them_in_any_order(database: Database) -> None:
    draw, half_life, now = random.Random(1), 3600.0, 1e9
    times = [now - draw.uniform(0, 20 * half_life) for _ in range(300)]
    with database.transaction() as rows:
        for when in times:
            count_reading(rows, "iqn", when, half_life)
    exact = math.fsum(2.0 ** ((when - now) / half_life) for when in times)
    assert most_read(database.connection(), now, half_life)["iqn"] == pytest.approx(exact, rel=1e-12)
    assert database.connection().execute("SELECT total FROM readings").fetchone()[0] == 300


def test_what_was_read_long_ago_makes_way_for_what_is_read_now(database: Database) -> None:
    with database.transaction() as rows:
        for _ in range(8):
            count_reading(rows, "old", 0.0, 100.0)
        count_reading(rows, "new", 0.0, 100.0)
    assert list(most_read(database.connection(), 0.0, 100.0)) == ["old", "new"]
    with database.transaction() as rows:
        count_reading(rows, "new", 400.0, 100.0)
    assert list(most_read(database.connection(), 400.0, 100.0)) == ["new", "old"]
    assert most_read(database.connection(), 5000.0, 100.0) == {}


def test_reloading_a_page_counts_once_an_hour_and_a_half_life_is_positive(database: Database) -> None:
    now = [1000.0]
    log = ReadingLog(database, 3600.0, pause=2.0, clock=lambda: now[0])
    flushes = 0
    for _ in range(100):
        now[0] += 1.0
        if log.note("me", "iqn"):
            flushes += 1
            log.flush()
    assert flushes == 1
    log.note("you", "iqn")
    log.flush()
    assert database.connection().execute("SELECT total FROM readings").fetchone()[0] == 2
    with pytest.raises(ValueError, match="half_life"), database.transaction() as rows:
        count_reading(rows, "iqn", 0.0, 0.0)
