"""A saved selection comes back as it was, the same bytes each time, or says that it is damaged."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercile.filters.data import Example, Selection, select
from tercile.filters.data.selection_file import unpacked

TEXTS = ["One.", "Zwei é 漢字 😀", "three\nlines\r\n\u2028", '\x7f quoted " \\ ']
DAMAGED = r"s is damaged|s is not a saved selection"
META = {"year": 1999, "ratio": 0.1, "flag": True, "name": "ø"}


def texts():
    units = [Example(t, i, f"a.txt:{i}", META) for i, t in enumerate(TEXTS)]
    return Selection(
        (units[0],), (units[1],), tuple(units[2:]), seed=7, read=9, kept=4, rejected={"empty": 5}
    )


def arrays():
    rng = np.random.default_rng(0)
    units = [
        Example(rng.integers(0, 9, (3, 4), np.uint8), "cat", "x/1.png"),
        Example(rng.normal(size=(2, 2, 3)).astype(np.float32), 1),
        Example(np.arange(6, dtype=">i4")),
    ]
    return Selection(*[(unit,) for unit in units], seed=1, read=3, kept=3)


@pytest.mark.parametrize("make", [texts, arrays])
def test_a_selection_comes_back_as_it_was(tmp_path, make):
    make().save(tmp_path / "s")
    back = Selection.load(tmp_path / "s")
    assert back == make() and back.summary() == make().summary()
    assert [e.digest for e in back.certification] == [e.digest for e in make().certification]


def test_what_select_gives_survives_with_its_samples(tmp_path):
    chosen = select([f"number {i} is written {i * 7919}" for i in range(40)] + ["", "é\ufffd"], seed=2)
    chosen.save(tmp_path / "s")
    assert Selection.load(tmp_path / "s") == chosen


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
@settings(max_examples=50, deadline=None)
def test_any_text_survives(tmp_path_factory, contents):
    path = tmp_path_factory.getbasetemp() / "any"
    chosen = Selection((), (), tuple(map(Example, contents)), seed=0, read=0, kept=0)
    chosen.save(path)
    assert Selection.load(path) == chosen


@pytest.mark.parametrize("make", [texts, arrays])
def test_the_same_selection_is_the_same_bytes(tmp_path, make, monkeypatch):
    make().save(tmp_path / "one")
    monkeypatch.setattr("time.time", lambda: 2e9)
    make().save(tmp_path / "other-name")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other-name").read_bytes()


@pytest.mark.parametrize("make", [texts, arrays])
def test_any_flipped_bit_and_any_truncation_is_caught(tmp_path, make):
    make().save(tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << i % 8
        with pytest.raises(ValueError, match=DAMAGED):
            unpacked(bytes(damaged), "s")
    for size in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "s").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=DAMAGED):
            Selection.load(tmp_path / "s")


def test_the_files_open_in_ordinary_tools(tmp_path):
    texts().save(tmp_path / "s.jsonl.gz")
    with gzip.open(tmp_path / "s.jsonl.gz", "rt") as file:
        head, *rows, seal = map(json.loads, file)
    assert head["format"] == "tercile-selection" and [r["text"] for r in rows] == TEXTS and "blake2b" in seal
    arrays().save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["00000000"], arrays().calibration[0].content)


def test_nothing_is_left_behind_when_the_disk_fills_up(tmp_path, monkeypatch):
    texts().save(tmp_path / "s")
    before = (tmp_path / "s").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room for"):
        dataclasses.replace(texts(), seed=8).save(tmp_path / "s")
    assert os.listdir(tmp_path) == ["s"] and (tmp_path / "s").read_bytes() == before


def test_other_files_missing_files_and_mixed_selections_are_refused(tmp_path):
    (tmp_path / "a").write_text("hello")
    with pytest.raises(ValueError, match="a is not a saved selection"):
        Selection.load(tmp_path / "a")
    (tmp_path / "b").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(ValueError, match="b is damaged"):
        Selection.load(tmp_path / "b")
    with pytest.raises(ValueError, match="c: cannot be read"):
        Selection.load(tmp_path / "c")
    mixed = Selection((Example("a"),), (Example(np.zeros(2)),), (), seed=0, read=2, kept=2)
    with pytest.raises(ValueError, match="both texts and arrays cannot be saved"):
        mixed.save(tmp_path / "d")
    assert not (tmp_path / "d").exists()
