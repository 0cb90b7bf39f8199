"""The read API, described by OpenAPI at /api/openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from tercile.page.app import Page, page_of
from tercile.page.methods import count, year_of
from tercile.page.search import Filter, Hit, Mode
from tercile.page.source import experiment_path
from tercile.papers import Entry

BUSY: dict[int | str, dict[str, str]] = {429: {"description": "Too many requests from one address: Retry-After."}}
router = APIRouter(prefix="/api", tags=["read"], responses=BUSY)
Verdict = Literal["holds", "partly", "not here", "not yet"]
FoundVerdict = Literal["holds", "partly", "not here", "not yet", "imported"]
Slug = Annotated[str, Path(pattern=r"^[a-z0-9_]{1,80}$", description="A method's short name.")]
Year = Annotated[int | None, Query(ge=1800, le=2200)]
Room = Annotated[str, Query(max_length=60, description="A room, or all rooms under one, such as quantization.")]
MISSING: dict[int | str, dict[str, str]] = {404: {"description": "There is no such method."}}


class Method(BaseModel):
    """A method, in brief."""

    nr: int
    slug: str
    title: str
    room: str
    summary: str
    claim: str
    verdict: Verdict
    measured: str = Field(description="The first check's numbers in a few words; empty where nothing was measured.")
    year: int | None


class Check(BaseModel):
    """One condition that was fixed before the run, and what came of it on each seed."""

    condition: str
    values: list[float]
    limits: list[float]
    passed: list[bool]


class Numbers(BaseModel):
    """One measured quantity, seed by seed."""

    values: list[float]
    unit: str


class Measurement(BaseModel):
    """What was measured."""

    measured_on: str
    baseline: str
    reason: str
    seeds: list[int]
    checks: list[Check]
    quantities: dict[str, Numbers]
    seconds: float
    date: str
    commit: str | None


class FullMethod(Method):
    """A method with everything that was measured."""

    authors: str | None
    source: str | None
    experiment: str | None = Field(description="Path of the experiment in the repository.")
    evidence: Measurement | None


class Result(BaseModel):
    """Something that was found: a method, or a paper that a reader brought."""

    address: str
    title: str
    summary: str
    room: str
    verdict: FoundVerdict
    year: int | None
    similarity: float | None = Field(description="Cosine to the query; null where it was found by its words alone.")


class Results(BaseModel):
    """What a search found, best first."""

    mode: Mode = Field(description="How it was searched: words where meaning was asked for and can't be had.")
    notice: str
    results: list[Result]


class RoomCounts(BaseModel):
    """How many methods of a room have each verdict."""

    room: str
    methods: int
    verdicts: dict[Verdict, int]


class State(BaseModel):
    """How many of all methods hold."""

    methods: int
    verdicts: dict[Verdict, int]
    rooms: list[RoomCounts]


@router.get("/methods")
async def methods(
    request: Request, room: Room = "", verdict: Annotated[list[Verdict] | None, Query()] = None
) -> list[Method]:
    """All methods in catalogue order."""
    wanted = Filter(room, tuple(verdict or ()))
    page = page_of(request)
    documents = {hit.document.key for hit in (await page.search.find("", wanted)).hits}
    return [brief(entry) for entry in page.shelf.now().entries if entry.paper.slug in documents]


@router.get("/methods/{slug}", responses=MISSING)
async def method(request: Request, slug: Slug) -> FullMethod:
    """One method, with everything that was measured."""
    return full(entry_of(page_of(request), slug))


@router.get("/methods/{slug}/similar", responses=MISSING)
async def similar(request: Request, slug: Slug, most: Annotated[int, Query(ge=1, le=50)] = 5) -> list[Result]:
    """What is nearest to a method in meaning."""
    page = page_of(request)
    entry_of(page, slug)
    return [result(hit) for hit in page.search.similar(slug, most)]


@router.get("/search")
async def search(
    request: Request,
    q: Annotated[str, Query(max_length=400, description="Empty finds everything, in catalogue order.")] = "",
    room: Room = "",
    verdict: Annotated[list[FoundVerdict] | None, Query()] = None,
    since: Year = None,
    until: Year = None,
    mode: Mode = "both",
    most: Annotated[int, Query(ge=1, le=60)] = 20,
) -> Results:
    """Search by words, by meaning, or both blended."""
    found = await page_of(request).search.find(q, Filter(room, tuple(verdict or ()), since, until), mode, most)
    return Results(mode=found.mode, notice=found.notice, results=[result(hit) for hit in found.hits[:most]])


@router.get("/state")
async def state(request: Request) -> State:
    """How many methods have each verdict, in all and by room."""
    now = page_of(request).shelf.now()
    rooms = [
        RoomCounts(room=room, methods=len(entries), verdicts=count(entries))  # type: ignore[arg-type]
        for room, entries in now.rooms.items()
    ]
    return State(methods=len(now.entries), verdicts=now.verdicts, rooms=rooms)  # type: ignore[arg-type]


@router.get("", include_in_schema=False)
async def described(request: Request) -> HTMLResponse:
    """The API as a page for people."""
    paths = request.app.openapi()["paths"]
    routes = [
        (path, example(path), operation["description"], [told(one) for one in operation.get("parameters", ())])
        for path, methods in paths.items()
        for operation in methods.values()
    ]
    return page_of(request).render.html(request, "api.html.j2", routes=routes)


def example(path: str) -> str:
    """An address to begin with.

    >>> example("/api/methods/{slug}/similar"), example("/api/search")
    ('/api/methods/gpfq/similar', '/api/search?q=few+bits')
    """
    return path.replace("{slug}", "gpfq") + ("?q=few+bits" if path.endswith("/search") else "")


def told(parameter: dict[str, Any]) -> tuple[str, str]:
    """A parameter's name, and what it takes, in words."""
    schema = parameter["schema"]
    kinds = [schema, schema.get("items", {}), *schema.get("anyOf", ())]
    kinds += [kind.get("items", {}) for kind in schema.get("anyOf", ())]
    values = next((kind["enum"] for kind in kinds if "enum" in kind), None)
    kind = "a whole number" if schema.get("type", "integer") == "integer" else schema["type"]
    words = parameter.get("description") or (", ".join(values) if values else kind)
    default = schema.get("default")
    return parameter["name"], f"{words}; by default {default}" if default not in (None, "") else words


