"""The page as a reader uses it, in headless Chromium: by mouse, keyboard, phone, in the dark, without scripts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.page.browser import DESKTOP, PHONE, Site, picture, watched

from tercile.page import Settings
from tercile.page.trial import stored_runs
from tercile.page.trial.live import Live
from tercile.papers import list_papers

ENTRIES = list_papers(Path("evidence"))
#: A method of each verdict that there is, the one with most checks.
OF_EACH = {
    verdict: max(
        (entry for entry in ENTRIES if entry.verdict == verdict),
        key=lambda entry: len(entry.evidence.rule) if entry.evidence else 0,
    ).paper.slug
    for verdict in sorted({entry.verdict for entry in ENTRIES})
}
PAGES = {
    "browse": "/",
    "search": "/?q=few+bits+for+a+language+model",
    "last-page": "/?page=7",
    "nothing": "/?q=zzzzqq&mode=words&room=stats.tests",
    **{f"method-{verdict.replace(' ', '-')}": f"/methods/{slug}" for verdict, slug in OF_EACH.items()},
    "state": "/state",
    "try": "/try",
    "api": "/api",
    "for-you": "/for-you",
    "papers": "/papers",
    "import": "/import",
    "digest": "/digest",
    "tag": "/tag/iqn",
    "not-found": "/nowhere",
}
#: Most bytes of a page with its style, script and pictures, as they go over the line.
MOST = 100_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("page")
    made = Site(Settings(data=data, evidence=Path("evidence"), reads_per_minute=10**6))
    made.start()
    yield made
    made.stop()


def found(tab: Any) -> list[str]:
    """Titles of what stands in the list."""
    return tab.locator("#results .row h3 a").all_inner_texts()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_accessible_and_as_wide_as_its_screen_in_both_themes(site: Site, tab: Any, name: str) -> None:
    tab.goto(f"{site.base}{PAGES[name]}")
    picture(tab, name)
    tab.set_viewport_size({"width": 320, "height": 640})  # the narrowest telephone
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("name", PAGES)
def test_every_page_with_all_that_it_brings_is_under_100_kb(site: Site, tab: Any, name: str) -> None:
    sizes: list[int] = []
    tab.on("requestfinished", lambda request: sizes.append(sum(request.sizes()[k] for k in ("responseBodySize",))))
    tab.goto(f"{site.base}{PAGES[name]}", wait_until="networkidle")
    assert len(sizes) >= 3 and sum(sizes) < MOST


def test_a_reader_finds_a_method_by_its_words_while_typing_and_opens_it(site: Site, tab: Any) -> None:
    tab.goto(site.base)
    first = found(tab)
    tab.select_option("select[name=mode]", "words")
    tab.locator("#q").press_sequentially("private quantil", delay=20)
    tab.wait_for_function("before => document.querySelector('#results h3 a').textContent !== before", arg=first[0])
    tab.wait_for_url("**/?q=private+quantil&mode=words")
    assert all("rivate" in title or "rivacy" in title for title in found(tab)[:3])
    assert "found, best first" in tab.get_by_role("status").inner_text()
    title = found(tab)[0]
    tab.locator("#results .row h3 a").first.click()
    assert tab.locator("h1").inner_text() == title
    tab.go_back()
    assert tab.input_value("#q") == "private quantil" and found(tab)[0] == title


def test_a_search_by_meaning_finds_what_is_called_differently(site: Site, tab: Any) -> None:
    pytest.importorskip("torch")
    tab.goto(site.base)
    for _ in range(600):
        if json.loads(tab.request.get(f"{site.base}/health").text())["search_by_meaning"]:
            break
        tab.wait_for_timeout(100)
    query = "telling apart good and bad training samples"
    tab.goto(f"{site.base}/?mode=meaning&q={query}")
    rooms = tab.locator("#results .row .meta a").all_inner_texts()
    assert rooms[:2] == ["filters / data"] * 2 and tab.locator(".note").count() == 0
    tab.goto(f"{site.base}/?mode=words&q={query}")
    assert "filters / data" not in tab.locator("#results .row .meta a").all_inner_texts()[:2]
    tab.goto(f"{site.base}/?q={query}")
    assert "filters / data" in tab.locator("#results .row .meta a").all_inner_texts()[:5]


def test_filters_narrow_what_is_shown_and_stand_in_the_address(site: Site, tab: Any) -> None:
    expected = {e.paper.title for e in ENTRIES if e.paper.room.startswith("quantization") and e.verdict == "holds"}
    tab.goto(site.base)
    tab.select_option("select[name=room]", "quantization")
    tab.get_by_label("holds").check()
    tab.wait_for_url("**/?room=quantization&verdict=holds")
    tab.wait_for_function("count => document.querySelectorAll('#results .row').length === count", arg=len(expected))
    assert set(found(tab)) == expected
    tab.reload()
    assert set(found(tab)) == expected and tab.get_by_label("holds").is_checked()
    years = tab.locator("select[name=since] option").all_inner_texts()
    tab.select_option("select[name=since]", years[1])
    tab.wait_for_url(f"**since={years[1]}**")
    assert len(found(tab)) < len(expected)
    tab.click("text=Show all")
    assert len(found(tab)) == 25


def test_the_keyboard_alone_searches_walks_opens_and_comes_back(site: Site, tab: Any) -> None:
    focused = "document.activeElement.textContent"
    tab.goto(f"{site.base}/?q=filter&mode=words")
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "Skip to content"
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "q"
    titles = found(tab)
    for key, title in (("ArrowDown", titles[0]), ("ArrowDown", titles[1]), ("ArrowUp", titles[0])):
        tab.keyboard.press(key)
        assert tab.evaluate(focused) == title
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.id") == "q"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/methods/*")
    assert tab.locator("h1").inner_text() == titles[0]
    tab.keyboard.press("/")
    tab.wait_for_url("**/#find")
    assert tab.evaluate("document.activeElement.id") == "q"


@pytest.mark.parametrize("verdict", OF_EACH)
def test_a_method_shows_what_failed_as_plainly_as_what_passed(site: Site, tab: Any, verdict: str) -> None:
    entry = next(entry for entry in ENTRIES if entry.paper.slug == OF_EACH[verdict])
    tab.goto(f"{site.base}/methods/{entry.paper.slug}")
    assert tab.locator(".pair .verdict").inner_text() == verdict
    if entry.evidence is None:
        assert "Nobody has measured it here yet" in tab.content() and tab.locator(".checks").count() == 0
        return
    results = entry.evidence.judge().checks
    rows = tab.locator(".checks tbody tr")
    assert rows.count() == len(results)
    heights = {True: set(), False: set()}
    for at, result in enumerate(results):
        row = rows.nth(at)
        seeds = f"{sum(result.passed)} of {len(result.passed)}"
        assert seeds in row.inner_text()
        assert row.locator(".plot .dot.passes").count() == sum(result.passed)
        assert row.locator(".plot .cross").count() == len(result.passed) - sum(result.passed)
        assert row.locator(".mark.holds" if result.holds else ".mark.not-here").count() == 1
        heights[result.holds].add(row.locator("b").evaluate("cell => getComputedStyle(cell).fontSize"))
    assert not heights[False] or not heights[True] or heights[False] == heights[True]
    tab.click("summary")
    assert tab.locator("details tbody tr").count() == len(entry.evidence.measured)
    assert tab.get_by_text(f"tercile papers run {entry.paper.slug}").is_visible()
    assert tab.get_by_text(str(entry.evidence.commit)).is_visible()


def test_the_slider_moves_ladder_and_certificate_by_keyboard_and_its_thumb_stands_over_its_stop(
    site: Site, tab: Any
) -> None:
    runs = stored_runs()
    tab.goto(f"{site.base}/try?loss=0.005")
    slider = tab.locator("#loss")
    for run in runs:
        tab.wait_for_function(
            "words => document.querySelector('.promise').textContent === words", arg=run.statement, timeout=10_000
        )
        assert tab.locator("#said").text_content() in ("", run.statement)  # nothing is said until something moves
        assert f"allowed: {run.max_loss:g}" in tab.locator(".for-wide svg").text_content()
        assert tab.locator(".slider output").inner_text() == f"{run.max_loss:g}"
        assert slider.get_attribute("aria-valuetext") == f"{run.max_loss:g}"
        bar, stop = slider.bounding_box(), tab.locator(".stops a[aria-current]").bounding_box()
        share = int(slider.input_value()) / (len(runs) - 1)
        thumb = bar["x"] + 8 + share * (bar["width"] - 16)
        assert abs(thumb - (stop["x"] + stop["width"] / 2)) < 3
        slider.press("ArrowRight")
    tab.wait_for_url(f"**/try?loss={runs[-1].max_loss:g}")


LIVE = """
import json, sys, time
for done in range(1, 4):
    print(json.dumps({"stage": "searching", "done": done, "total": 3}), flush=True)
    time.sleep(1.2)
