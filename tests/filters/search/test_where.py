"""The filter language, held against a second reading of it that goes row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercile.filters.search.columns import Column, Kind, SortedTexts, read_attributes
from tercile.filters.search.masks import passing, read_where
from tercile.filters.search.where import DEEPEST, LONGEST, parse

ROWS: dict[str, list[Any]] = {
    "year": [2019, 2023, None, -4, 2**62 + 1, 2023],
    "score": [0.5, None, -1.25, 2023.0, 1e30, 0.0],
    "lang": ["en", "de", None, "it's", "", "en"],
    "draft": [True, False, None, False, True, True],
}
COLUMNS, SCHEMA = read_attributes(ROWS, 6, {})


def rows_of(text: str) -> list[int]:
    where = read_where(text, SCHEMA)
    assert where is not None
    return np.flatnonzero(passing(where, COLUMNS, 6)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("year >= 2023 and lang in ('en', 'de')", [1, 5]),
        ("not year >= 2023", [0, 3]),
        ("year is null or lang is null", [2]),
        ("year is not null", [0, 1, 3, 4, 5]),
        ("2000 <= year < 2020", [0]),
        ("year between -4 and 2019", [0, 3]),
        ("year not between -4 and 2019", [1, 4, 5]),
        ("lang = 'it''s'", [3]),
        ("lang != 'en'", [1, 3, 4]),
        ("lang not in ('en', 'nowhere')", [1, 3, 4]),
        ("lang = 'nowhere'", []),
        ("draft", [0, 4, 5]),
        ("not draft", [1, 3]),
        ("draft = false", [1, 3]),
        ("true = draft", [0, 4, 5]),
        ("score != 0.5", [2, 3, 4, 5]),
        ("not (score = 0.5)", [2, 3, 4, 5]),
        ("score in (0.5, 0)", [0, 5]),
        ("YEAR_IS_NOT_A_COLUMN is null or true", None),
        ("year < 2022.5", [0, 3]),
        ("year > 2018.5 and year <= 2023.9", [0, 1, 5]),
        ("year = 2022.5", []),
        ("year != 2022.5", [0, 1, 3, 4, 5]),
        ("year < 1e30", [0, 1, 3, 4, 5]),
        ("year >= -1e300", [0, 1, 3, 4, 5]),
        ("year = 4611686018427387905", [4]),
        ("year = 4611686018427387904", []),
        ("year in (2019.0, 2.5, 1e300)", [0]),
        ("true", [0, 1, 2, 3, 4, 5]),
        ("not true", []),
        ("lang = 'en' or lang = 'de' and year = 2019", [0, 5]),
        ("(lang = 'en' or lang = 'de') and year = 2019", [0]),
        ("not lang = 'en' and year = 2023", [1]),
        ('"year"=2019', [0]),
    ],
)
def test_these_rows_pass(text: str, rows: list[int] | None) -> None:
    if rows is None:
        with pytest.raises(ValueError, match="no column is named"):
            rows_of(text)
    else:
        assert rows_of(text) == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "character 1: expected the name of a column, got the end"),
        ("yeer > 3", "no column is named 'yeer'; did you mean year?"),
        ("year >", "expected a number, a text in single quotes, true or false, got the end"),
        ("year = 'x'", "year holds numbers, got the text 'x'"),
        ("lang = 3", "lang holds texts, got 3; write a text"),
        ("lang < 'm'", "which have no order"),
        ("lang", "lang holds texts"),
        ("draft = 1", "draft holds true or false, got 1; write draft or not draft"),
        ("year = 99999999999999999999", "does not fit in 64 bits"),
        ("score < 1e999", "too large"),
        ("lang = 'en", "character 8: a quote is opened and never closed"),
        ("year = 1; drop table x", "character 9: ';' is no part of a filter"),
        ("__import__('os')", "expected 'and', 'or' or the end"),
        ("year in ()", "expected a number"),
        ("year not 3", "expected 'in' or 'between'"),
        ("(" * (DEEPEST + 1), f"more than {DEEPEST} levels deep"),
        ("not " * 5000 + "draft", f"more than {DEEPEST} levels deep"),
        ("x" * (LONGEST + 1), "shorten it"),
    ],
)
def test_what_is_no_filter_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="where") as caught:
        read_where(text, SCHEMA)
    assert said in str(caught.value)


def test_the_place_is_pointed_at() -> None:
    with pytest.raises(ValueError) as caught:
        parse("lang = 'en' and year ? 3")
    assert str(caught.value).splitlines()[1:] == ["    lang = 'en' and year ? 3", "    " + " " * 21 + "^"]


names = st.sampled_from(sorted(SCHEMA))
signs = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


def literals(kind: Kind) -> st.SearchStrategy[Any]:
    if kind == "text":
        return st.sampled_from(["en", "de", "it's", "", "nowhere"])
    if kind == "boolean":
        return st.booleans()
    numbers = st.sampled_from([2019, 2023, -4, 2**62 + 1, 2**62, 0, 0.5, -1.25, 2022.5, 1e30])
    return numbers | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


def spelled(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, Any]:
    """A comparison as text, and a function of a row that answers True, False or None for unknown."""
    name = draw(names)
    kind = SCHEMA[name]
    shape = draw(st.sampled_from(["compare", "in", "null"]))
    if shape == "null":
        return f"{name} is null", lambda row: row[name] is None
    if shape == "in":
        values = draw(st.lists(literals(kind), min_size=1, max_size=4))
        text = f"{name} in ({', '.join(map(spelled, values))})"
        return text, lambda row: None if row[name] is None else row[name] in values
    sign = draw(signs if kind in {"integer", "real"} else st.sampled_from(["=", "!="]))
    value = draw(literals(kind))
    if kind == "real":
        value = float(value)
    python = {
        "=": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    }[sign]  # fmt: skip
    text = f"{name} {sign} {spelled(value)}"
    return text, lambda row: None if row[name] is None else python(row[name], value)


def three_valued(word: str, one: Any, two: Any) -> Any:
    def answer(row: dict[str, Any]) -> bool | None:
        found, decisive = {one(row), two(row)}, word == "or"
        return decisive if decisive in found else None if None in found else not decisive

    return answer


def negation(one: Any) -> Any:
    return lambda row: None if one(row) is None else not one(row)


filters = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        inner.map(lambda f: (f"not ({f[0]})", negation(f[1]))),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda t: (f"({t[0][0]}) {t[1]} ({t[2][0]})", three_valued(t[1], t[0][1], t[2][1]))
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(filters)
def test_masks_agree_with_three_valued_logic_row_by_row(case: tuple[str, Any]) -> None:
    text, answer = case
    expected = [i for i in range(6) if answer({name: values[i] for name, values in ROWS.items()}) is True]
    assert rows_of(text) == expected


pieces = st.sampled_from(
    [
        "year",
        "lang",
        "(",
        ")",
        "and",
        "or",
        "not",
        "in",
        "=",
        "<",
        "'en'",
        "'",
        '"',
        "3",
        "-",
        ".",
        "is",
        "null",
        ",",
        " ",
        "\0",
        "é",
    ]
)


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60), st.lists(pieces, max_size=20).map(" ".join), st.lists(pieces, max_size=20).map("".join)
    )
)
def test_any_text_is_a_filter_or_a_clear_error(text: str) -> None:
    try:
        where = read_where(text, SCHEMA)
    except ValueError as error:
        assert str(error).startswith("where")
    else:
        assert where is not None and passing(where, COLUMNS, 6).shape == (6,)


@given(st.sets(st.text(max_size=5), max_size=30), st.text(max_size=5))
def test_sorted_texts_find_each_of_theirs_and_no_other(texts: set[str], other: str) -> None:
    made = SortedTexts.of(texts)
    assert {made[made.code(text)] for text in texts} == texts
    assert (made.code(other) >= 0) == (other in texts)


def test_a_column_that_these_rows_lack_is_missing_in_each() -> None:
    schema: dict[str, Kind] = {**SCHEMA, "later": "integer"}
    for text, count in (("later = 1", 0), ("later != 1", 0), ("later is null", 6), ("not later is null", 0)):
        where = read_where(text, schema)
        assert where is not None and passing(where, COLUMNS, 6).sum() == count


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"year": [1, 2]}, "has 2 values for 6 vectors"),
        ({"year": "abcdef"}, "must be a sequence of values, got one text"),
        ({"year": [1, "x", 3, 4, 5, 6]}, "all of one kind, got 'x'"),
        ({"year": [object()] * 6}, "must hold numbers, booleans or texts"),
        ({"year": [2**70] * 6}, "does not fit in 64 bits"),
        ({"year": np.zeros((6, 1))}, "one dimension"),
        ({"year": np.zeros(6, dtype="datetime64[D]")}, "convert"),
        ({"lang": [1, 2, 3, 4, 5, 6]}, "holds text values so far, got 1"),
        ({"": [1] * 6}, "named by texts"),
        ([1], "must be a mapping"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(attributes: Any, said: str) -> None:
    schema: dict[str, Kind] = {"lang": "text"}
    with pytest.raises((ValueError, TypeError)) as caught:
        read_attributes(attributes, 6, schema)
    assert said in str(caught.value)


def test_columns_give_their_values_back() -> None:
    assert {name: list(column.python()) for name, column in COLUMNS.items()} == ROWS
    assert isinstance(COLUMNS["lang"][1:3], Column) and list(COLUMNS["lang"][1:3].python()) == ["de", None]
