"""BibTeX, by bibtexparser: entry by entry, so that a broken one costs nothing but itself."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator

from tercile.filters.data import Rejection
from tercile.page.imports.draft import Draft, draft

#: The parser takes the square of an entry's length in the worst case; an entry of 2,000 authors fits.
LONGEST_ENTRY = 40_000
#: A hostile file is left after so many seconds; a sound one of the largest size takes three.
PATIENCE = 10.0
_START = re.compile(r"^[ \t]*@[A-Za-z]+[ \t]*[{(]", re.MULTILINE)
_NO_PAPER = {"string", "comment", "preamble"}


def read_bibtex(text: str, name: str = "") -> Iterator[Draft | Rejection]:
    """Every entry of a BibTeX file, in order, as a draft or as a rejection with its line and reason.

    Abbreviations by ``@string`` and joins by ``#`` are resolved, LaTeX accents become letters, mathematics stays as
    it is. Commands are never run and files never read.

    >>> made = list(read_bibtex("@article{a, title={On B\\\\'ezier {C}urves}, author={Doe, Jane and Roe, R.}}"))
    >>> made[0].title, made[0].authors
    ('On Bézier Curves', 'Jane Doe, R. Roe')
    """
    logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # it logs each broken entry, which we report
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    starts = [found.start() for found in _START.finditer(plain)]
    strings: dict[str, str] = {}
    row, counted, begun = 1, 0, time.monotonic()
    for start, end in zip(starts, [*starts[1:], len(plain)]):
        row += plain.count("\n", counted, start)
        counted = start
        origin = f"{name}:{row}" if name else f"line {row}"
        if time.monotonic() - begun > PATIENCE:
            yield Rejection("malformed", f"the file takes more than {PATIENCE:.0f} s to read; the rest is left", origin)
            return
        if end - start > LONGEST_ENTRY:
            detail = f"{end - start:,} characters, at most {LONGEST_ENTRY:,} allowed"
            yield Rejection("over-long", detail, origin, plain[start : start + 80])
            continue
        yield from _entries(plain[start:end], strings, origin)


def _entries(block: str, strings: dict[str, str], origin: str) -> Iterator[Draft | Rejection]:
    from bibtexparser.entrypoint import parse_string

    try:
        library = parse_string(block, parse_stack=[])
    except Exception as error:  # the parser promises no kind of error for input made to break it
        yield Rejection("malformed", f"the BibTeX parser gave up: {error}"[:200], origin, block[:80])
        return
    for made in library.strings:
        strings[made.key.lower()] = _value(str(made.value), strings)
    for failed in library.failed_blocks:
        yield Rejection("malformed", _told(failed), origin, " ".join(str(failed.raw).split())[:80])
    for entry in library.entries:
        if entry.entry_type.lower() in _NO_PAPER:
            continue
        fields = {field.key.lower(): _value(str(field.value), strings) for field in entry.fields}
        yield _draft(fields, origin)


def _told(failed: object) -> str:
    """What was wrong with a block, in one sentence of our own."""
    error = getattr(failed, "error", None)
    words = " ".join(str(getattr(error, "abort_reason", error)).split())
    if "Duplicate field" in words:
        return f"the entry says the same field twice: {words.split(':', 1)[-1].split('.')[0].strip()}"
    if "end of file" in words or "block start" in words:
        return "the entry has no end: a closing brace or quote is missing"
    if "comma" in words:
        return "a comma is missing after the entry's key"
    return f"no BibTeX: {words}"[:200] if words else "no BibTeX"


def _draft(fields: dict[str, str], origin: str) -> Draft | Rejection:
    get = fields.get
    eprint = get("eprint", "")
    kind = get("archiveprefix", get("eprinttype", "arxiv")).lower()
    identifiers = [eprint if kind == "arxiv" else "", get("arxivid"), get("doi"), get("url"), get("note")]
    date = get("date", "")
    return draft(
        _letters(get("title", "")),
        abstract=_letters(get("abstract", "")),
        authors=map(_natural, re.split(r"\s+and\s+", _letters(get("author", "")))),
        year=get("year") or date[:4],
        venue=_letters(get("journal") or get("journaltitle") or get("booktitle") or get("howpublished") or ""),
        identifiers=identifiers,
        url=get("url", ""),
        published=date if len(date) == 10 else "",
        origin=origin,
    )


def _natural(name: str) -> str:
    """A name in the order in which it is said.

    >>> _natural("van der Berg, Jan"), _natural("King, Jr., Martin"), _natural("others")
    ('Jan van der Berg', 'Martin King Jr.', '')
    """
    parts = [part.strip() for part in name.split(",")]
    if name.strip() == "others":
        return ""
    if len(parts) == 2:
        return f"{parts[1]} {parts[0]}".strip()
    return f"{parts[2]} {parts[0]} {parts[1]}".strip() if len(parts) == 3 else name.strip()


def _value(raw: str, strings: dict[str, str]) -> str:
    """A field's value without its braces or quotes; abbreviations looked up, parts joined.

    >>> _value('"Int. " # conf', {"conf": "Conference"}), _value("{a {B}}", {}), _value("2020", {})
    ('Int. Conference', 'a {B}', '2020')
    """
    joined = ""
    for part in _parts(raw):
        if part[:1] in {"{", '"'} and len(part) > 1:
            joined += part[1:-1]
        else:
            joined += strings.get(part.lower(), part)
        if len(joined) > LONGEST_ENTRY:
            break
    return joined[:LONGEST_ENTRY]


def _parts(raw: str) -> Iterator[str]:
    """The pieces between those ``#`` that stand outside braces and quotes."""
    depth, quoted, begun = 0, False, 0
    for at, sign in enumerate(raw):
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
        elif sign == '"' and depth == 0:
            quoted = not quoted
        elif sign == "#" and depth == 0 and not quoted:
            yield raw[begun:at].strip()
            begun = at + 1
    yield raw[begun:].strip()


def _letters(text: str) -> str:
    """LaTeX as plain letters; text without commands or braces passes through."""
    if not any(sign in text for sign in "\\{}$~%"):
        return text
    from pylatexenc.latex2text import LatexNodes2Text

    try:
        return str(LatexNodes2Text(math_mode="verbatim", keep_comments=True).latex_to_text(text))
    except Exception:  # its errors for odd input are of every kind; the letters without braces are good enough
        return text.replace("{", "").replace("}", "")
