from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import tercile.papers
from tercile.papers import catalogue, paper

BRANCHES = {"quantiles", "filters", "quantization", "diffusion", "stats"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


def test_all_166_methods_are_there_once_and_in_order() -> None:
    assert [known.nr for known in catalogue()] == list(range(1, 167))
    for column in ("slug", "title", "summary", "claim"):
        values = [getattr(known, column) for known in catalogue()]
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_every_slug_can_be_a_module_and_every_room_is_a_branch_with_a_room() -> None:
    for known in catalogue():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", known.slug)
        branch, room = known.room.split(".")
        assert branch in BRANCHES and re.fullmatch(r"[a-z_]+", room), known.slug


def test_no_slug_takes_the_place_of_a_module_of_the_machinery() -> None:
    room = Path(tercile.papers.__file__).parent
    machinery = {
        file.stem for file in room.glob("*.py") if "\nPAPER = " not in file.read_text(encoding="utf-8")
    }
    assert "catalogue" in machinery
    assert machinery & {known.slug for known in catalogue()} == set()


def test_summaries_are_one_sentence_of_15_to_35_words() -> None:
    for known in catalogue():
        assert 15 <= len(known.summary.split()) <= 35, known.slug
        assert known.summary.endswith(".") and ". " not in known.summary, known.slug
        assert known.summary[0].isupper(), known.slug


def test_claims_are_one_sentence_of_at_most_35_words() -> None:
    for known in catalogue():
        assert 5 <= len(known.claim.split()) <= 35, known.slug
        assert known.claim.endswith(".") and ". " not in known.claim, known.slug
        assert known.claim[0].isupper(), known.slug


def test_no_summary_or_claim_repeats_five_words_of_a_title() -> None:
    titles = set().union(*(runs(known.title, 5) for known in catalogue()))
    for known in catalogue():
        assert not (runs(known.summary, 5) | runs(known.claim, 5)) & titles, known.slug


def test_no_summary_names_its_own_method() -> None:
    """A summary says what a method does, to somebody who does not know its name."""
    for known in catalogue():
        name = known.title.split(":")[0].lower()
        if ":" in known.title and " " not in name:
            assert name not in known.summary.lower(), known.slug


def test_a_paper_takes_title_and_claim_from_the_catalogue_and_the_rest_from_the_caller() -> None:
    found = paper("iqn", year=2018, source="arXiv:1806.06923")
    assert found.nr == 8 and found.room == "quantiles.rl" and found.year == 2018 and found.authors is None


def test_an_unknown_slug_is_refused_with_the_closest_ones() -> None:
    with pytest.raises(ValueError, match=r"no paper 'range_estimaton'.*did you mean range_estimation"):
        paper("range_estimaton")
