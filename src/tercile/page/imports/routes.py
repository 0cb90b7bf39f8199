"""Bringing papers, looking at them, tagging them, and the list that comes of the tags."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from tercile.filters.data import Rejection
from tercile.page.app import Page, page_of
from tercile.page.imports.draft import draft
from tercile.page.imports.importer import Importer, Preview
from tercile.page.imports.reading import FORMATS, read_papers
from tercile.page.ranking import ROOMS, Words, all_texts, most_read, rank_by_tags
from tercile.page.ranking.reading_log import note_reading
from tercile.page.security import session_of

router = APIRouter(include_in_schema=False)
#: Entries of one file in the browser; each has a box to tick.
MOST = 150
MOST_TAGS, LONGEST_TAG, ON_A_PAGE = 500, 40, 50
NAMES: dict[str, str] = {str(name): words for name, words in FORMATS.items()} | {"form": "One paper by hand"}
WORDS = {
    "malformed": "broken entry",
    "broken": "damaged text",
    "empty": "nothing in it",
    "not-text": "no text",
    "too-short": "too short",
    "over-long": "too long",
    "exact-duplicate": "here already",
    "near-duplicate": "nearly here already",
}


def importer_of(request: Request) -> Importer:
    """The application's importer; made when first needed."""
    state = request.app.state
    with _MAKING:
        if not hasattr(state, "importer"):
            state.importer = Importer(page_of(request).database)
        found: Importer = state.importer
    return found


_MAKING = threading.Lock()


@router.get("/import")
def form(request: Request) -> Response:
    """The forms: a file, its text, or one paper by hand."""
    return _form(request)


def _form(request: Request, wrong: str = "", status: int = 200, **typed: object) -> Response:
    empty = {"text": "", "title": "", "authors": "", "year": "", "link": "", "abstract": "", "room": ""}
    return page_of(request).form(
        request, "import.html.j2", status, here="/import", rooms=ROOMS, wrong=wrong, typed={**empty, **typed}, most=MOST
    )


@router.post("/import")
def read(
    request: Request,
    file: Annotated[UploadFile | None, File()] = None,
    text: Annotated[str, Form()] = "",
    title: Annotated[str, Form()] = "",
    authors: Annotated[str, Form()] = "",
    year: Annotated[str, Form()] = "",
    link: Annotated[str, Form()] = "",
    abstract: Annotated[str, Form()] = "",
    room: Annotated[str, Form()] = "",
    csrf: Annotated[str, Form()] = "",
    by_hand: Annotated[str, Form()] = "",
) -> Response:
    """Read what was sent and show what it would add; nothing is stored yet."""
    page = page_of(request)
    page.check(request, csrf)
    importer = importer_of(request)
    if by_hand:
        typed = {"title": title, "authors": authors, "year": year, "link": link, "abstract": abstract, "room": room}
        if wrong := _wrong(title, year, link, room):
            return _form(request, wrong, 422, **typed)
        made = draft(
            title, abstract=abstract, authors=re.split(r"\s*[,;\n]\s*", authors), year=year.strip(), identifiers=[link],
            url=link, room=room, origin="the form",
        )  # fmt: skip
        if isinstance(made, Rejection):
            return _form(request, f"The title can't be used: {made.detail.removeprefix('title: ')}.", 422, **typed)
        preview = Preview("form", importer.judge([made]), ())
    else:
        sent = file.file.read(page.settings.upload_limit + 1) if file is not None and file.filename else b""
        try:
            found = read_papers(sent or text, (file.filename or "")[:80] if file else "", most=MOST)
        except ValueError as error:
            return _form(request, f"This can't be read: {error}.", 422, text=text if len(text) < 20_000 else "")
        preview = Preview(found.format, importer.judge(found.drafts), found.rejected)
    session = session_of(request, page.database)
    assert session is not None  # the form's token was checked against it
    token = importer.keep(session.id, preview)
    return RedirectResponse(f"/import/{token}", 303)


def _wrong(title: str, year: str, link: str, room: str) -> str:
    """What is wrong with a paper typed by hand, in words for the one who typed it."""
    if not title.strip():
        return "A paper needs a title."
    if year.strip() and draft("any", year=year.strip()) == draft("any"):
        return f"{year.strip()[:20]!r} is no year such as 2024."
    plain = draft("any", identifiers=[link], url=link)
    if link.strip() and not isinstance(plain, Rejection) and not (plain.url or plain.arxiv or plain.doi):
        return f"{link.strip()[:80]!r} is no web address, arXiv identifier or DOI."
    return "" if not room or room in ROOMS else f"There is no room {room[:40]!r}."


@router.get("/import/{token}")
def preview(request: Request, token: str) -> Response:
    """What a file would add, with a box for each paper."""
    page, (_, found) = page_of(request), _mine(request, token)
    return page.form(
        request, "import_preview.html.j2", here="/import", preview=found, address=f"/import/{token}", made=None,
        format=NAMES[found.format], words=WORDS,
        ticked=sum(one.wanted for one in found.judged),
    )  # fmt: skip


