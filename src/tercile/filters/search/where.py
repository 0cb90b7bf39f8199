"""The filter language: text to a tree, and a tree to the rows that pass.

    year >= 2023 and lang in ('en', 'de') and not draft
    2 <= stars < 4 or title = 'it''s here' or score is null

Comparisons (`=`, `==`, `!=`, `<>`, `<`, `<=`, `>`, `>=`), chains of two (`2 <= x < 4`), `between a and b`, `in (...)`,
`is null`, a boolean column by its name alone, `and`, `or`, `not`, parentheses, `true`, `false`. Texts stand in single
quotes (`''` is a quote), names of other than letters, digits and `_` in double quotes. `not` binds closer than `and`,
`and` closer than `or`. A missing value is neither equal nor unequal, below nor above anything, as in SQL: a row without
a year passes neither `year = 2023` nor `not year = 2023`; `year is null` finds it. NaN counts as missing.

Text is parsed, never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

#: What a filter may be at most: characters, and parentheses and `not` inside each other.
LONGEST, DEEPEST = 100_000, 100

Value = bool | int | float | str
Operator = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class Compare:
    """`column operator value`; `position` is where the column stands in the text."""

    column: str
    operator: Operator
    value: Value
    position: int = 0


@dataclass(frozen=True)
class In:
    """`column in (values)`, or `column not in (values)` when `negated`."""

    column: str
    values: tuple[Value, ...]
    negated: bool = False
    position: int = 0


@dataclass(frozen=True)
class IsNull:
    """`column is null`, or `column is not null` when `negated`."""

    column: str
    negated: bool = False
    position: int = 0


@dataclass(frozen=True)
class Constant:
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True)
class And:
    """Every part."""

    parts: tuple[Where, ...]


@dataclass(frozen=True)
class Or:
    """At least one part."""

    parts: tuple[Where, ...]


@dataclass(frozen=True)
class Not:
    """The part is false; where it is unknown, so is this."""

    part: Where


Where = Compare | In | IsNull | Constant | And | Or | Not

_OPPOSITE: dict[Operator, Operator] = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED: dict[Operator, Operator] = {"=": "=", "!=": "!=", "<": ">", ">=": "<=", ">": "<", "<=": ">="}
_SPELLINGS: dict[str, Operator] = {
    "=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "between", "true", "false"})
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|(?P<quoted>"(?:[^"]|"")+")'
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign><=|>=|<>|!=|==|[=<>(),])"
)


def parse(text: str) -> Where:
    """Reads a filter.

    Parameters
    ----------
    text : at most `LONGEST` characters, parentheses and `not` at most `DEEPEST` deep.

    Raises
    ------
    TypeError : not a string.
    ValueError : not a filter; the message names the place, what was met there and what was expected.

    Cost: linear in the text.

    >>> parse("year >= 2023 and lang in ('en','de')").parts[0]
    Compare(column='year', operator='>=', value=2023, position=0)
    >>> parse("year >= and lang = 'en'")
    Traceback (most recent call last):
    ValueError: where, at character 9: expected a number, a text in single quotes, true or false, got 'and'
        year >= and lang = 'en'
                ^
    """
    if not isinstance(text, str):
        raise TypeError(f'where must be a text such as "year >= 2023", got {type(text).__name__}')
    if len(text) > LONGEST:
        raise ValueError(f"where is {len(text):,} characters long, at most {LONGEST:,} are read; shorten it")
    return _Parser(text).whole()


def without_not(where: Where, negated: bool = False) -> Where:
    """The same filter with every `not` carried down to the comparisons, where three-valued logic is plain.

    >>> without_not(parse("not (a < 1 or b in (2, 3))"))
    And(parts=(Compare(column='a', operator='>=', value=1, position=5), In(column='b', values=(2, 3), negated=True,
    position=14)))
    """
    match where:
        case Not(part):
            return without_not(part, not negated)
        case And(parts) | Or(parts):
            kept = tuple(without_not(part, negated) for part in parts)
            return And(kept) if isinstance(where, And) is not negated else Or(kept)
        case Compare(column, operator, value, position) if negated:
            return Compare(column, _OPPOSITE[operator], value, position)
        case In(column, values, inverse, position) if negated:
            return In(column, values, not inverse, position)
        case IsNull(column, inverse, position) if negated:
            return IsNull(column, not inverse, position)
        case Constant(value) if negated:
            return Constant(not value)
    return where


def leaves(where: Where) -> Iterator[Compare | In | IsNull]:
    """Every part that names a column, from left to right.

    >>> [leaf.column for leaf in leaves(parse("a and not (b or c)"))]
    ['a', 'b', 'c']
    """
    match where:
        case Not(part):
            yield from leaves(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from leaves(part)
        case Compare() | In() | IsNull():
            yield where


def complaint(text: str, position: int, said: str) -> ValueError:
    """What is wrong with a filter, and where, with the place pointed at.

    >>> print(complaint("a = 1", 4, "no such thing"))
    where, at character 5: no such thing
        a = 1
            ^
    """
    start = max(0, position - 40)
    shown = text[start : position + 40].translate({ord(c): " " for c in "\n\r\t\v\f"})
    return ValueError(f"where, at character {position + 1}: {said}\n    {shown}\n    {' ' * (position - start)}^")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


class _Parser:
    """Recursive descent, one method a line of the grammar:

    either  = both {or both}
    both    = plain {and plain}
    plain   = not plain | ( either ) | true | false | value operator column [operator value] | column [test]
    test    = operator value | [not] in ( value {, value} ) | [not] between value and value | is [not] null
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0

    def whole(self) -> Where:
        where = self.either()
        if self.now.kind != "end":
            raise self.unexpected("'and', 'or' or the end")
        return where

    def either(self) -> Where:
        return self.chain("or", self.both, Or)

    def both(self) -> Where:
        return self.chain("and", self.plain, And)

    def chain(self, word: str, part: Callable[[], Where], join: Callable[[tuple[Where, ...]], Where]) -> Where:
        parts = [part()]
        while self.taken(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def plain(self) -> Where:
        token = self.now
        if token.kind in {"number", "text"} or (token.kind in {"true", "false"} and self.after.kind in _SPELLINGS):
            return self.value_first()
        if self.taken("true", "false"):
            return Constant(token.kind == "true")
        if token.kind in {"not", "("}:
            self.depth += 1
            if self.depth > DEEPEST:
                raise complaint(self.text, token.position, f"more than {DEEPEST} levels deep; simplify the filter")
            self.at += 1
            if token.kind == "not":
                where: Where = Not(self.plain())
            else:
                where = self.either()
                self.need(")")
            self.depth -= 1
            return where
        return self.test(*self.column())

    def value_first(self) -> Where:
        value, operator = self.value(), self.operator()
        column, position = self.column()
        first = Compare(column, _MIRRORED[operator], value, position)
        if self.now.kind not in _SPELLINGS:
            return first
        return And((first, Compare(column, self.operator(), self.value(), position)))

    def test(self, column: str, position: int) -> Where:
        if self.now.kind in _SPELLINGS:
            return Compare(column, self.operator(), self.value(), position)
        if self.taken("is"):
            negated = self.taken("not")
            self.need("null")
            return IsNull(column, negated, position)
        negated = self.taken("not")
        if self.taken("in"):
            self.need("(")
            values = [self.value()]
            while self.taken(","):
                values.append(self.value())
            self.need(")")
            return In(column, tuple(values), negated, position)
        if self.taken("between"):
            low = self.value()
            self.need("and")
            between = And((Compare(column, ">=", low, position), Compare(column, "<=", self.value(), position)))
            return Not(between) if negated else between
        if negated:
            raise self.unexpected("'in' or 'between'")
        return Compare(column, "=", True, position)

    def column(self) -> tuple[str, int]:
        token = self.now
        if token.kind not in {"name", "quoted"}:
            raise self.unexpected("the name of a column")
        self.at += 1
        return (token.text[1:-1].replace('""', '"') if token.kind == "quoted" else token.text), token.position

    def operator(self) -> Operator:
        if self.now.kind not in _SPELLINGS:
            raise self.unexpected("one of = != < <= > >=")
        self.at += 1
        return _SPELLINGS[self.tokens[self.at - 1].kind]

    def value(self) -> Value:
        token = self.now
        if token.kind in {"true", "false"}:
            value: Value = token.kind == "true"
        elif token.kind == "text":
            value = token.text[1:-1].replace("''", "'")
        elif token.kind == "number":
            value = self.number(token)
        else:
            raise self.unexpected("a number, a text in single quotes, true or false")
        self.at += 1
        return value

    def number(self, token: _Token) -> int | float:
        if not re.fullmatch(r"[+-]?\d+", token.text):
            value = float(token.text)
            if abs(value) == float("inf"):
                raise complaint(self.text, token.position, f"{token.text} is too large for a float64")
            return value
        if len(token.text) > 20 or not -(2**63) <= int(token.text) < 2**63:
            raise complaint(self.text, token.position, f"{token.text[:24]} does not fit in 64 bits")
        return int(token.text)

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    @property
    def after(self) -> _Token:
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def taken(self, *kinds: str) -> bool:
        if self.now.kind not in kinds:
            return False
        self.at += 1
        return True

    def need(self, kind: str) -> None:
        if not self.taken(kind):
            raise self.unexpected(f"'{kind}'")

    def unexpected(self, expected: str) -> ValueError:
        token = self.now
        met = "the end" if token.kind == "end" else f"'{token.text[:40]}'"
        return complaint(self.text, token.position, f"expected {expected}, got {met}")


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            if text[at] in "'\"":
                raise complaint(text, at, f"a quote is opened and never closed; close it with {text[at]}")
            raise complaint(text, at, f"{text[at]!r} is no part of a filter")
        kind, word = str(found.lastgroup), found.group()
        if kind == "sign":
            kind = word
        elif kind == "name" and word.lower() in _KEYWORDS:
            kind = word.lower()
        if kind != "space":
            yield _Token(kind, word, at)
        at = found.end()
    yield _Token("end", "", len(text))
