"""Papers as Semantic Scholar's API gives them: one, a list, or a page of search results under ``data``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tercile.filters.data import Rejection
from tercile.page.imports.draft import Draft, draft


def read_semantic_scholar(text: str, name: str = "") -> Iterator[Draft | Rejection]:
    """Every paper of a JSON file or of JSON lines.

    A search result (``{"data": [...]}``), a batch (a list, with null for what was not found), recommendations,
    references and citations (a paper inside ``citedPaper`` or ``citingPaper``) and a single paper are told apart by
    their shape.

    Raises
    ------
    ValueError
        It is no JSON, or holds no papers.

    >>> [made] = read_semantic_scholar('{"data": [{"title": "A title", "externalIds": {"ArXiv": "2001.00001"}}]}')
    >>> made.arxiv
    '2001.00001'
    """
    for number, record in enumerate(_records(_parsed(text)), 1):
        origin = f"{name}: paper {number}" if name else f"paper {number}"
        if record is None:
            yield Rejection("empty", "null: Semantic Scholar did not find this one", origin)
        elif not isinstance(record, dict):
            yield Rejection("malformed", f"no object but {type(record).__name__}", origin, str(record)[:80])
        else:
            yield _draft(record, origin)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply for a list of papers") from None
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and lines[0].lstrip().startswith("{"):
            try:
                return [json.loads(line) for line in lines]
            except (ValueError, RecursionError):
                pass
        raise ValueError(f"no valid JSON: {error}"[:200]) from None


def _records(value: Any) -> list[Any]:
    if isinstance(value, dict):
        for inside in ("data", "recommendedPapers", "papers"):
            if isinstance(value.get(inside), list):
                return [_inner(record) for record in value[inside]]
        if "title" not in value:
            said = value.get("error") or value.get("message")
            raise ValueError(f"no papers in it{f', but the words: {said}'[:200] if said else ''}; a paper has a title")
        return [value]
    if isinstance(value, list):
        return [_inner(record) for record in value]
    raise ValueError("no papers in it; Semantic Scholar's answers are objects or lists")


def _inner(record: Any) -> Any:
    if isinstance(record, dict):
        for inside in ("citedPaper", "citingPaper"):
            if isinstance(record.get(inside), dict):
                return record[inside]
    return record


def _draft(record: dict[str, Any], origin: str) -> Draft | Rejection:
    known = record.get("externalIds")
    ids = known if isinstance(known, dict) else {}
    authors = record.get("authors")
    return draft(
        record.get("title"),
        abstract=record.get("abstract"),
        authors=[a.get("name") if isinstance(a, dict) else a for a in authors] if isinstance(authors, list) else (),
        year=record.get("year"),
        venue=record.get("venue"),
        identifiers=[ids.get("ArXiv"), ids.get("DOI"), record.get("doi")],
        url=record.get("url"),
        published=record.get("publicationDate"),
        origin=origin,
    )
