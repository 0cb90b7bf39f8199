"""A file of papers, whichever of the known formats it is in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from tercile.filters.data import Rejection
from tercile.page.imports.atom import read_atom
from tercile.page.imports.bibtex import read_bibtex
from tercile.page.imports.draft import Draft
from tercile.page.imports.semantic_scholar import read_semantic_scholar

Format = Literal["bibtex", "atom", "semantic-scholar"]
FORMATS: dict[Format, str] = {"bibtex": "BibTeX", "atom": "arXiv Atom", "semantic-scholar": "Semantic Scholar JSON"}
LARGEST = 4_000_000
MOST = 2_000


@dataclass(frozen=True)
class Read:
    """What a file held: its format, the papers, and what was turned away, each with the reason."""

    format: Format
    drafts: tuple[Draft, ...]
    rejected: tuple[Rejection, ...]


def read_papers(data: bytes | str, name: str = "", *, largest: int = LARGEST, most: int = MOST) -> Read:
    """Read BibTeX, arXiv Atom or Semantic Scholar JSON; which one it is shows in the first characters.

    Parameters
    ----------
    data
        The file's bytes, or a text that somebody pasted.
    name
        Of the file, for messages.
    largest, most
        Bytes and entries beyond which nothing, and no further entry, is read.

    Raises
    ------
    ValueError
        Empty, too large, none of the formats, or damaged as a whole; one damaged entry is a rejection instead.

    >>> read_papers("@misc{a, title={A title}} @misc{b, year=2020}").format
    'bibtex'
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if not raw.strip():
        raise ValueError("nothing in it: choose a file or paste its text")
    if len(raw) > largest:
        raise ValueError(f"{len(raw):,} bytes, at most {largest:,} are read; cut the file into smaller ones")
    kind = recognised(raw)
    found: Iterable[Draft | Rejection]
    if kind == "atom":
        found = read_atom(raw, name).entries
    else:
        text = _decoded(raw)
        found = read_bibtex(text, name) if kind == "bibtex" else read_semantic_scholar(text, name)
    every = list(islice(found, most + 1))
    drafts = tuple(made for made in every[:most] if isinstance(made, Draft))
    rejected = [made for made in every[:most] if isinstance(made, Rejection)]
    if len(every) > most:
        rejected.append(Rejection("over-long", f"at most {most:,} entries are read at once; the rest is left", name))
    if not drafts and not rejected:
        raise ValueError(f"no papers in it, though it looks like {FORMATS[kind]}")
    return Read(kind, drafts, tuple(rejected))


def recognised(raw: bytes) -> Format:
    """The format, by the first characters that say anything.

    Raises
    ------
    ValueError
        None of those that are known.

    >>> recognised(b"  <feed/>"), recognised(b"[1]"), recognised(b"% mine\\n@article{")
    ('atom', 'semantic-scholar', 'bibtex')
    """
    start = raw[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"<" or raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return "atom"
    if start in {b"{", b"["}:
        return "semantic-scholar"
    if b"@" in raw:
        return "bibtex"
    raise ValueError("none of the known formats: BibTeX has @article{...}, Atom starts with <, JSON with { or [")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start:,} can't be read; save the file as UTF-8") from None
