"""The front page: all methods, found by words, meaning, room, verdict and year."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tercile.page.app import page_of
from tercile.page.methods import year_of

router = APIRouter(include_in_schema=False)


@router.get("/")
async def browse(request: Request, room: str = "") -> HTMLResponse:
    page = page_of(request)
    methods = page.shelf.now()
    shown = [e for e in methods.entries if not room or e.paper.room == room or e.paper.room.startswith(f"{room}.")]
    return page.render.html(request, "browse.html.j2", here="/", methods=methods, shown=shown, year_of=year_of)
