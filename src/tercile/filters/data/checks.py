"""Is this unit usable at all? Only well-defined faults; taste is left to later filters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np

from tercile.filters.data.example import Example, Rejection

# Control (tab and line ends excepted), unassigned and private characters do not occur in prose; one in
# twenty is far above what a stray form feed or a font's private glyph gives.
_STRANGE = {"Cc", "Cn", "Co"}
_STRANGE_SHARE = 0.05


def check(
    example: Example,
    *,
    min_length: int = 1,
    max_length: int | None = None,
    length: Callable[[str], int] = len,
) -> Rejection | None:
    r"""Say why an example cannot be used, or None when it can.

    Parameters
    ----------
    example : Example
        The unit.
    min_length, max_length : int, int or None
        Shortest and longest text that passes, in the unit of `length`; arrays have no length here.
    length : callable
        Text -> int. Characters by default; pass a token counter to bound tokens.

    Returns
    -------
    Rejection or None
        ``broken``: a text with U+FFFD or a lone surrogate (the marks of a failed decoding), an array with
        NaN or infinity, or of a type that holds no numbers. ``empty``: nothing but white space, or an
        array without elements. ``not-text``: a NUL; or more than 5% control, unassigned or private
        characters; or not one letter, digit or symbol (as emoji are) in it. ``too-short``, ``over-long``.
        The first that applies, in this order. O(characters) or O(elements).

    >>> print(check(Example("caf\ufffd", origin="a.txt:3")))
    a.txt:3: broken: 1 replacement character: it was decoded with the wrong encoding
    >>> check(Example("A fine sentence.")) is None
    True
    """
    fault = _array_fault(example.content) if isinstance(example.content, np.ndarray) else None
    if isinstance(example.content, str):
        fault = _text_fault(example.content) or _length_fault(example.content, min_length, max_length, length)
    if fault is None:
        return None
    return Rejection(*fault, example.origin, example.excerpt)


def _text_fault(text: str) -> tuple[str, str] | None:
    if not text or text.isspace():
        return "empty", "nothing but white space"
    replaced = text.count("\ufffd")
    if replaced:
        plural = "s" * (replaced > 1)
        return "broken", f"{replaced} replacement character{plural}: it was decoded with the wrong encoding"
    if text.isascii():
        # Most lines by far; both tests run in C.
        if text.isprintable():
            letters = any(map(str.isalnum, text))
            return None if letters or any(c in "$+<=>^`|~" for c in text) else _WORDLESS
    elif not _encodable(text):
        return "broken", "a lone surrogate: half of a character is missing"
    if "\0" in text:
        return "not-text", "a NUL character: this looks like binary data"
    categories = [unicodedata.category(c) for c in text if c not in "\t\n\r\f\v"]
    strange = sum(c in _STRANGE for c in categories)
    if strange > _STRANGE_SHARE * len(text):
        return "not-text", f"{strange} of {len(text)} characters are control, unassigned or private ones"
    # L letters, N numbers, S symbols (emoji among them).
    return None if any(c[0] in "LNS" for c in categories) else _WORDLESS


_WORDLESS = ("not-text", "not one letter, digit or symbol")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _length_fault(
    text: str, shortest: int, longest: int | None, length: Callable[[str], int]
) -> tuple[str, str] | None:
    if longest is None and shortest <= 1:
        return None
    measured = length(text)
    if measured < shortest:
        return "too-short", f"length {measured}, at least {shortest} asked"
    if longest is not None and measured > longest:
        return "over-long", f"length {measured}, at most {longest} allowed"
    return None


def _array_fault(array: np.ndarray) -> tuple[str, str] | None:
    if array.dtype.kind not in "biufc":
        return "broken", f"an array of type {array.dtype} holds no numbers"
    if array.size == 0:
        return "empty", f"an array of shape {array.shape} has no elements"
    if array.dtype.kind in "fc":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            return "broken", f"{bad} of {array.size} values are NaN or infinite"
    return None
