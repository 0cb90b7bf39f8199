"""A unit is turned away for a stated, well-defined fault, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.filters.data import Example, check


def reason(content, **options):
    found = check(Example(content, origin="here"), **options)
    return None if found is None else found.reason


@pytest.mark.parametrize(
    "text",
    [
        "A sentence.",
        "x",
        "7",
        "😀😀",
        "日本語の文章です。",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "x = 3;\n\tif (y) { return; }",
        "e^{i\\pi} + 1 = 0",
        "a\fb\r\n",
        "👩\u200d👩\u200d👧 family",
        "soft\u00adhyphen",
        "€",
        "+",
        "one \x07 bell in a sentence that is otherwise fine",
    ],
)
def test_text_in_any_script_passes(text):
    assert reason(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\t\u00a0\u2003", "empty"),
        ("caf\ufffd", "broken"),
        ("half \ud83d", "broken"),
        ("a\0b", "not-text"),
        ("\x01\x02\x03 abc", "not-text"),
        ("-----", "not-text"),
        ('"""', "not-text"),
        ("...!?", "not-text"),
        ("———", "not-text"),
        ("\ue000\ue001 ab", "not-text"),
    ],
)
def test_broken_empty_and_wordless_texts_are_turned_away(text, expected):
    assert reason(text) == expected


def test_the_share_of_control_characters_that_is_too_much_is_one_in_twenty():
    assert reason("a" * 95 + "\x01" * 5) is None
    assert reason("a" * 94 + "\x01" * 6) == "not-text"


def test_length_is_measured_by_the_callers_own_counter():
    words = "one two three"
    assert reason(words, max_length=13) is None
    assert reason(words, max_length=12) == "over-long"
    assert reason(words, max_length=3, length=lambda text: len(text.split())) is None
    assert reason(words, min_length=4, length=lambda text: len(text.split())) == "too-short"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 2)), None),
        (np.zeros((2, 2), bool), None),
        (np.array([1.0, np.nan]), "broken"),
        (np.array([[np.inf, 0]], np.float32), "broken"),
        (np.zeros((0, 3)), "empty"),
        (np.array(["a"]), "broken"),
        (np.array([None]), "broken"),
    ],
)
def test_arrays_must_hold_finite_numbers(array, expected):
    assert reason(array) == expected


def test_a_rejection_says_where_and_shows_the_unit_in_printable_form():
    found = check(Example("\x1b[31m\0" + "long " * 100, origin="a.txt:9"))
    assert found.origin == "a.txt:9"
    assert found.excerpt.startswith("\\x1b[31m\\x00long") and len(found.excerpt) == 80
    assert found.excerpt.isprintable()
