"""What tests in a browser share: the page served on this machine, and what every picture of it has to pass.

With $TERCILE_SCREENSHOTS set to a folder, every page that a test looks at is kept there as a picture.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.page.conftest import free_port

from tercile.page import create_app
from tercile.page.serving import server_of
from tercile.page.settings import Settings

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
#: What a browser that starts in a test leaves alone.
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update")  # fmt: skip


class Site:
    """The page, served on this machine to a browser."""

    def __init__(self, settings: Settings, **own: Any) -> None:
        port = free_port()
        own = {"port": port, "base_url": f"http://127.0.0.1:{port}", "writes_per_minute": 600, **own}
        self.settings = replace(settings, deliver=False, **own)
        self.base = self.settings.address
        self.app = create_app(self.settings)
        self._server = server_of(self.app, self.settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        for _ in range(600):
            if self._server.started:
                return
            time.sleep(0.1)
        raise RuntimeError("the page did not start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@contextmanager
def chromium_or_skip() -> Iterator[Any]:
    """A headless Chromium: the system's own, or the one that `playwright install` brought."""
    playwright = pytest.importorskip("playwright.sync_api", reason="tests in a browser need playwright")
    with playwright.sync_playwright() as started:
        found = shutil.which("chromium") or shutil.which("chromium-browser")
        if not found and not Path(started.chromium.executable_path).is_file():
            pytest.skip("tests in a browser need Chromium: apt-get install chromium, or playwright install chromium")
        browser = started.chromium.launch(executable_path=found, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def watched(chromium: Any, **context: Any) -> Iterator[Any]:
    """A tab in which nothing may fail: no script, no file, nothing that the content policy forbids."""
    opened = chromium.new_context(**{"viewport": DESKTOP, "timezone_id": "Europe/Berlin", **context})
    page = opened.new_page()
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    opened.close()
    # What a browser says of an answer of 404 or 422 is no fault of the page.
    assert [fault for fault in faults if "status of 4" not in fault] == []


def picture(page: Any, name: str, *, audit: bool = True) -> None:
    """On desktop and phone, light and dark: accessible as axe-core sees it, and nothing sticks out of the width."""
    folder = os.environ.get("TERCILE_SCREENSHOTS")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the audit needs axe-playwright-python")
    for size, where in ((PHONE, "phone"), (DESKTOP, "desktop")):
        page.set_viewport_size(size)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size["width"], f"{name} is {wide} wide on a {where}"
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # no colour is caught on its way
            if audit:
                found = axe.Axe().run(page)
                assert found.violations_count == 0, f"{name} on a {where} in {theme}: {found.generate_report()}"
            if folder:
                page.screenshot(path=str(Path(folder) / f"{name}-{where}-{theme}.png"), full_page=True)
    page.emulate_media(color_scheme="light")
