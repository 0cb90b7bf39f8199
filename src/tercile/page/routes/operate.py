"""For those who run the page: health, metrics; and the feed of what was measured."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tercile import __version__
from tercile.page.app import page_of
from tercile.page.database import version
from tercile.page.mail.running import states_of
from tercile.page.search.documents import IMPORTED

router = APIRouter(include_in_schema=False)
#: Entries of the feed.
NEWEST = 50


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 where the database answers; search by meaning may still be getting ready."""
    page = page_of(request)
    return JSONResponse(
        {
            "status": "ok",
            "version": __version__,
            "database": version(page.database.connection()),
            "methods": len(page.shelf.now().entries),
            "search_by_meaning": page.search.ready,
            "notice": page.search.notice,
        },
        headers={"cache-control": "no-store"},
    )


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    page = page_of(request)
    for verdict, number in page.shelf.now().verdicts.items():
        page.metrics.methods.labels(verdict).set(number)
    page.metrics.papers.set(sum(d.verdict == IMPORTED for d in page.search.collection.documents))
    letters, subscribers = states_of(page.database.connection())
    for gauge, states in ((page.metrics.letters, letters), (page.metrics.subscribers, subscribers)):
        gauge.clear()
        for state, number in states.items():
            gauge.labels(state).set(number)
    page.metrics.meaning.set(page.search.ready)
    return Response(generate_latest(page.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/feed.xml")
async def feed(request: Request) -> Response:
    """Atom: what was measured, the latest first."""
    page = page_of(request)
    measured = [entry for entry in page.shelf.now().entries if entry.evidence]
    newest = sorted(measured, key=lambda entry: (moment(entry.evidence.date), entry.paper.nr), reverse=True)[:NEWEST]  # type: ignore[union-attr]
    text = page.render.text(
        "feed.xml.j2",
        address=page.settings.address,
        entries=[(entry, moment(entry.evidence.date)) for entry in newest if entry.evidence],
        updated=moment(newest[0].evidence.date) if newest and newest[0].evidence else "1970-01-01T00:00:00Z",
    )
    return Response(text, media_type="application/atom+xml")


def moment(date: str) -> str:
    """The date of a file of evidence as a feed writes it.

    >>> moment("2026-11-25"), moment("2026-11-25T04:00:00+00:00")
    ('2026-11-25T00:00:00Z', '2026-11-25T04:00:00Z')
    """
    read = datetime.fromisoformat(date)
    read = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    return read.strftime("%Y-%m-%dT%H:%M:%SZ")
