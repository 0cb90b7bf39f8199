from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tercile.zoo import corpus, find
from tercile.zoo.corpus import Document, content_hash, pack, split
from tercile.zoo.ngram import KneserNey


def test_the_hash_of_a_text_sees_words_only() -> None:
    assert content_hash("Fear not: stand still!") == content_hash("fear  NOT stand\nstill")
    assert content_hash("fear not") != content_hash("not fear")


def test_packed_documents_lose_nothing_but_short_ends() -> None:
    pieces = [f"Sentence number {i} of a long text that goes on." for i in range(200)]
    packed = list(pack(pieces, "x"))
    assert all(corpus.SHORTEST <= len(document.text) <= corpus.LONGEST for document in packed)
    joined = "\n".join(document.text for document in packed).split("\n")
    assert joined == pieces[: len(joined)] and len(joined) > 190


def test_a_long_piece_is_cut_between_sentences() -> None:
    packed = list(pack(["This is a sentence of some length. " * 100], "x"))
    assert len(packed) > 2 and all(document.text.endswith(".") for document in packed)


def test_the_split_keeps_equal_words_on_one_side_and_drops_known_lines() -> None:
    pool = [Document(f"Text {i} about matter {i * i}", "x") for i in range(3000)]
    train, held = split(pool + [Document(each.text.upper(), "x") for each in pool])
    assert not {content_hash(each.text) for each in train} & {content_hash(each.text) for each in held}
    # A binomial share of 8% of 3,000 lies within five standard deviations of 240.
    assert abs(len({content_hash(each.text) for each in held}) - 240) < 75
    copied = [Document(f"{train[i].text}\n{held[0].text} {i}", "x") for i in range(200)]
    _, again = split([*train, *copied])
    assert not {each.text for each in again} & {each.text for each in copied}


def test_missing_packages_are_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "WITNESSES", {"some-package": Path("/nowhere/at/all")})
    with pytest.raises(FileNotFoundError, match="apt-get install some-package"):
        next(corpus.documents())


def test_python_prose_comes_without_code_and_permalinks(tmp_path: Path) -> None:
    page = """<html><body><p>Outside of it all, this sentence is no prose. </p><div class="body" role="main">
    <h1><span class="section-number">3. </span>Of files<a class="headerlink" href="#x">¶</a></h1>
    <p>A file, once <code>open()</code>ed, stays open until it is closed.</p><pre>&gt;&gt;&gt; code()</pre>
    <dl><dt>open(name)</dt><dd><p>Opens a file &amp; returns it as an object to read from.</p></dd></dl>
    <h2>More</h2></div></body></html>"""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "a.html").write_text(page)
    first = "A file, once open()ed, stays open until it is closed."
    expected = [["Of files", first, "Opens a file & returns it as an object to read from."], ["More"]]
    assert list(corpus.python_sections(tmp_path)) == expected


def test_wordnet_glosses_are_split_into_meaning_and_examples(tmp_path: Path) -> None:
    fields = "00006269 03 n 02 life 0 living_thing 0 001 @ 00004258 n 0000"
    line = f'{fields} | all living things; "the seas teem with life"\n'
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("  1 a licence line\n" + (line if part == "noun" else ""))
    expected = [("life, living thing: all living things.", ["The seas teem with life."])]
    assert list(corpus.wordnet_entries(tmp_path)) == expected


def test_webster_keeps_definitions_marked_1913_only(tmp_path: Path) -> None:
    text = """Abjure \\Ab*jure"\\, v. t. [L. abjurare to deny upon oath.]
   1. To renounce upon oath; to forswear; to disavow; as, to
      {abjure} allegiance to a prince. --Shak.
      [1913 Webster]

   2. To do something that a later hand has added to the dictionary text.
      [PJC]
"""
    path = tmp_path / "gcide.dz"
    path.write_bytes(gzip.compress(text.encode()))
    found = list(corpus.webster_entries(path))
    prose = "To renounce upon oath; to forswear; to disavow; as, to abjure allegiance to a prince."
    assert len(found) == 1 and found[0].startswith("Abjure: ") and found[0].endswith(prose)


@pytest.mark.skipif(bool(corpus.missing_packages()), reason="needs the Debian packages of the corpus")
def test_the_bible_is_unpacked_to_its_31102_verses() -> None:
    verses = list(corpus.king_james())
    assert len(verses) == 31102
    assert verses[0] == ("Ge1", "In the beginning God created the heaven and the earth.")


def test_sample_documents_are_on_the_held_out_side_of_the_split() -> None:
    with gzip.open(find("debian-llama").sample, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert all(content_hash(row["text"]) % 100 < corpus.HELD_OUT_PERCENT for row in rows)
    assert {row["source"] for row in rows} <= set(corpus.FREE_SOURCES)


def test_kneser_ney_probabilities_sum_to_one_after_any_history() -> None:
    random = np.random.default_rng(3)
    model = KneserNey.fit([random.integers(0, 9, 400) for _ in range(3)], order=3)
    for history in ([1, 2], [8, 0], [4000, 17]):
        chances = [2.0 ** -model.bits(np.array([*history, token]))[-1] for token in range(4096)]
        assert sum(chances) == pytest.approx(1.0, abs=1e-9)


def test_kneser_ney_equals_its_formula_counted_by_hand() -> None:
    row = [1, 2, 1, 3, 1, 2, 4, 2, 1, 2]
    padded = [0, *row]
    pairs = Counter(pairwise(padded))
    once, twice = (sum(count == k for count in pairs.values()) for k in (1, 2))
    discount = once / (once + 2 * twice)
    # Lower order: in how many contexts each token was seen, discounted once more.
    contexts = Counter(second for _, second in pairs)
    alone, both = (sum(count == k for count in contexts.values()) for k in (1, 2))
    lower = min(alone / (alone + 2 * both), 0.95)

    def single(token: int) -> float:
        total = sum(contexts.values())
        return (max(contexts[token] - lower, 0) + lower * len(contexts) / 4096) / total

    def double(history: int, token: int) -> float:
        total = sum(count for (first, _), count in pairs.items() if first == history)
        kinds = sum(1 for first, _ in pairs if first == history)
        return (max(pairs[history, token] - discount, 0) + discount * kinds * single(token)) / total

    model = KneserNey.fit([np.array(row)], order=2)
    for token in (1, 2, 3, 4, 9):
        assert -model.bits(np.array([1, token]))[-1] == pytest.approx(math.log2(double(1, token)))