@router.post("/import/{token}")
def agree(
    request: Request,
    token: str,
    wanted: Annotated[list[int] | None, Form()] = None,
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Store the papers that were ticked; once more changes nothing."""
    page = page_of(request)
    page.check(request, csrf)
    session, found = _mine(request, token)
    made = importer_of(request).agree(session, token, wanted or [])
    if made is None:
        raise HTTPException(404, "This import has waited for more than an hour; send the file once more.")
    rows = page.database.connection()
    stored = [rows.execute("SELECT * FROM papers WHERE key = ?", (key,)).fetchone() for key in made.keys]
    return page.form(
        request, "import_preview.html.j2", here="/import", preview=found, address=f"/import/{token}", made=made,
        stored=[row for row in stored if row], words=WORDS, format=NAMES[found.format], ticked=0,
    )  # fmt: skip


def _mine(request: Request, token: str) -> tuple[int, Preview]:
    session = session_of(request, page_of(request).database)
    found = importer_of(request).kept(session.id, token) if session else None
    if session is None or found is None:
        raise HTTPException(404, "No import waits here; it may be older than an hour. Send the file once more.")
    return session.id, found


@router.get("/papers")
def papers(request: Request, page: int = 1) -> Response:
    """All imported papers, the newest first."""
    here = page_of(request)
    rows = here.database.connection()
    total = rows.execute("SELECT count(*) FROM papers").fetchone()[0]
    last = max(1, -(-total // ON_A_PAGE))
    if not 1 <= page <= last:
        raise HTTPException(404, f"There are {last} pages of papers.")
    found = rows.execute("SELECT * FROM papers ORDER BY id DESC LIMIT ? OFFSET ?", (ON_A_PAGE, ON_A_PAGE * (page - 1)))
    return here.render.html(
        request,
        "papers.html.j2",
        here="/for-you",
        papers=found.fetchall(),
        total=total,
        page=page,
        last=last,
        rooms=ROOMS,
    )


@router.get("/papers/{key}")
def paper(request: Request, key: str) -> Response:
    """One imported paper."""
    page = page_of(request)
    row = page.database.connection().execute("SELECT * FROM papers WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise HTTPException(404, "There is no paper at this address.")
    answer = page.render.html(request, "paper.html.j2", here="/for-you", paper=row, rooms=ROOMS)
    answer.background = note_reading(request, key)
    return answer


@router.get("/tag/{key}")
def tagging(request: Request, key: str) -> Response:
    """A reader's tags on one paper, with a form."""
    page = page_of(request)
    text = next((text for text in all_texts(page.database.connection()) if text.key == key), None)
    if text is None:
        raise HTTPException(404, "There is no paper at this address.")
    mine = _tags(request)
    return page.form(
        request, "tag.html.j2", here="/for-you", text=text, known=sorted(mine), wrong="",
        tags=sorted(tag for tag, keys in mine.items() if key in keys),
    )  # fmt: skip


@router.post("/tag/{key}")
def tag(
    request: Request,
    key: str,
    tag: Annotated[str, Form()] = "",
    remove: Annotated[str, Form()] = "",
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Put a tag on a paper, or take it off."""
    page = page_of(request)
    page.check(request, csrf)
    session = session_of(request, page.database)
    assert session is not None
    name = " ".join((remove or tag).split())
    text = next((text for text in all_texts(page.database.connection()) if text.key == key), None)
    if text is None:
        raise HTTPException(404, "There is no paper at this address.")
    mine = _tags(request)
    wrong = ""
    if not name or len(name) > LONGEST_TAG or not name.isprintable():
        wrong = f"A tag has 1 to {LONGEST_TAG} characters."
    elif not remove and sum(map(len, mine.values())) >= MOST_TAGS:
        wrong = f"You have {MOST_TAGS} tagged papers, the most that are kept."
    if wrong:
        return page.form(
            request, "tag.html.j2", 422, here="/for-you", text=text, wrong=wrong, known=sorted(mine),
            tags=sorted(tag for tag, keys in mine.items() if key in keys),
        )  # fmt: skip
    with page.database.transaction() as rows:
        if remove:
            rows.execute("DELETE FROM tags WHERE session = ? AND paper = ? AND tag = ?", (session.id, key, name))
        else:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            rows.execute("INSERT INTO tags VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (session.id, key, name, now))
    return RedirectResponse("/for-you" if not remove else f"/tag/{key}", 303)


@router.get("/for-you")
def for_you(request: Request) -> Response:
    """What goes with a reader's tags, and what is read most."""
    page = page_of(request)
    texts = all_texts(page.database.connection())
    by_key = {text.key: text for text in texts}
    mine = _tags(request)
    ranked = [by_key[key] for key in list(rank_by_tags(_words(request, page), mine))[:20] if key in by_key]
    half_life = page.settings.half_life_days * 86400.0
    weights = most_read(page.database.connection(), time.time(), half_life)
    read = [(by_key[key], weight) for key, weight in weights.items() if key in by_key][:10]
    answer = page.render.html(
        request, "for_you.html.j2", here="/for-you", ranked=ranked, read=read, rooms=ROOMS, imported=len(texts) - 166,
        tags={tag: [by_key[key] for key in keys if key in by_key] for tag, keys in sorted(mine.items())},
        half_life=page.settings.half_life_days,
    )  # fmt: skip
    answer.headers["cache-control"] = "no-store"
    return answer


def _tags(request: Request) -> dict[str, list[str]]:
    page = page_of(request)
    session = session_of(request, page.database)
    found: dict[str, list[str]] = {}
    if session is not None:
        query = "SELECT tag, paper FROM tags WHERE session = ? ORDER BY made DESC, paper"
        for tag, paper in page.database.connection().execute(query, (session.id,)):
            found.setdefault(tag, []).append(paper)
    return found


def _words(request: Request, page: Page) -> Words:
    """Vectors of all papers, made anew when papers came or went."""
    state, rows = request.app.state, page.database.connection()
    key = tuple(rows.execute("SELECT count(*), coalesce(max(id), 0) FROM papers").fetchone())
    with _MAKING:
        if getattr(state, "words", (None, None))[0] != key:
            state.words = (key, Words.of(all_texts(rows)))
        found: Words = state.words[1]
    return found
