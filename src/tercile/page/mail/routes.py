"""Subscribing, confirming, choosing anew and leaving, each by a page that works without JavaScript.

No answer says whether an address is known. Links open pages that change nothing, as mail scanners open every link;
a button does. The one exception is RFC 8058: a mail program may POST to the link of List-Unsubscribe, with no cookie
and no token of a form; the token in the address is what entitles it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from tercile.page.app import page_of
from tercile.page.mail import subscribing
from tercile.page.mail.subscribing import Choices
from tercile.page.mail.times import zones
from tercile.page.ranking import ROOMS
from tercile.page.security import session_of

router = APIRouter(include_in_schema=False)
GONE = "This link is not valid any more. Links to confirm work for two days and once; links in digests for four months."


@router.get("/digest")
def form(request: Request) -> Response:
    """The form to subscribe."""
    return _form(request)


def _form(request: Request, wrong: str = "", status: int = 200, **typed: object) -> Response:
    empty = {"address": "", "rooms": [], "hour": "7", "zone": "UTC"}
    return page_of(request).form(
        request, "digest.html.j2", status, here="/digest", rooms=ROOMS, zones=zones(), wrong=wrong,
        typed={**empty, **typed}, on=page_of(request).settings.mails,
    )  # fmt: skip


@router.post("/digest")
def ask(
    request: Request,
    address: Annotated[str, Form()] = "",
    rooms: Annotated[list[str] | None, Form()] = None,
    hour: Annotated[str, Form()] = "7",
    zone: Annotated[str, Form()] = "UTC",
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Send a letter to confirm; the answer is the same for every address."""
    page = page_of(request)
    page.check(request, csrf)
    if not page.settings.mails:
        raise HTTPException(503, "This page has no mail server yet; whoever runs it can set one.")
    session = session_of(request, page.database)
    typed = {"address": address[:254], "rooms": rooms or [], "hour": hour, "zone": zone}
    try:
        choices = Choices.checked(rooms or [], hour, zone, session.id if session else None)
        with page.database.transaction() as rows:
            subscribing.ask(rows, address, choices)
    except ValueError as error:
        said = str(error)
        return _form(request, f"{said[0].upper()}{said[1:]}.", 422, **typed)
    return RedirectResponse("/digest/asked", 303)


@router.get("/digest/asked")
def asked(request: Request) -> Response:
    """What to do next, the same for everybody."""
    return page_of(request).render.html(request, "digest_told.html.j2", here="/digest", told="asked")


@router.get("/digest/confirm/{token}")
def confirming(request: Request, token: str) -> Response:
    """A page with the choices and one button."""
    page = page_of(request)
    found = subscribing.waiting(page.database.connection(), token)
    if found is None:
        raise HTTPException(404, GONE)
    address, choices = found
    return _private(page.form(
        request, "digest_confirm.html.j2", here="/digest", address=address, choices=choices, rooms=ROOMS, secret=token
    ))  # fmt: skip


@router.post("/digest/confirm/{token}")
def confirm(request: Request, token: str, csrf: Annotated[str, Form()] = "") -> Response:
    """Put the choices in force."""
    page = page_of(request)
    page.check(request, csrf)
    with page.database.transaction() as rows:
        made = subscribing.confirm(rows, token)
    if made is None:
        raise HTTPException(404, GONE)
    return _private(page.render.html(
        request, "digest_told.html.j2", here="/digest", told="confirmed", reader=made, secret=token
    ))  # fmt: skip


@router.get("/digest/mine/{token}")
def mine(request: Request, token: str) -> Response:
    """A reader's choices, by a link from a letter."""
    return _mine(request, token)


def _mine(request: Request, token: str, wrong: str = "", saved: bool = False, status: int = 200) -> Response:
    page = page_of(request)
    reader = subscribing.of_token(page.database.connection(), token)
    if reader is None:
        raise HTTPException(404, GONE)
    typed = {"rooms": reader.choices.rooms, "hour": str(reader.choices.hour), "zone": reader.choices.zone}
    return _private(page.form(
        request, "digest_mine.html.j2", status, here="/digest", reader=reader, rooms=ROOMS, zones=zones(), typed=typed,
        wrong=wrong, saved=saved, secret=token,
    ))  # fmt: skip


@router.post("/digest/mine/{token}")
def change(
    request: Request,
    token: str,
    rooms: Annotated[list[str] | None, Form()] = None,
    hour: Annotated[str, Form()] = "",
    zone: Annotated[str, Form()] = "",
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Put new choices in force."""
    page = page_of(request)
    page.check(request, csrf)
    try:
        choices = Choices.checked(rooms or [], hour, zone)
    except ValueError as error:
        said = str(error)
        return _mine(request, token, f"{said[0].upper()}{said[1:]}.", status=422)
    with page.database.transaction() as rows:
        subscribing.change(rows, token, choices)
    return _mine(request, token, saved=True)


@router.get("/digest/leave/{token}")
def leaving(request: Request, token: str) -> Response:
    """A page with one button: opening a link ends nothing."""
    page = page_of(request)
    reader = subscribing.of_token(page.database.connection(), token)
    if reader is None:
        raise HTTPException(404, GONE)
    return _private(page.render.html(request, "digest_leave.html.j2", here="/digest", reader=reader, secret=token))


@router.post("/digest/leave/{token}")
def leave(request: Request, token: str) -> Response:
    """End a subscription: by the button, or by a mail program as of RFC 8058. Twice is as good as once."""
    page = page_of(request)
    with page.database.transaction() as rows:
        if not subscribing.leave(rows, token):
            raise HTTPException(404, GONE)
    return _private(page.render.html(request, "digest_told.html.j2", here="/digest", told="left"))


def _private(answer: Response) -> Response:
    """A page whose address entitles: it is not kept, not indexed, and its address goes to nobody."""
    answer.headers.update(
        {"cache-control": "no-store", "referrer-policy": "no-referrer", "x-robots-tag": "noindex, nofollow"}
    )
    return answer
