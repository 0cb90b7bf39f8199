"""The clusters are those of comparing each with each by the plain definition."""

from __future__ import annotations

import itertools
import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercile.filters.data import near_duplicates, picture_similarity, text_similarity


def plain_words(text: str) -> list[str]:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.findall(r"\w+", folded) or [folded]


def plain_jaccard(a: str, b: str) -> float:
    """The definition in `shingles`' words, with sets of slices and no code shared with it."""
    one, two = plain_words(a), plain_words(b)
    best = 0.0
    if len(one) >= 16 and len(two) >= 16:
        x = {tuple(one[i : i + 3]) for i in range(len(one) - 2)}
        y = {tuple(two[i : i + 3]) for i in range(len(two) - 2)}
        best = max(best, len([s for s in x if s in y]) / len(x | y))
    if len(one) <= 24 and len(two) <= 24:
        p, q = " ".join(one), " ".join(two)
        x = {p[i : i + 5] for i in range(len(p) - 4)} or {p}
        y = {q[i : i + 5] for i in range(len(q) - 4)} or {q}
        best = max(best, len([s for s in x if s in y]) / len(x | y))
    return best


def components(n: int, edges) -> list[int]:
    """Connected components by flooding, labelled in order of first appearance."""
    near = {i: set() for i in range(n)}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    label = [-1] * n
    for start, number in zip(range(n), itertools.count()):
        if label[start] >= 0:
            continue
        waiting = [start]
        while waiting:
            i = waiting.pop()
            if label[i] < 0:
                label[i] = number
                waiting += near[i]
    return [sorted(set(label)).index(x) for x in label]


def pool_of_variants(seed: int, size: int) -> list[str]:
    """Texts of 1 to 60 words, and copies of them with a few words changed, dropped or added."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(400)]
    pool: list[str] = []
    while len(pool) < size:
        if pool and rng.random() < 0.6:
            words = rng.choice(pool).split()
            for _ in range(rng.randint(0, 1 + len(words) // 12)):
                at = rng.randrange(len(words) + 1)
                words[at : at + rng.randint(0, 1)] = rng.choices(vocabulary, k=rng.randint(0, 1))
        else:
            words = rng.choices(vocabulary, k=rng.randint(1, 60))
        if words:
            pool.append(" ".join(words))
    return pool


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_clusters_of_texts_are_those_of_brute_force(threshold):
    pool = pool_of_variants(7, 300)
    edges = [
        (i, j)
        for i, j in itertools.combinations(range(300), 2)
        if plain_jaccard(pool[i], pool[j]) >= threshold
    ]
    assert 50 < len(edges) < 5000, "the pool must have something to find"
    assert near_duplicates(pool, threshold=threshold).tolist() == components(300, edges)


PROSE = st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=30).map(" ".join)


@given(PROSE, PROSE, st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_similarity_of_any_two_texts_is_the_plain_jaccard_index(a, b, cut):
    b = f"{a[cut:]} {b[:cut]}"  # two texts drawn apart would share nothing
    # Texts of endless words, as in scripts without spaces, have a rule and a test of their own.
    if all(sum(map(len, words)) <= 20 * len(words) for words in map(plain_words, (a, b))):
        assert text_similarity(a, b) == pytest.approx(plain_jaccard(a, b))


def test_case_punctuation_and_spacing_do_not_make_a_text_new():
    copies = [
        "Set the FLAG to true.",
        "set the flag to true",
        "Set  the\nflag, to true!",
        "Ｓｅｔ the flag to true.",
    ]
    assert near_duplicates(copies).tolist() == [0, 0, 0, 0]


def test_texts_in_scripts_without_spaces_are_compared_by_characters():
    text = (
        "機械学習とは経験からの学習により自動で改善するコンピューターアルゴリズムもしくはその研究領域である。"
        * 3
    )
    other = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗い所で泣いていた。"
    assert near_duplicates([text, text.replace("研究領域", "研究分野", 1), other]).tolist() == [0, 0, 1]


def test_a_copy_whose_word_count_crosses_the_line_between_short_and_long_is_still_found():
    rng = random.Random(3)
    for words in range(12, 30):
        text = " ".join("".join(rng.choices("abcdefgh", k=9)) for _ in range(words))
        copy = text.replace(" ", "", 1)  # a lost space: one word fewer
        assert plain_jaccard(text, copy) > 0.8
        assert near_duplicates([text, copy]).tolist() == [0, 0], words


def test_texts_just_below_the_threshold_stay_apart_however_their_signatures_fall():
    # Shingle sets of 60 in 84 together: Jaccard 0.714; 400 such pairs would show a false positive.
    rng = random.Random(5)
    for _ in range(400):
        a = [str(rng.random()) for _ in range(74)]
        b = a[:62] + [str(rng.random()) for _ in range(12)]
        assert plain_jaccard(" ".join(a), " ".join(b)) < 0.8
        assert len(set(near_duplicates([" ".join(a), " ".join(b)]))) == 2


def test_hardly_any_pair_at_the_threshold_is_missed():
    # The stated chance to miss is at most 1e-3 at the threshold itself; 2 of 2,000 would already be rare.
    rng = random.Random(11)
    pool = []
    for _ in range(2000):
        a = [f"w{rng.randrange(10**9)}" for _ in range(38)]
        pool += [" ".join(a), " ".join(a[:34] + [f"w{rng.randrange(10**9)}" for _ in range(4)])]
    assert plain_jaccard(pool[0], pool[1]) == pytest.approx(0.8)
    clusters = near_duplicates(pool)
    assert sum(clusters[0::2] != clusters[1::2]) <= 6


def test_a_chain_of_small_changes_is_one_cluster_though_its_ends_differ():
    rng = random.Random(2)
    words = [f"w{rng.randrange(10**6)}" for _ in range(60)]
    chain = []
    for i in range(20):
        chain.append(" ".join(words))
        words[3 * i] = f"w{rng.randrange(10**6)}"
    assert text_similarity(chain[0], chain[-1]) < 0.2
    assert set(near_duplicates(chain).tolist()) == {0}


def test_the_order_of_the_texts_does_not_change_who_is_together():
    pool = pool_of_variants(13, 200)
    together = near_duplicates(pool)
    order = np.random.default_rng(0).permutation(200)
    shuffled = near_duplicates([pool[i] for i in order])
    assert len(set(zip(together[order].tolist(), shuffled.tolist()))) == len(set(together.tolist()))


# --- pictures ---


def scene(rng, height=48, width=64):
    """A smooth random picture, as photographs are."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = sum(
        rng.normal()
        * np.sin(2 * np.pi * (rng.integers(1, 5) * x + rng.integers(1, 5) * y) + rng.uniform(0, 6))
        for _ in range(6)
    )
    return np.clip(128 + 40 * waves, 0, 255).astype(np.uint8)


