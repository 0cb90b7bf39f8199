"""A paper as it comes in: cleaned, bounded, and turned away with a reason where it can't be used."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from tercile.filters.data import Example, Rejection, check

TITLE, ABSTRACT, AUTHORS, VENUE, ADDRESS = 500, 12_000, 4_000, 300, 1_000
_ARXIV = re.compile(
    r"(?:^|arxiv[:.]|arxiv\.org/(?:abs|pdf|html)/)\s*"
    r"(\d{4}\.\d{4,5}|[a-z][a-z-]*(?:\.[A-Za-z]{2})?/\d{7})(?:v\d+)?(?:\.pdf)?\s*$",
    re.IGNORECASE,
)
_DOI = re.compile(r"(?:^|doi:\s*|doi\.org/)(10\.\d{4,9}/\S{1,200})\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """A paper that was read and not yet stored; every text is on one line, without control characters.

    `arxiv` is an identifier without version, `doi` in lower case, `published` in UTC; empty or None where unknown.
    `origin` says where in the file it stood.
    """

    title: str
    abstract: str = ""
    authors: str = ""
    year: int | None = None
    venue: str = ""
    arxiv: str = ""
    doi: str = ""
    url: str = ""
    room: str = ""
    published: str = ""
    origin: str = ""

    @property
    def source(self) -> str:
        """How the paper is cited: by arXiv identifier, else by DOI, else not at all."""
        return f"arXiv:{self.arxiv}" if self.arxiv else f"doi:{self.doi}" if self.doi else ""

    @property
    def address(self) -> str:
        """Where it can be read: as given, else made from its identifier."""
        made = (
            f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}" if self.doi else ""
        )
        return self.url or made


def draft(
    title: Any,
    *,
    abstract: Any = "",
    authors: Iterable[Any] = (),
    year: Any = None,
    venue: Any = "",
    identifiers: Iterable[Any] = (),
    url: Any = "",
    room: str = "",
    published: Any = "",
    origin: str = "",
) -> Draft | Rejection:
    """Clean what a file or form says of one paper.

    Parameters
    ----------
    title
        The only thing that must be there: a text of 3 to 500 characters.
    abstract, venue
        Texts; cut where they are longer than any real one.
    authors
        Names.
    year
        A number or text; the year of `published` where it is missing. What is no year counts as missing.
    identifiers
        Texts that may be, or end in, an arXiv identifier or a DOI; the first of each kind counts.
    url
        Kept if it is http or https.
    published
        ISO 8601, or a datetime.
    origin
        Where it came from, for messages.

    Returns
    -------
    Draft or Rejection
        The rejection's reason is ``malformed``, ``broken``, ``empty``, ``not-text``, ``too-short`` or ``over-long``.

    >>> draft("Attention  Is All\\nYou Need", identifiers=["https://arxiv.org/abs/1706.03762v5"], year="2017").source
    'arXiv:1706.03762'
    >>> print(draft("", origin="line 3"))
    line 3: empty: no title
    """
    if title is None or title == "":
        return Rejection("empty", "no title", origin)
    if not isinstance(title, str):
        return Rejection("malformed", f"the title is no text but {type(title).__name__}", origin)
    if fault := check(Example(title, origin=origin), min_length=3, max_length=4 * TITLE):
        return Rejection(fault.reason, f"title: {fault.detail}", origin, fault.excerpt)
    name = line(title)
    if len(name) > TITLE:
        return Rejection("over-long", f"title: length {len(name)}, at most {TITLE} allowed", origin, name[:80])
    arxiv = doi = ""
    for said in identifiers:
        arxiv, doi = arxiv or arxiv_id(said), doi or doi_of(said)
    when = moment(published)
    return Draft(
        title=name.rstrip(".") if name.count(".") == 1 else name,
        abstract=line(abstract)[:ABSTRACT],
        authors=_names(authors),
        year=_year(year) or (int(when[:4]) if when else None),
        venue=line(venue)[:VENUE],
        arxiv=arxiv,
        doi=doi,
        url=web_address(url),
        room=room,
        published=when,
        origin=origin,
    )


def line(text: Any) -> str:
    """A text on one line: composed form, no control characters or lone surrogates, single spaces.

    >>> line(" a\\x00b\\n c"), line(None)
    ('ab c', '')
    """
    if not isinstance(text, str):
        return ""
    composed = unicodedata.normalize("NFC", text)
    # Cf holds the marks that turn the direction of writing: with them a title can pose as another.
    kept = (c for c in composed if c.isspace() or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"})
    return " ".join("".join(kept).split())


def arxiv_id(text: Any) -> str:
    """The arXiv identifier that a text is or ends in, without its version; empty if there is none.

    >>> arxiv_id("arXiv:2006.10518v2"), arxiv_id("http://arxiv.org/abs/cond-mat/0102536v1"), arxiv_id("10.1/x")
    ('2006.10518', 'cond-mat/0102536', '')
    """
    found = _ARXIV.search(text) if isinstance(text, str) and len(text) <= ADDRESS else None
    return found[1] if found else ""


def doi_of(text: Any) -> str:
    """The DOI that a text is or ends in, in lower case; an arXiv one counts as an arXiv identifier, not here.

    >>> doi_of("https://doi.org/10.1000/ABC.1"), doi_of("10.48550/arXiv.2006.10518")
    ('10.1000/abc.1', '')
    """
    found = _DOI.search(text) if isinstance(text, str) and len(text) <= ADDRESS else None
    doi = found[1].lower() if found else ""
    return "" if doi.startswith("10.48550/arxiv.") else doi


def web_address(text: Any) -> str:
    """An http or https address, or nothing.

    >>> web_address(" https://example.org/a "), web_address("javascript:alert(1)"), web_address("//example.org")
    ('https://example.org/a', '', '')
    """
    address = line(text)
    if not address or len(address) > ADDRESS or " " in address:
        return ""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return ""
    return address if usable else ""


def moment(text: Any) -> str:
    """A time as ISO 8601 in UTC, to the second; empty if it is none.

    >>> moment("2012-10-29T18:12:41+02:00"), moment("2020-05-01"), moment("soon")
    ('2012-10-29T16:12:41+00:00', '2020-05-01T00:00:00+00:00', '')
    """
    try:
        when = text if isinstance(text, datetime) else datetime.fromisoformat(line(text))
        return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        return ""


def _names(authors: Iterable[Any]) -> str:
    """Names by commas; where they are too many, the first ones and how many more there are."""
    names = [name for name in map(line, authors) if name]
    joined = ", ".join(names)
    if len(joined) <= AUTHORS:
        return joined
    kept = 50
    return ", ".join(name[:60] for name in names[:kept]) + f" and {len(names) - kept:,} others"


def _year(text: Any) -> int | None:
    digits = re.fullmatch(r"\D{0,10}(\d{4})\D{0,10}", str(text)) if isinstance(text, (str, int)) else None
    year = int(digits[1]) if digits else 0
    return year if 1600 <= year <= datetime.now(UTC).year + 1 else None
