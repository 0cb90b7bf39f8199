"""The state of the whole: how many methods hold, room by room."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tercile.page.app import page_of
from tercile.page.methods import count

router = APIRouter(include_in_schema=False)


@router.get("/state")
async def state(request: Request) -> HTMLResponse:
    """Every method as a mark, by room; counts of each verdict."""
    methods = page_of(request).shelf.now()
    tops: dict[str, list[tuple[str, object, dict[str, int]]]] = {}
    for room, entries in methods.rooms.items():
        tops.setdefault(room.split(".")[0], []).append((room, entries, count(entries)))
    return page_of(request).render.html(request, "state.html.j2", here="/state", methods=methods, tops=tops)
