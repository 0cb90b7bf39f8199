"""Import, and a digest from subscribing to leaving, in headless Chromium; letters are caught by a real mail server."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.page.browser import Site, picture
from tests.page.test_importing_papers import BIBTEX

from tercile.page.database import NAME, Database
from tercile.page.mail.delivery import Sender
from tercile.page.settings import Settings


class Post(Site):
    """The page with its mail: `send` does what `tercile page digest` does."""

    def send(self, now: float | None = None) -> dict[str, int]:
        """In a thread, as the browser's own loop runs in this one."""
        done: list[dict[str, int]] = []

        def run() -> None:
            database = Database(self.settings.data / NAME)
            sender = Sender(database, self.settings, time.time if now is None else lambda: now)
            done.append(dict(asyncio.run(sender.run()).states))
            sender.close()
            database.close()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return done[0]


@pytest.fixture
def site(settings: Settings) -> Iterator[Post]:
    made = Post(settings, model=settings.data / "none")  # search by words alone: no torch is loaded
    made.start()
    yield made
    made.stop()


def link(mailbox: Any, address: str, part: str, kind: str = "plain") -> str:
    text = mailbox.to(address)[-1].get_body((kind,)).get_content()
    found = re.search(rf"http://127\.0\.0\.1:\d+/digest/{part}/[\w-]{{32}}", text)
    assert found
    return found[0]


def test_a_file_is_previewed_stored_once_and_found(site: Post, tab: Any, tmp_path: Path) -> None:
    extra = "@misc{x, title={Implicit Quantile Networks for Distributional Reinforcement Learning}}\n"
    file = tmp_path / "mine.bib"
    file.write_text(BIBTEX + extra + "@misc{y, title={Two parts <script>alert(1)</script>}}\n", encoding="utf-8")
    tab.goto(f"{site.base}/import")
    picture(tab, "import")
    tab.set_input_files("#file", file)
    tab.click("form[enctype] button")
    assert tab.locator("h1").inner_text() == "5 papers in it"
    assert "Here already: the same title as Implicit Quantile Networks" in tab.locator(".near").first.inner_text()
    assert tab.get_by_text("the entry has no end").is_visible()
    assert tab.locator("input[name=wanted]:checked").count() == 4
    picture(tab, "preview")
    tab.click("text=Store what is ticked")
    assert tab.locator("h1").inner_text() == "4 papers stored"
    picture(tab, "stored")
    tab.click("text=Quantile Regression for Bézier curves")
    assert "arXiv:2001.00001" in tab.content() and "José François" in tab.content()
    picture(tab, "paper")
    tab.goto(f"{site.base}/import")
    tab.fill("#text", file.read_text(encoding="utf-8"))
    tab.click("form[enctype] button")
    assert tab.locator("input[name=wanted]").count() == 0
    assert "alert(1)" in tab.locator("main").inner_text()


def test_what_is_mistyped_is_told_and_what_was_typed_is_kept(site: Post, tab: Any) -> None:
    tab.goto(f"{site.base}/import")
    tab.click("form[enctype] button")
    assert "nothing in it" in tab.get_by_role("alert").inner_text()
    tab.fill("#title", "A paper typed by hand")
    tab.fill("#year", "soon")
    tab.locator("form").nth(1).locator("button").click()
    assert "'soon' is no year" in tab.get_by_role("alert").inner_text()
    assert tab.input_value("#title") == "A paper typed by hand"
    tab.fill("#year", "2024")
    tab.fill("#link", "javascript:alert(1)")
    tab.locator("form").nth(1).locator("button").click()
    assert "no web address" in tab.get_by_role("alert").inner_text()
    picture(tab, "import-wrong")
    tab.fill("#link", "arXiv:2402.00001")
    tab.locator("form").nth(1).locator("button").click()
    tab.click("text=Store what is ticked")
    tab.click("text=A paper typed by hand")
    assert "arXiv:2402.00001" in tab.content()
    tab.goto(f"{site.base}/digest")
    tab.fill("#address", "ann@gmial.com")
    tab.click("text=Send me a link")
    assert "Did you mean ann@gmail.com?" in tab.get_by_role("alert").inner_text()
    assert tab.input_value("#address") == "ann@gmial.com"
    picture(tab, "digest-wrong")