def entry_of(page: Page, slug: str) -> Entry:
    """The method of that name, or 404."""
    entry = page.shelf.now().by_slug.get(slug)
    if entry is None:
        raise HTTPException(404, f"There is no method called {slug!r}.")
    return entry


def brief(entry: Entry) -> Method:
    """A method in brief."""
    p = entry.paper
    return Method(
        nr=p.nr, slug=p.slug, title=p.title, room=p.room, summary=p.summary, claim=p.claim,
        verdict=entry.verdict, measured=entry.measured, year=year_of(entry),  # type: ignore[arg-type]
    )  # fmt: skip


def full(entry: Entry) -> FullMethod:
    """A method with its evidence."""
    evidence = entry.evidence
    measured = None
    if evidence:
        results = evidence.judge().checks if evidence.measured else ()
        checks = [
            Check(condition=str(r.check), values=list(r.values), limits=list(r.limits), passed=list(r.passed))
            for r in results
        ]
        quantities = {name: Numbers(values=list(q.values), unit=q.unit) for name, q in evidence.measured.items()}
        measured = Measurement(
            measured_on=evidence.measured_on, baseline=evidence.baseline, reason=evidence.reason,
            seeds=list(evidence.seed), checks=checks, quantities=quantities, seconds=evidence.seconds,
            date=evidence.date, commit=evidence.commit,
        )  # fmt: skip
    return FullMethod(
        **brief(entry).model_dump(),
        authors=evidence.authors if evidence else entry.paper.authors,
        source=evidence.source if evidence else entry.paper.source,
        experiment=experiment_path(entry.paper.slug),
        evidence=measured,
    )


def result(hit: Hit) -> Result:
    """Something that was found."""
    d = hit.document
    return Result(
        address=d.address, title=d.title, summary=d.summary, room=d.room, verdict=d.verdict,  # type: ignore[arg-type]
        year=d.year, similarity=hit.similarity,
    )  # fmt: skip
