"""From any pool to three separate sides, with an account of everything left out."""

from __future__ import annotations

import errno
import itertools
import json
import random
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercile.filters.data import Example, Selection, lsh, select, text_similarity

WORDS = ["ash", "bay", "cod", "dew", "elm", "fig", "gum", "hay", "ivy", "jay", "kit", "log", "map", "nut"]


def sentences(n, seed=0, words=12):
    rng = random.Random(seed)
    return [" ".join(f"{rng.choice(WORDS)}{rng.randrange(100)}" for _ in range(words)) for _ in range(n)]


def all_units(chosen: Selection):
    return [*chosen.calibration, *chosen.selection, *chosen.certification]


def sides_of(chosen: Selection):
    return {
        e.content: side
        for side in ("calibration", "selection", "certification")
        for e in getattr(chosen, side)
    }


def test_every_unit_is_either_kept_or_counted_under_its_reason(tmp_path):
    good = sentences(40)
    rows = [json.dumps({"text": text}) for text in good]
    rows += [
        "{broken",
        '{"text": ""}',
        '{"text": "----"}',
        '{"text": "bad \\ufffd"}',
        json.dumps({"text": good[0].upper()}),
        json.dumps({"text": good[1] + " more"}),
        json.dumps({"text": "long " * 400}),
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(rows))
    chosen = select(tmp_path / "pool.jsonl", seed=3, max_length=1000)
    assert chosen.rejected == dict.fromkeys(
        ("broken", "empty", "exact-duplicate", "malformed", "near-duplicate", "not-text", "over-long"), 1
    )
    assert chosen.read == 47 and chosen.kept == 40 == len(all_units(chosen))
    detail = {reason: samples[0].detail for reason, samples in chosen.samples.items()}
    assert "pool.jsonl:" in detail["exact-duplicate"] and "pool.jsonl:" in detail["near-duplicate"]
    assert chosen.samples["malformed"][0].origin.endswith("pool.jsonl:41")
    assert chosen.sentence().startswith("40 of 47 units kept; turned away: 1 broken")


def test_the_summary_is_plain_json_with_at_most_five_samples_a_reason():
    chosen = select([*sentences(20), *[" "] * 9], seed=0)
    summary = json.loads(json.dumps(chosen.summary()))
    assert summary == chosen.summary()
    assert summary["rejected"] == {"empty": 9} and len(summary["samples"]["empty"]) == 5
    assert sum(summary["sides"].values()) == summary["kept"] == 20
    assert [s["origin"] for s in summary["samples"]["empty"]] == [f"item {i}" for i in range(20, 25)]


POOLS = st.lists(
    st.sampled_from([*sentences(12), *[t + "!" for t in sentences(6)], *[t + " end" for t in sentences(12)]]),
    min_size=12,
    max_size=40,
)
SHARES = {"calibration": 0.3, "selection": 0.3, "certification": 0.4}


def select_or_none(pool, **options):
    try:
        return select(pool, **options)
    except ValueError as error:
        assert "too few" in str(error)
        return None


