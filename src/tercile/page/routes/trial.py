"""Try it: slide through stored runs, and watch a live one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from tercile.page.app import page_of
from tercile.page.search.encoder import default_model, why_not
from tercile.page.trial import Busy, run_chart, stored_runs
from tercile.page.trial.live import LOSSES, MODELS
from tercile.wording import plain

router = APIRouter(include_in_schema=False)
#: The loss that the slider starts at.
FIRST = 0.02


@router.get("/try")
async def trial(request: Request, loss: str = "") -> Response:
    """The slider, what the run under it found, and the live run."""
    page = page_of(request)
    runs = stored_runs()
    return page.form(
        request,
        "try.html.j2",
        here="/try",
        runs=runs,
        stops=[{"loss": plain(run.max_loss), "word": plain(run.max_loss)} for run in runs],
        number=runs.index(chosen(loss)),
        models=MODELS,
        losses=LOSSES,
        **shown(loss),
        **live_of(request),
    )


@router.get("/try/run")
async def run(request: Request, loss: str = "") -> HTMLResponse:
    """Only what the run under the slider found."""
    return page_of(request).render.html(request, "try_run.html.j2", **shown(loss))


@router.get("/try/live")
async def live(request: Request) -> Response:
    """Only how far the live run is."""
    return page_of(request).form(request, "try_live.html.j2", models=MODELS, losses=LOSSES, **live_of(request))


@router.post("/try/live")
async def start(request: Request) -> Response:
    """Start a live run."""
    page = page_of(request)
    form = await request.form()
    page.check(request, form.get("csrf"))
    if reason := why_no_live_run(request):
        raise HTTPException(403, reason)
    try:
        page.live.start(str(form.get("model")), float(str(form.get("loss"))))
    except Busy:
        raise HTTPException(409, "Another run has not ended yet; this page takes one at a time.") from None
    except ValueError:
        raise HTTPException(422, "Choose a model and a loss from those on offer.") from None
    return RedirectResponse("/try#live", 303)


@router.post("/try/stop")
async def stop(request: Request) -> Response:
    """Stop the live run."""
    page = page_of(request)
    page.check(request, (await request.form()).get("csrf"))
    await page.live.stop()
    return RedirectResponse("/try#live", 303)


def chosen(loss: str) -> Any:
    """The stored run whose loss is nearest to what was asked for."""
    try:
        wanted = float(loss)
    except ValueError:
        wanted = FIRST
    if not 0 <= wanted <= 1:
        wanted = FIRST
    return min(stored_runs(), key=lambda run: abs(run.max_loss - wanted))


def shown(loss: str) -> dict[str, Any]:
    """A stored run with its pictures."""
    run, runs = chosen(loss), stored_runs()
    return {"run": run, "wide": run_chart(run, runs), "tall": run_chart(run, runs, narrow=True)}


def live_of(request: Request) -> dict[str, Any]:
    """How far the live run is; or why there can be none."""
    progress = page_of(request).live.progress
    pictures = {}
    if progress is not None and progress.run is not None:
        pictures = {
            "live_wide": run_chart(progress.run, [progress.run]),
            "live_tall": run_chart(progress.run, [progress.run], narrow=True),
        }
    return {"progress": progress, "no_live": why_no_live_run(request), **pictures}


def why_no_live_run(request: Request) -> str:
    """Why readers can't start a run here; empty if they can."""
    if not page_of(request).settings.live_runs:
        return "Live runs are switched off on this page."
    if why_not(default_model()) is not None:
        return 'A live run needs torch, which is not installed here: pip install "tercile[torch,zoo]".'
    return ""