def test_recompressed_resized_and_brightened_copies_are_found_and_other_pictures_are_not():
    import io

    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    originals = [scene(rng) for _ in range(40)]
    copies = []
    for picture in originals:
        file = io.BytesIO()
        image.fromarray(picture).resize((128, 96)).save(file, "JPEG", quality=60)
        copies.append(np.asarray(image.open(file)))
    brighter = [(p * 0.8 + 20).astype(np.float32) for p in originals]
    clusters = near_duplicates([*originals, *copies, *brighter]).reshape(3, 40)
    assert (clusters == np.arange(40)).all()


def test_clusters_of_pictures_are_those_of_brute_force_correlation():
    rng = np.random.default_rng(1)
    bases = [scene(rng, 32, 32).astype(float) for _ in range(30)]
    pool = [rng.choice(bases) + rng.normal(0, rng.uniform(1, 60), (32, 32)) for _ in range(200)]
    # 32 x 32 in blocks of 2 x 2: the thumbnail by another road, and numpy's own correlation.
    small = np.array([p.reshape(16, 2, 16, 2).mean((1, 3)).ravel() for p in pool])
    near = np.corrcoef(small) >= 0.99
    edges = [(i, j) for i, j in itertools.combinations(range(200), 2) if near[i, j]]
    assert len(edges) > 50
    assert near_duplicates(pool).tolist() == components(200, edges)


def test_colours_first_or_last_mean_the_same_picture_and_colour_counts():
    rng = np.random.default_rng(2)
    picture = np.stack([scene(rng) for _ in range(3)], axis=2)
    assert picture_similarity(picture, np.moveaxis(picture, 2, 0)) == pytest.approx(1)
    assert picture_similarity(picture, picture[:, :, [2, 1, 0]]) < 0.9


def test_blank_pictures_and_plain_vectors_have_exact_duplicates_only():
    blank = np.full((8, 8), 7, np.uint8)
    vector = np.arange(10.0)
    pool = [blank, blank.copy(), blank + 1, vector, vector.copy(), vector + 1e-9, vector.astype(np.float32)]
    assert near_duplicates(pool).tolist() == [0, 0, 1, 2, 2, 3, 4]


def test_thresholds_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"threshold must be between 0.5 and 1, got 80"):
        near_duplicates(["a"], threshold=80)
    with pytest.raises(ValueError, match="picture_threshold must be between"):
        near_duplicates(["a"], picture_threshold=float("nan"))
