"""The 166 methods, from `catalogue.tsv`: the one place where number, title, room, summary and claim stand."""

from __future__ import annotations

import difflib
from dataclasses import replace
from functools import cache
from pathlib import Path

from tercile.papers.declaration import Paper

COLUMNS = ["nr", "slug", "room", "title", "summary", "claim"]


@cache
def catalogue() -> tuple[Paper, ...]:
    """All papers in order of their number. Read once; about a millisecond.

    >>> len(catalogue()), catalogue()[7].slug
    (166, 'iqn')
    """
    path = Path(__file__).with_name("catalogue.tsv")
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if header.split("\t") != COLUMNS:
        raise ValueError(f"{path.name} must start with the columns {', '.join(COLUMNS)}")
    papers = []
    for line in lines:
        nr, slug, room, title, summary, claim = line.split("\t")
        papers.append(Paper(int(nr), slug, title, room, summary, claim))
    return tuple(papers)


def paper(
    slug: str,
    *,
    authors: str | None = None,
    year: int | None = None,
    source: str | None = None,
    not_here: str | None = None,
) -> Paper:
    """The catalogue's paper of this slug, with what was looked up about it.

    Parameters
    ----------
    slug
        As in the catalogue.
    authors, year, source
        Only what was looked up; a source is for example ``"arXiv:2006.10518"``.
    not_here
        Why the claim cannot be measured on machines like ours, if that is so.

    Raises
    ------
    ValueError
        No such slug; the message offers the closest ones.

    >>> paper("iqn").room
    'quantiles.rl'
    >>> paper("iqnn")
    Traceback (most recent call last):
    ValueError: no paper 'iqnn' in the catalogue; did you mean iqn, riql? ...
    """
    for found in catalogue():
        if found.slug == slug:
            return replace(found, authors=authors, year=year, source=source, not_here=not_here)
    close = difflib.get_close_matches(str(slug), [known.slug for known in catalogue()], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    raise ValueError(f"no paper {slug!r} in the catalogue; {hint}`tercile papers list` shows all")
