"""The page as an application: what every route shares, and the routers that make it up.

A part of the page is a router in a module of its own, added to `ROUTERS`; a route finds what it needs by
``page_of(request)``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from tercile import __version__
from tercile.page.background import background
from tercile.page.database import NAME, Database
from tercile.page.methods import Shelf
from tercile.page.observing import Metrics, Observer
from tercile.page.rendering import Renderer
from tercile.page.search import Encoder, Search
from tercile.page.security import Guard, check_form, form_token, keep, secret, session_of
from tercile.page.settings import Settings
from tercile.page.trial.live import Live
from tercile.papers import evidence_folder

#: Paths that take files of papers, larger than a form.
UPLOADS: frozenset[str] = frozenset({"/import"})


@dataclass(frozen=True)
class Page:
    """What every route needs.

    Attributes
    ----------
    settings
        As it was started.
    database
        What readers gave it.
    shelf
        The catalogue with its evidence.
    search
        Finds methods and papers.
    render
        Templates.
    metrics
        Counters.
    live
        The compression that readers may start.
    key
        Signs the tokens of forms.
    """

    settings: Settings
    database: Database
    shelf: Shelf
    search: Search
    render: Renderer
    metrics: Metrics
    live: Live
    key: bytes

    def form(self, request: Request, name: str, status: int = 200, **context: Any) -> Response:
        """A page with a form: starts a session where there is none and hands `token` to the template."""
        session = session_of(request, self.database, start=True)
        assert session is not None
        answer = self.render.html(request, name, status, token=form_token(self.key, session), **context)
        keep(answer, session, self.settings)
        answer.headers["cache-control"] = "no-store"
        return answer

    def check(self, request: Request, token: object) -> None:
        """Refuse a form that this page did not hand to this browser; see `check_form`."""
        check_form(request, self.key, session_of(request, self.database), token)


def page_of(request: Request) -> Page:
    """The page that a request came to."""
    page: Page = request.app.state.page
    return page


def create_app(settings: Settings | None = None, *, encoder: Encoder | None = None) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    settings
        By default those that need no configuration.
    encoder
        Embeds queries; by default the small MiniLM, loaded in the background while words are searched already.

    Raises
    ------
    ValueError
        The database can't be used, or a file of evidence is damaged.
    """
    from tercile.page.routes import ROUTERS

    settings = settings or Settings()
    database = Database(settings.data / NAME)
    metrics = Metrics()
    shelf = Shelf(evidence_folder(settings.evidence))
    search = Search(
        shelf, database, model=settings.model, threads=settings.encoder_threads, encoder=encoder,
        told=metrics.batches.observe,
    )  # fmt: skip
    page = Page(
        settings=settings,
        database=database,
        shelf=shelf,
        search=search,
        render=Renderer(settings),
        metrics=metrics,
        live=Live(settings.data / "live", settings.live_seconds),
        key=secret(database),
    )

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(search.load())
        with background(database, settings):
            yield
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await page.live.stop()
        await search.close()
        database.close()

    app = FastAPI(
        title="tercile",
        version=__version__,
        summary="Published methods: what each claims, beside what was measured.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=alive,
    )
    app.state.page = page
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", Kept(directory=str(resources.files("tercile.page") / "static")), name="static")
    app.add_exception_handler(HTTPException, _said)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_middleware(Guard, settings=settings, uploads=UPLOADS)
    app.add_middleware(Observer, metrics=metrics)
    return app


class Kept(StaticFiles):
    """Files whose address changes with their content: browsers keep them for a year."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        answer = super().file_response(*arguments, **named)
        answer.headers["cache-control"] = "public, max-age=31536000, immutable"
        return answer


async def _said(request: Request, error: Exception) -> Response:
    """An error as a page for readers and as JSON for programs."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    words = {404: "There is no page at this address."}
    told = error.detail if error.detail != HTTPStatus(error.status_code).phrase else words.get(error.status_code, "")
    heading = "Not found" if error.status_code == 404 else HTTPStatus(error.status_code).phrase
    answer = page_of(request).render.html(request, "error.html.j2", error.status_code, heading=heading, words=told)
    answer.headers.update(error.headers or {})
    return answer


async def _misread(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if request.url.path.startswith("/api/"):  # in the form that the API's description promises
        said = [{"loc": list(one["loc"]), "msg": str(one["msg"]), "type": str(one["type"])} for one in error.errors()]
        return JSONResponse({"detail": said}, 422)
    words = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return page_of(request).render.html(request, "error.html.j2", 422, heading="That was not understood", words=words)
