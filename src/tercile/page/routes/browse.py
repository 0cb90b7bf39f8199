"""The front page: all methods, found by words, meaning, room, verdict and year."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from tercile.page.app import Page, page_of
from tercile.page.search import Filter, Mode
from tercile.page.search.documents import IMPORTED
from tercile.page.search.engine import DEPTH
from tercile.papers.listing import NOT_YET, STATES

router = APIRouter(include_in_schema=False)

#: Results on a page.
TOGETHER = 25
VERDICTS = (*STATES, IMPORTED)


@dataclass(frozen=True)
class Asked:
    """What a reader asked for; odd values are passed over rather than refused, as an address may be old."""

    q: str
    room: str
    verdicts: tuple[str, ...]
    since: int | None
    mode: Mode
    page: int

    @property
    def filter(self) -> Filter:
        return Filter(self.room, self.verdicts, self.since)

    @property
    def narrowed(self) -> bool:
        return bool(self.filter)

    def address(self, page: int) -> str:
        """The same search, another page of it."""
        parts: list[tuple[str, str]] = [("q", self.q), ("room", self.room)]
        parts += [("verdict", verdict) for verdict in self.verdicts]
        parts += [("since", str(self.since or "")), ("mode", "" if self.mode == "both" else self.mode)]
        parts += [("page", str(page) if page > 1 else "")]
        query = urlencode([(name, value) for name, value in parts if value])
        return f"/?{query}" if query else "/"


def asked(
    q: str = "",
    room: str = "",
    verdict: Annotated[list[str] | None, Query()] = None,
    since: str = "",
    mode: str = "both",
    page: str = "1",
) -> Asked:
    """The query string of a search."""
    return Asked(
        q=q[:400].strip(),
        room=room[:60],
        verdicts=tuple(word for word in VERDICTS if word in (verdict or ())),
        since=int(since) if since.isascii() and since.isdigit() and len(since) == 4 else None,
        mode=mode if mode in ("both", "meaning", "words") else "both",  # type: ignore[arg-type]
        page=int(page) if page.isascii() and page.isdigit() and 0 < int(page[:4]) == int(page[:9]) else 1,
    )


@router.get("/")
async def browse(request: Request, asked: Annotated[Asked, Depends(asked)]) -> HTMLResponse:
    """All methods, or what a search finds."""
    page = page_of(request)
    methods = page.shelf.now()
    collection = page.search.collection
    imported = len(collection.documents) - len(methods.entries)
    return page.render.html(
        request,
        "browse.html.j2",
        here="/",
        methods=methods,
        measured=len(methods.entries) - methods.verdicts["not yet"],
        tops=methods.houses,
        years=collection.years,
        verdicts=methods.verdicts | ({IMPORTED: imported} if imported else {}),
        **await results_of(page, asked),
    )


@router.get("/results")
async def results(request: Request, asked: Annotated[Asked, Depends(asked)]) -> HTMLResponse:
    """Only what was found: the part of the front page that changes while somebody types."""
    page = page_of(request)
    return page.render.html(request, "results.html.j2", **await results_of(page, asked))


async def results_of(page: Page, asked: Asked) -> dict[str, Any]:
    """One page of what a search finds, with what is said around it."""
    found = await page.search.find(asked.q, asked.filter, asked.mode)
    hits = found.hits
    if not asked.q:  # what was measured has more to say
        hits = tuple(sorted(hits, key=lambda hit: hit.document.verdict == NOT_YET))
    total = len(hits)
    at = min(asked.page, max(1, -(-total // TOGETHER)))
    first, last = (at - 1) * TOGETHER, min(at * TOGETHER, total)
    checked = page.shelf.now().checked
    shown = [(hit.document, checked.get(hit.document.key, "")) for hit in hits[first:last]]
    return {
        "asked": asked,
        "shown": shown,
        "total": total,
        "depth": DEPTH,
        "first": first + 1,
        "last": last,
        "notice": found.notice,
        "previous": asked.address(at - 1) if at > 1 else "",
        "following": asked.address(at + 1) if last < total else "",
    }
