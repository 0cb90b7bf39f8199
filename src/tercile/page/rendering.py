"""From templates to answers: one environment, everything escaped, nothing left undefined."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from tercile import wording
from tercile.page.naming import VERDICTS, room_words, spoken
from tercile.page.settings import Settings

THEMES = ("light", "dark")
#: What stands in the head line: address, word, and the name that a route gives as `here`.
NAVIGATION = (("/", "Methods"), ("/state", "State"), ("/try", "Try it"), ("/for-you", "For you"), ("/digest", "Digest"))


class Renderer:
    """Templates with what all pages share.

    Parameters
    ----------
    settings
        Of the page.
    navigation
        Address and word of every part that the head line leads to.
    """

    def __init__(self, settings: Settings, navigation: tuple[tuple[str, str], ...] = NAVIGATION) -> None:
        self.environment = jinja2.Environment(
            loader=jinja2.PackageLoader("tercile.page", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.environment.filters.update(
            size=wording.size, loss=wording.loss, bound=wording.bound, plain=wording.plain, percent=wording.percent,
            times=wording.times, number=number, spoken=spoken, room=room_words,
        )  # fmt: skip
        self.environment.globals.update(static=static, navigation=navigation, settings=settings, meanings=VERDICTS)

    def text(self, name: str, **context: Any) -> str:
        """A template filled in, as text: for mail, feeds and parts of pages."""
        return self.environment.get_template(name).render(**context)

    def html(self, request: Request, name: str, status: int = 200, **context: Any) -> HTMLResponse:
        """A page as an answer, in the theme that the reader chose, if any."""
        theme = request.cookies.get("theme", "")
        shown = {"request": request, "theme": theme if theme in THEMES else "", "here": "", **context}
        return HTMLResponse(self.text(name, **shown), status, {"cache-control": "no-cache", "vary": "cookie"})


@cache
def static(name: str) -> str:
    """Address of a file in static/, which changes with its content and can be kept for ever.

    >>> static("page.css").startswith("/static/page.css?v=")
    True
    """
    content = resources.files("tercile.page").joinpath("static", name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def number(value: float) -> str:
    """Four digits, as a person writes them.

    >>> number(0.012345), number(123456.0), number(3.0), number(1.2e-7), number(-0.5)
    ('0.01235', '123,456', '3', '1.2e-7', '−0.5')
    """
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size and size < 1e-4:
        mantissa, exponent = f"{value:.3e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    else:
        text = f"{value:.4g}"
    return f"−{text[1:]}" if text.startswith("-") else text
