"""One method: what it claims, beside what was measured."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from tercile.page.app import page_of
from tercile.page.methods import year_of

router = APIRouter(include_in_schema=False)


@router.get("/methods/{slug}")
async def method(request: Request, slug: str) -> HTMLResponse:
    page = page_of(request)
    entry = page.shelf.now().by_slug.get(slug)
    if entry is None:
        raise HTTPException(404, f"There is no method called {slug[:60]!r}.")
    return page.render.html(request, "method.html.j2", here="/", entry=entry, year=year_of(entry))
