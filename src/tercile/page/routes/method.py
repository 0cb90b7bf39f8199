"""One method: what it claims, beside what was measured."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse

from tercile.page.app import page_of
from tercile.page.figures import check_strip, condition
from tercile.page.methods import checks_in_words, year_of
from tercile.page.ranking.reading_log import note_reading
from tercile.page.rendering import number
from tercile.page.source import experiment_path, parts_of

router = APIRouter(include_in_schema=False)


@router.get("/methods/{slug}")
async def method(request: Request, slug: str) -> HTMLResponse:
    """The page of a method."""
    page = page_of(request)
    entry = page.shelf.now().by_slug.get(slug)
    if entry is None:
        raise HTTPException(404, f"There is no method called {slug[:60]!r}.")
    evidence = entry.evidence
    checks = []
    if evidence and evidence.measured:
        for result in evidence.judge().checks:
            checks.append((result, *condition(result), check_strip(result, evidence)))
    path = experiment_path(slug)
    where = page.settings.repository
    commit = evidence.commit if evidence and evidence.commit else None
    answer = page.render.html(
        request,
        "method.html.j2",
        here="/",
        entry=entry,
        evidence=evidence,
        year=year_of(entry),
        source=source_address(evidence.source if evidence else entry.paper.source),
        checks=checks,
        words=checks_in_words(entry),
        spread=spread,
        path=path,
        link=where.format(path=path, commit=commit or "main") if where and path else None,
        parts_used=parts_of(slug),
        commit=commit,
        similar=page.search.similar(slug),
    )
    answer.background = note_reading(request, slug)
    return answer


@router.get("/methods/{slug}/evidence.json")
async def evidence(request: Request, slug: str) -> JSONResponse:
    """The file of evidence, as `tercile papers run` wrote it."""
    entry = page_of(request).shelf.now().by_slug.get(slug)
    if entry is None or entry.evidence is None:
        raise HTTPException(404, "This method has not been measured.")
    return JSONResponse(entry.evidence.as_dict())


def spread(values: tuple[float, ...]) -> str:
    """Numbers over the seeds: one, or from the least to the greatest.

    >>> spread((0.5, 0.25)), spread((3.0, 3.0))
    ('0.25 to 0.5', '3')
    """
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def source_address(source: str | None) -> str | None:
    """Where a source can be read, if it says so.

    >>> source_address("arXiv:2006.10518"), source_address("a book"), source_address("doi:10.1/x")
    ('https://arxiv.org/abs/2006.10518', None, 'https://doi.org/10.1/x')
    """
    kind, _, name = (source or "").partition(":")
    named = name.strip()
    if kind.lower() == "arxiv" and named.replace(".", "").isdigit():
        return f"https://arxiv.org/abs/{named}"
    if kind.lower() == "doi" and named.startswith("10."):
        return f"https://doi.org/{named}"
    return None
