"""Atom as arXiv writes it, from its API and its daily feeds; no entities, no document types, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tercile.filters.data import Rejection
from tercile.page.imports.draft import Draft, draft

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ATOM = "{http://www.w3.org/2005/Atom}"
ARXIV = "{http://arxiv.org/schemas/atom}"
SEARCH = "{http://a9.com/-/spec/opensearch/1.1/}"
DUBLIN = "{http://purl.org/dc/elements/1.1/}"
#: The daily feeds put this before the abstract.
_ANNOUNCED = re.compile(r"^\s*arXiv:\S+\s+Announce Type:\s*\S+\s*(?:Abstract:)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Feed:
    """One file of Atom.

    Attributes
    ----------
    entries
        Drafts and rejections, in order.
    following
        Address of the next page, where the feed names one.
    total, start
        How many results there are in all and the number of the first one here, where the feed says so.
    """

    entries: tuple[Draft | Rejection, ...]
    following: str = ""
    total: int | None = None
    start: int | None = None


def read_atom(data: bytes, name: str = "") -> Feed:
    """Read an Atom feed.

    Raises
    ------
    ValueError
        It is no XML, declares entities or a document type, or is no Atom feed; or it is arXiv's way of saying that the
        question was wrong, which comes as a feed with one entry called Error.

    >>> text = b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><title>A title</title></entry></feed>'
    >>> read_atom(text).entries[0].title
    'A title'
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        root = fromstring(data, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException:
        raise ValueError(
            "the XML declares a document type or entities, which are not read; remove the DOCTYPE"
        ) from None
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise ValueError(f"no well-formed XML: {error}") from None
    if root.tag != f"{ATOM}feed":
        told = "RSS" if root.tag == "rss" else root.tag.rpartition("}")[2][:40]
        raise ValueError(
            f"no Atom feed but {told}; arXiv's Atom is at export.arxiv.org/api/query and rss.arxiv.org/atom/"
        )
    entries = root.findall(f"{ATOM}entry")
    if len(entries) == 1 and _text(entries[0], "title") == "Error" and "/api/errors" in _text(entries[0], "id"):
        raise ValueError(f"arXiv answered with an error: {_text(entries[0], 'summary')[:200]}")
    following = next((link.get("href", "") for link in root.findall(f"{ATOM}link") if link.get("rel") == "next"), "")
    return Feed(tuple(_drafts(entries, name)), following, _whole(root, "totalResults"), _whole(root, "startIndex"))


def _drafts(entries: list[Element], name: str) -> Iterator[Draft | Rejection]:
    for number, entry in enumerate(entries, 1):
        links = {link.get("rel", "alternate"): link.get("href", "") for link in entry.findall(f"{ATOM}link")}
        identity = _text(entry, "id").removeprefix("oai:arXiv.org:")
        authors = [_text(author, "name") for author in entry.findall(f"{ATOM}author")]
        # The daily feeds have all names in one element.
        creators = [part for made in entry.findall(f"{DUBLIN}creator") for part in "".join(made.itertext()).split(",")]
        yield draft(
            _text(entry, "title"),
            abstract=_ANNOUNCED.sub("", _text(entry, "summary") or _text(entry, "content")),
            authors=authors if any(authors) else creators,
            venue=_text(entry, "journal_ref", ARXIV),
            identifiers=[identity, links.get("alternate", ""), _text(entry, "doi", ARXIV)],
            url=links.get("alternate", ""),
            published=_text(entry, "published") or _text(entry, "updated"),
            origin=f"{name}: entry {number}" if name else f"entry {number}",
        )


def _text(element: Element, tag: str, space: str = ATOM) -> str:
    found = element.find(f"{space}{tag}")
    return "" if found is None else "".join(found.itertext()).strip()


def _whole(root: Element, tag: str) -> int | None:
    text = _text(root, tag, SEARCH)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