@given(POOLS, st.integers(0, 9), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_pool_changes_nothing_that_is_chosen(pool, seed, rng):
    one = select_or_none(pool, seed=seed, **SHARES)
    two = select_or_none(rng.sample(pool, len(pool)), seed=seed, **SHARES)
    if one is None or two is None:
        assert one is two
        return
    for side in ("calibration", "selection", "certification"):
        assert [e.content for e in getattr(one, side)] == [e.content for e in getattr(two, side)]
    assert one.rejected == two.rejected


@given(POOLS, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_no_two_sides_ever_share_near_duplicates(pool, seed):
    chosen = select_or_none(pool, seed=seed, **SHARES)
    if chosen is not None:
        for a, b in itertools.combinations(all_units(chosen), 2):
            assert text_similarity(a.content, b.content) < 0.8


def test_more_data_moves_no_unit_that_is_nobodys_duplicate():
    pool = sentences(300)
    before, after = sides_of(select(pool, seed=5)), sides_of(select([*sentences(200, seed=9), *pool], seed=5))
    assert all(after[text] == side for text, side in before.items())


def test_of_duplicates_with_different_labels_one_is_kept_whatever_the_order_and_the_other_is_named():
    pool = [(text, "a") for text in sentences(20)]
    twins = [(sentences(1)[0], "b")]
    one, two = select(pool + twins, seed=0), select(twins + pool, seed=0)
    kept = [next(e.label for e in all_units(c) if e.content == sentences(1)[0]) for c in (one, two)]
    assert kept == ["a", "a"]
    assert (
        one.samples["exact-duplicate"][0].detail == "exact duplicate of item 0, but labelled 'b' and not 'a'"
    )


def test_counts_and_the_rest_are_dealt_exactly():
    chosen = select(sentences(50), seed=1, calibration=5, selection=10, certification=None)
    assert [len(chosen.calibration), len(chosen.selection), len(chosen.certification)] == [5, 10, 35]


def test_pictures_with_labels_pass_unharmed():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (30, 12, 12), np.uint8)
    chosen = select([(picture, i) for i, picture in enumerate(pictures)] + [pictures[3]], seed=0)
    assert chosen.rejected == {"exact-duplicate": 1} and len(all_units(chosen)) == 30
    assert all(np.array_equal(e.content, pictures[e.label]) for e in all_units(chosen))


# --- what cannot be done ---


def test_too_few_certification_units_says_how_many_are_kept_and_needed():
    with pytest.raises(ValueError) as caught:
        select([*sentences(40), ""], seed=0, calibration=10, selection=10, certification=None, needed=59)
    assert str(caught.value) == (
        "40 of 41 units kept; turned away: 1 empty: that leaves 20 for certification and 59 are needed; "
        "give more data, or a larger share for certification"
    )


def test_a_pool_of_duplicates_or_rejects_is_one_clear_error():
    text = sentences(1)[0]
    with pytest.raises(ValueError, match="1 of 100 units kept; turned away: 99 exact-duplicate: too few"):
        select([text] * 100, seed=0)
    with pytest.raises(ValueError, match="0 of 3 units kept; turned away: 3 empty: too few"):
        select(["", " ", "\n"], seed=0)
    with pytest.raises(ValueError, match=r"0 of 3 units kept.*6 units are asked for"):
        select(["", " ", "\n"], seed=0, calibration=1, selection=2, certification=3)
    with pytest.raises(ValueError, match="is empty"):
        select([], seed=0)


def test_arguments_are_checked_before_anything_is_read():
    def explodes():
        raise AssertionError("read")
        yield

    for options in (
        {"certification": 0.9},
        {"needed": 0},
        {"max_length": 0},
        {"threshold": 2},
        {"picture_threshold": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(options)).replace("certification", "fractions")):
            select(explodes(), seed=0, **options)


def test_a_full_disk_is_an_error_that_names_the_mend(monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(OSError, match="let TMPDIR name a larger folder") as caught:
        select(sentences(3), seed=0)
    assert caught.value.errno == errno.ENOSPC


def test_progress_tells_each_stage_to_its_end():
    told = []
    select(sentences(600), seed=0, progress=lambda *step: told.append(step))
    stages = [stage for stage, _ in itertools.groupby(told, key=lambda step: step[0])]
    assert stages == ["reading", "comparing", "loading"]
    ends = {stage: (done, total) for stage, done, total in told}
    assert all(done == total for done, total in ends.values()) and ends["loading"] == (600, 600)
    assert ("reading", 256, None) in told


# --- size ---


def test_memory_for_a_unit_that_is_not_chosen_is_what_the_docstring_says(monkeypatch):
    # 25,000 texts of 4 kB pass: 100 MB. Signatures are drawn instead of computed: their size is what counts
    # here, and computing them would be slow under the tracer. Some are alike, so contents come back too.
    rows = np.random.default_rng(0).integers(0, 256, (24_900, 128), np.uint8)
    drawn = itertools.cycle(rows)
    monkeypatch.setattr(lsh, "signatures", lambda content: {"words": next(drawn)})
    monkeypatch.setattr(lsh, "normalised", str)
    n, filler = 25_000, "word " * 800

    tracemalloc.start()
    try:
        pool = (f"{i} {filler}{i}" for i in range(n))
        chosen = select(pool, seed=0, calibration=10, selection=10, certification=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert chosen.read == n
    assert peak < 650 * n, f"{peak / n:.0f} bytes a unit"


def test_reading_needs_no_torch_and_no_reader_that_is_not_used():
    code = """if True:
        import sys
        from tercile.filters.data import select
        select([f"number {i} is {i * i * 7919}" for i in range(99)], seed=0)
        print([m for m in ("torch", "pyarrow", "PIL", "transformers") if m in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_kept_example_can_be_found_again_by_its_digest():
    chosen = select(sentences(20), seed=0)
    digests = {Example(text).digest for text in sentences(20)}
    assert {e.digest for e in all_units(chosen)} == digests and len(digests) == 20