def test_from_subscribing_to_leaving(site: Post, tab: Any, mailbox: Any, chromium: Any) -> None:
    tab.goto(f"{site.base}/methods/iqn")
    tab.click("text=Tag")
    picture(tab, "tag")
    tab.click("button:has-text('Tag')")
    assert "Goes with your tags" in tab.content()
    picture(tab, "for-you")
    tab.goto(f"{site.base}/digest")
    assert tab.input_value("#zone") == "Europe/Berlin"
    picture(tab, "digest")
    tab.fill("#address", "ann@example.org")
    tab.check("input[value=quantiles]")
    tab.select_option("#hour", "0")
    tab.click("text=Send me a link")
    assert tab.locator("h1").inner_text() == "Look into your mail"
    picture(tab, "asked")
    assert site.send() == {"sent": 1}

    tab.goto(link(mailbox, "ann@example.org", "confirm"))
    picture(tab, "confirm")
    assert (
        Database(site.settings.data / NAME).connection().execute("SELECT count(*) FROM subscribers").fetchone()[0] == 0
    )
    tab.click("text=Yes, send it to me")
    assert "The digest goes to ann@example.org every day at 00:00, Europe/Berlin" in tab.content()
    picture(tab, "confirmed")

    tomorrow = time.time() + 86400
    assert site.send(tomorrow) == {"sent": 1}
    assert site.send(tomorrow + 60) == {}
    letter = mailbox.to("ann@example.org")[-1]
    shown = chromium.new_page()
    shown.set_content(letter.get_body(("html",)).get_content())
    assert "From the catalogue" in shown.inner_text("body") or "FROM THE CATALOGUE" in shown.inner_text("body")
    picture(shown, "letter", audit=False)
    shown.set_content(mailbox.to("ann@example.org")[0].get_body(("html",)).get_content())
    picture(shown, "letter-confirm", audit=False)
    shown.close()

    tab.goto(link(mailbox, "ann@example.org", "mine"))
    picture(tab, "mine")
    tab.select_option("#hour", "9")
    tab.click("text=Save")
    assert tab.get_by_role("status").is_visible() and tab.input_value("#hour") == "9"

    tab.goto(link(mailbox, "ann@example.org", "leave", "html"))
    picture(tab, "leave")
    tab.click("button:has-text('Unsubscribe')")
    assert tab.locator("h1").inner_text() == "You have left"
    picture(tab, "left")
    assert site.send(tomorrow + 86400) == {}


def test_a_mail_program_unsubscribes_by_one_post_without_cookies(site: Post, mailbox: Any) -> None:
    import httpx

    database = Database(site.settings.data / NAME)
    with database.transaction() as rows:
        rows.execute(
            "INSERT INTO subscribers (address, address_key, rooms, hour, zone, state, since, changed) "
            "VALUES ('bob@example.org', 'bob@example.org', '[]', 0, 'UTC', 'active', 0, 0)"
        )
    site.send()
    address = mailbox.to("bob@example.org")[0]["List-Unsubscribe"].strip("<>")
    assert httpx.get(address).status_code == 200  # a scanner opens every link
    assert database.connection().execute("SELECT state FROM subscribers").fetchone()[0] == "active"
    for _ in range(2):
        assert httpx.post(address, data={"List-Unsubscribe": "One-Click"}).status_code == 200
    assert database.connection().execute("SELECT state FROM subscribers").fetchone()[0] == "left"
    assert httpx.post(f"{site.base}/digest/leave/{'A' * 32}").status_code == 404
    database.close()


@pytest.mark.parametrize(
    "path", ["/digest", "/import", "/tag/iqn", f"/digest/mine/{'A' * 32}", f"/digest/confirm/{'A' * 32}"]
)
def test_forms_of_other_sites_are_refused(site: Post, path: str) -> None:
    import httpx

    fields = {"address": "a@example.org", "title": "x", "by_hand": "1", "tag": "x", "csrf": "forged"}
    assert httpx.post(f"{site.base}{path}", data=fields).status_code == 403


def test_asking_takes_as_long_and_answers_the_same_for_known_and_unknown_addresses(site: Post) -> None:
    import httpx

    database = Database(site.settings.data / NAME)
    with database.transaction() as rows:
        rows.execute(
            "INSERT INTO subscribers (address, address_key, rooms, hour, zone, state, since, changed) "
            "VALUES ('known@example.org', 'known@example.org', '[]', 0, 'UTC', 'active', 0, 0)"
        )
    database.close()
    with httpx.Client() as client:
        form = client.get(f"{site.base}/digest").text
        token = re.search(r'name="csrf" value="(\w+)"', form)[1]  # type: ignore[index]
        answers = [
            client.post(
                f"{site.base}/digest", data={"csrf": token, "address": f"{who}@example.org", "hour": "7", "zone": "UTC"}
            )
            for who in ("known", "unknown", "known", "unknown")
        ]
    told = {
        (a.status_code, a.headers["location"], a.content, tuple(k for k in a.headers if k != "date")) for a in answers
    }
    assert len(told) == 1
