"""Numbers and outcomes as people say them; the page and the terminal use the same words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

# What each reason for turning a unit away means, for somebody who has never seen the word.
REASONS = {
    "undecodable": "the bytes could not be read, for instance not UTF-8 or no picture",
    "malformed": "a broken record: not valid JSON, or without the expected field",
    "broken": "damaged content, such as characters lost in an earlier conversion or NaN",
    "empty": "nothing in it",
    "too-short": "shorter than the least that was asked for",
    "over-long": "longer than what the model reads",
    "not-text": "binary or without a single letter, digit or symbol",
    "exact-duplicate": "the same content once more; only one is kept",
    "near-duplicate": "almost the same as another; kept once, so that no test unit has a twin elsewhere",
}


def size(nbytes: float) -> str:
    """Bytes in decimal units.

    >>> size(90868376), size(8_912_345), size(1234), size(12)
    ('90.9 MB', '8.91 MB', '1.23 kB', '12 bytes')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= 0.9995 * one:
            return f"{_three_digits(nbytes / one)} {unit}"
    return f"{int(nbytes)} byte{'' if nbytes == 1 else 's'}"


def times(before: float, after: float) -> str:
    """How many times smaller, rounded down: a ratio is never flattered.

    >>> times(90868376, 8912345), times(100, 99)
    ('10.1', '1.01')
    """
    ratio = before / after
    digits = 2 if ratio < 10 else 1
    return f"{math.floor(ratio * 10**digits + 1e-9) / 10**digits:.{digits}f}"


def loss(value: float) -> str:
    """A loss to four decimals, or to two digits where that would leave nothing.

    >>> loss(0.01794), loss(0.3), loss(0.0000123), loss(0)
    ('0.0179', '0.3000', '0.000012', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 0.001:
        return f"{value:.4f}"
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"


def bound(value: float) -> str:
    """An upper bound to four decimals, rounded up: it stays a bound.

    >>> bound(0.018701), bound(0.02), bound(0.00001234)
    ('0.0188', '0.0200', '0.000013')
    """
    if value == 0:
        return "0"
    digits = 4 if value >= 0.001 else 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits - 1e-6) / 10**digits:.{digits}f}"


def plain(value: float) -> str:
    """A number that somebody typed, as they typed it.

    >>> plain(0.02), plain(1.0), plain(0.00001)
    ('0.02', '1', '0.00001')
    """
    written = f"{value:.10f}".rstrip("0").rstrip(".")
    return written if float(written) == value else repr(value)


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.95), percent(0.999), percent(0.05)
    ('95%', '99.9%', '5%')
    """
    return f"{plain(round(100 * share, 6))}%"


def model_name(certificate: Mapping[str, Any]) -> str:
    """What the original is called: a name from the zoo, a folder's own name, or `module:function`.

    >>> model_name({"original": {"source": "/home/me/models/sentences/"}})
    'sentences'
    """
    source = str(certificate["original"]["source"])
    return source if ":" in source else source.rstrip("/").rsplit("/", 1)[-1] or source


def place(text: str) -> str:
    """Where a unit came from, its absolute paths cut to the last two parts.

    >>> place("near-duplicate of /usr/lib/tercile/zoo/samples/english.jsonl.gz:17"), place("a/b/c.txt:3")
    ('near-duplicate of samples/english.jsonl.gz:17', 'a/b/c.txt:3')
    """
    return re.sub(r"(?<!\S)(?:/[^/\s]+)+?/(?=[^/\s]+/[^/\s]+(?:\s|$))", "", text)


def measured_thing(certificate: Mapping[str, Any]) -> str:
    """What is bounded: the mean loss, or a quantile of it.

    >>> measured_thing({"quantile": None}), measured_thing({"quantile": 0.95})
    ('mean loss', '95% quantile of the loss')
    """
    quantile = certificate.get("quantile")
    return "mean loss" if quantile is None else f"{percent(quantile)} quantile of the loss"


def walk_sentences(certificate: Mapping[str, Any]) -> tuple[str, str]:
    """Which rungs passed; and where the walk down the ladder stopped, and why.

    >>> step = {"nbytes": 2_000_000, "bound": 0.01, "certified": True}
    >>> last = {"rung": 1, "nbytes": 1_000_000, "bound": 0.0213, "certified": False}
    >>> told = {"walk": [{"rung": 0, **step}, last], "max_loss": 0.02, "rung": 0}
    >>> began, stopped = walk_sentences(told)
    >>> began
    'The walk began at the safest rung it tested, number 0 (2.00 MB), and that one passed.'
    >>> print(stopped)
    It stopped at rung 1 (1.00 MB): there the mean loss could be as high as 0.0213,
    more than the 0.02 allowed.
    """
    walk = certificate["walk"]
    passed = [step for step in walk if step["certified"]]
    first = walk[0]
    if len(passed) == 1:
        went = "that one passed"
    else:
        went = f"{len(passed)} rungs passed one after another, down to number {passed[-1]['rung']}"
        went += f" ({size(passed[-1]['nbytes'])})"
    began = f"The walk began at the safest rung it tested, number {first['rung']} ({size(first['nbytes'])}), "
    failed = next((step for step in walk if not step["certified"]), None)
    if failed is None:
        return f"{began}and {went}.", "No rung failed: the smallest that was tested is the one you have."
    return f"{began}and {went}.", (
        f"It stopped at rung {failed['rung']} ({size(failed['nbytes'])}): there the "
        f"{measured_thing(certificate)} could be as high as {bound(failed['bound'])}, "
        f"more than the {plain(certificate['max_loss'])} allowed."
    )


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