print(json.dumps({"run": json.load(open(sys.argv[1]))["runs"][0]}), flush=True)
"""


def test_a_live_run_reports_its_progress_and_its_result_without_a_reload(site: Site, tab: Any, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(LIVE)
    stored = Path("src/tercile/page/trial/minilm.json").resolve()
    command = (sys.executable, str(script), str(stored))
    object.__setattr__(site.app.state.page, "live", Live(tmp_path / "live", 60, command))
    tab.goto(f"{site.base}/try")
    tab.click("#live button")
    tab.get_by_text(re.compile(r"searching, [123] of 3")).wait_for()
    assert tab.locator("#live progress").get_attribute("max") == "3"
    tab.locator("#live .chart:visible").wait_for()
    assert stored_runs()[0].statement in tab.locator("#live").inner_text()
    tab.click("#live button")
    tab.click("text=Stop it")
    tab.get_by_text("was stopped").wait_for()


def test_the_state_has_a_mark_for_each_method_that_leads_to_it(site: Site, tab: Any) -> None:
    tab.goto(f"{site.base}/state")
    assert tab.locator(".cells a").count() == len(ENTRIES) == 166
    holds = sum(entry.verdict == "holds" for entry in ENTRIES)
    assert tab.locator(".cells .mark.holds").count() == holds
    assert tab.locator("h1").inner_text() == f"{holds} of 166 hold so far"
    tab.locator(".cells a:has(.mark.holds)").first.click()
    assert tab.locator(".pair .verdict").inner_text() == "holds"


def test_without_scripts_search_filters_pages_and_stored_runs_work(site: Site, chromium: Any) -> None:
    with watched(chromium, java_script_enabled=False, viewport=PHONE) as tab:
        tab.goto(site.base)
        assert not tab.locator(".theme").is_visible()
        tab.click("text=Next")
        assert "26 to 50" in tab.locator(".told").inner_text()
        tab.goto(site.base)
        tab.fill("#q", "conformal")
        tab.get_by_label("not yet").check()
        tab.click("button:has-text('Search')")
        assert "onformal" in found(tab)[0]
        assert set(tab.locator("#results .word").all_inner_texts()) == {"not yet"}
        tab.goto(f"{site.base}/try")
        assert not tab.locator(".slider").is_visible()
        tab.locator(".stops").get_by_text("0.1", exact=True).click()
        assert stored_runs()[-2].statement in tab.content()


def test_the_theme_that_a_reader_chose_stays_and_nothing_flashes(site: Site, chromium: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with watched(chromium, color_scheme="light") as tab:
        tab.goto(site.base)
        light = tab.evaluate(ground)
        tab.get_by_label("Switch between light and dark").click()
        dark = tab.evaluate(ground)
        assert dark != light
        answer = tab.goto(f"{site.base}/state")
        assert 'data-theme="dark"' in answer.text() and tab.evaluate(ground) == dark
    with watched(chromium, color_scheme="dark") as tab:
        tab.goto(site.base)
        assert tab.evaluate(ground) == dark


def test_something_is_painted_before_any_script_has_come(site: Site, chromium: Any) -> None:
    with watched(chromium, viewport=DESKTOP) as tab:
        tab.route("**/*.js*", lambda route: None)  # the script never comes
        tab.goto(site.base, wait_until="commit")
        tab.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length === 1")
        assert tab.locator("h1").is_visible() and len(found(tab)) == 25
        tab.unroute_all(behavior="ignoreErrors")
