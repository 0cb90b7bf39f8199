"""The page's answers: what is in them, how large they are, what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tercile.page import Settings, backup, create_app, load_settings, restore
from tercile.page.database import NAME, Database, faults, migrations, version
from tercile.page.security import POLICY
from tercile.papers import catalogue, list_papers

MOST = 100_000
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
PAGES = ["/", "/?q=few+bits", "/?page=3", "/state", "/try", "/api", "/papers", "/digest", "/nowhere", "/results?q=x"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    data = tmp_path_factory.mktemp("page")
    return Settings(data=data, evidence=Path("evidence"), model=data / "none", reads_per_minute=10**6)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as made:
        yield made


@pytest.mark.parametrize("entry", list_papers(Path("evidence")), ids=lambda entry: entry.paper.slug)
def test_a_methods_page_shows_claim_verdict_and_every_check_in_less_than_100_kb(client: TestClient, entry) -> None:
    answer = client.get(f"/methods/{entry.paper.slug}")
    text = unescape(answer.text)
    assert answer.status_code == 200 and len(answer.content) < MOST
    assert entry.paper.title in text and entry.paper.claim in text and entry.paper.summary in text
    assert f'class="verdict {entry.verdict.replace(" ", "-")}"' in text
    if entry.evidence and entry.evidence.measured:
        results = entry.evidence.judge().checks
        assert text.count('<td class="plot">') == len(results)
        assert text.count('class="number fails"') == sum(not result.holds for result in results)
        assert entry.evidence.commit in text


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_small_and_brings_nothing_inline_or_from_elsewhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert len(answer.content) < MOST
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:", answer.text)
    assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', answer.text)


@pytest.mark.parametrize("path", [*PAGES, "/static/page.css", "/feed.xml", "/health", "/api/state", "/static/none"])
def test_every_answer_carries_the_strict_policy(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"] == POLICY and "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/results", "/try", "/try/run"])
def test_what_a_reader_sends_comes_back_escaped(client: TestClient, path: str) -> None:
    given = dict.fromkeys(("q", "room", "verdict", "since", "mode", "page", "loss"), HOSTILE)
    assert "<script>alert" not in client.get(path, params=given).text
    assert "<img src=x" not in client.get(f"/methods/{HOSTILE}").text


def test_a_hostile_paper_is_shown_as_text(settings: Settings) -> None:
    own = Settings(data=settings.data / "hostile", model=settings.model)
    database = Database(own.data / NAME)
    with database.transaction() as rows:
        row = ("hostile", HOSTILE, HOSTILE, "now", "now")
        rows.execute("INSERT INTO papers (key, title, abstract, added, changed) VALUES (?, ?, ?, ?, ?)", row)
    with TestClient(create_app(own)) as client:
        text = client.get("/?q=script+alert&mode=words").text
    assert "/papers/hostile" in text and "<script>alert" not in text and "<img src=x" not in text


def slugs(text: str) -> list[str]:
    return re.findall(r'<h3><a href="/methods/(\w+)"', text)


@pytest.mark.parametrize("room", ["", "quantization.grids", "filters"])
@pytest.mark.parametrize("verdict", ["", "holds", "not yet"])
def test_browsing_through_all_pages_shows_what_the_filter_passes_once_each(
    client: TestClient, room: str, verdict: str
) -> None:
    expected = {e.paper.slug for e in list_papers(Path("evidence"), room or None, verdict or None)}
    address, found = f"/?room={room}&verdict={verdict}", []
    for _ in range(20):
        text = client.get(address).text
        found += slugs(text)
        following = re.search(r'href="([^"]+)">Next<', text)
        if following is None:
            break
        address = unescape(following.group(1))
    assert len(found) == len(set(found)) and set(found) == expected


def test_the_state_counts_what_the_evidence_says(client: TestClient) -> None:
    entries = list_papers(Path("evidence"))
    told = client.get("/api/state").json()
    assert told["methods"] == 166 == sum(told["verdicts"].values()) == sum(room["methods"] for room in told["rooms"])
    assert told["verdicts"]["holds"] == sum(entry.verdict == "holds" for entry in entries)
    assert client.get("/state").text.count('<li><a href="/methods/') == 166


def test_the_api_tells_a_method_as_its_evidence_does(client: TestClient) -> None:
    known = json.loads(Path("evidence/gpfq.json").read_text())
    told = client.get("/api/methods/gpfq").json()
    measured = told["evidence"]["quantities"]
    assert {name: one["values"] for name, one in measured.items()} == {
        name: one["values"] for name, one in known["measured"].items()
    }
    assert client.get("/methods/gpfq/evidence.json").json()["commit"] == known["commit"]


@pytest.mark.parametrize(
    "path", ["/api/methods/none", "/api/methods/none/similar", "/methods/none", "/methods/iqn/evidence.json"]
)
def test_what_is_not_there_is_404(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("query", ["most=0", "mode=magic", "since=x", "verdict=maybe", "q=" + "x" * 401])
def test_the_api_refuses_values_that_mean_nothing(client: TestClient, query: str) -> None:
    assert client.get(f"/api/search?{query}").status_code == 422


def test_the_feed_is_atom_with_an_entry_for_each_measured_method(client: TestClient) -> None:
    feed = ElementTree.fromstring(client.get("/feed.xml").content)
    atom = "{http://www.w3.org/2005/Atom}"
    measured = sum(entry.evidence is not None for entry in list_papers(Path("evidence")))
    assert feed.tag == f"{atom}feed" and len(feed.findall(f"{atom}entry")) == min(50, measured)
    dates = [one.text or "" for one in feed.iter(f"{atom}updated")][1:]
    assert dates == sorted(dates, reverse=True)


def test_metrics_count_requests_by_route_and_not_by_address(client: TestClient) -> None:
    for slug in ("iqn", "gpfq", "nothing"):
        client.get(f"/methods/{slug}")
    text = client.get("/metrics").text
    assert 'route="/methods/{slug}"' in text and "/methods/iqn" not in text


def test_a_form_without_its_token_changes_nothing(client: TestClient) -> None:
    assert client.post("/try/live", data={"model": "digits-cnn", "loss": "0.05"}).status_code == 403
    client.get("/try")
    wrong = client.post("/try/live", data={"model": "digits-cnn", "loss": "0.05", "csrf": "0" * 64})
    assert wrong.status_code == 403


def test_a_form_from_another_site_is_refused_even_with_its_token(client: TestClient) -> None:
    token = re.search(r'name="csrf" value="(\w+)"', client.get("/digest").text)
    headers = {"sec-fetch-site": "cross-site"}
    given = {"csrf": token.group(1) if token else ""}
    assert client.post("/try/stop", data=given, headers=headers).status_code == 403


def test_only_the_hash_of_a_session_is_stored(client: TestClient, settings: Settings) -> None:
    client.get("/try")
    token = client.cookies["tercile_session"]
    stored = (settings.data / NAME).read_bytes() + (settings.data / f"{NAME}-wal").read_bytes()
    assert token.encode() not in stored


def test_a_body_that_says_it_is_over_the_limit_is_refused(client: TestClient) -> None:
    assert client.post("/try/live", content=b"x" * 70_000).status_code == 413


def test_an_address_that_asks_too_often_is_told_how_long_to_wait(settings: Settings) -> None:
    own = Settings(data=settings.data / "few", model=settings.model, reads_per_minute=10)
    with TestClient(create_app(own)) as client:
        codes = [client.get("/health").status_code for _ in range(11)]
        assert codes == [200] * 10 + [429] and int(client.get("/health").headers["retry-after"]) >= 1


def test_a_page_reads_the_evidence_a_fixed_number_of_times(client: TestClient, monkeypatch) -> None:
    from tercile.papers import listing

    calls = []
    monkeypatch.setattr(listing, "read_evidence", lambda *given: calls.append(given))
    for path in ("/", "/state", "/methods/gpfq", "/api/methods"):
        client.get(path)
    assert calls == []


def test_a_backup_brings_everything_back_and_a_damaged_one_changes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "a" / NAME)
    with database.transaction() as rows:
        rows.execute("INSERT INTO papers (key, title, added, changed) VALUES ('k', 'kept', 'now', 'now')")
    copy = backup(database.path, tmp_path / "copy.sqlite3")
    with database.transaction() as rows:
        rows.execute("DELETE FROM papers")
    database.close()
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(copy.read_bytes()[: 3 * copy.stat().st_size // 4])
    with pytest.raises(ValueError, match="sound"):
        restore(broken, database.path)
    restore(copy, database.path)
    assert Database(database.path).connection().execute("SELECT title FROM papers").fetchone()[0] == "kept"
    assert faults(copy) == []
    with pytest.raises(ValueError, match="exists"):
        backup(database.path, copy)


def test_a_database_of_a_newer_tercile_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / NAME)
    assert version(database.connection()) == migrations()[-1][0]
    database.connection().execute("PRAGMA user_version = 9999")
    database.close()
    with pytest.raises(ValueError, match="newer"):
        Database(tmp_path / NAME)


@pytest.mark.parametrize(
    "text,said",
    [("prot = 1", "prot"), ("port = 'x'", "port"), ("port = 99999", "port"), ("base_url = 'x/'", "base_url"),
     ("live_runs = 'maybe'", "live_runs"), ("form_limit = 0", "form_limit"), ("=", "TOML")],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "page.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        load_settings(file, environment={})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "page.toml"
    file.write_text("port = 8000\ntrusted_proxies = ['10.0.0.1']")
    found = load_settings(file, environment={"TERCILE_PAGE_PORT": "8001"})
    assert (found.port, found.trusted_proxies) == (8001, ("10.0.0.1",))


def test_new_evidence_shows_without_a_restart_and_a_damaged_file_takes_nothing_away(tmp_path: Path) -> None:
    from tercile.page import Shelf

    now = [0.0]
    shelf = Shelf(tmp_path, lambda: now[0])
    shutil.copy("evidence/gpfq.json", tmp_path)
    assert shelf.now().verdicts["not yet"] == 166
    now[0] = 10.0
    assert shelf.now().verdicts["not yet"] == 165
    (tmp_path / "emq.json").write_text("{")
    now[0] = 20.0
    assert shelf.now().verdicts["not yet"] == 165


def test_a_claim_that_failed_or_could_not_be_tried_says_so_and_why(tmp_path: Path) -> None:
    failed = json.loads(Path("evidence/gpfq.json").read_text())
    failed |= {"rule": [{"quantity": "accuracy_4bit", "at_least": "2"}], "verdict": "not here", "reason": "none passes"}
    untried = json.loads(Path("evidence/gpfq.json").read_text())
    untried |= {"slug": "emq", "rule": [], "measured": {}, "verdict": "not here", "reason": "too large to be tried"}
    for told in (failed, untried):
        (tmp_path / f"{told['slug']}.json").write_text(json.dumps(told))
    own = Settings(data=tmp_path / "data", evidence=tmp_path, model=tmp_path / "none")
    with TestClient(create_app(own)) as client:
        text = client.get("/methods/gpfq").text
        assert 'class="verdict not-here"' in text and "Its one check fails, on 3 seeds" in text
        assert text.count('class="cross"') == 3 + 1  # a seed each, and the legend
        text = client.get("/methods/emq").text
        assert 'class="verdict not-here"' in text and "Too large to be tried." in text
        listed = client.get("/?verdict=not+here").text
        assert slugs(listed) == ["gpfq", "emq"] and "its one check fails" in listed
        assert client.get("/api/methods/emq").json()["evidence"]["checks"] == []


def test_every_room_of_the_catalogue_stands_on_the_page_of_the_state(client: TestClient) -> None:
    text = client.get("/state").text
    assert all(f'href="/?room={paper.room}"' in text for paper in catalogue())


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_api_answers_as_it_describes_itself_whatever_is_asked(settings: Settings, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given
    from hypothesis import settings as effort

    described = schemathesis.openapi.from_asgi("/api/openapi.json", create_app(settings))
    tried = 0
    for operation in described.get_all_operations():
        found = operation.ok()
        if mode == "negative" and not list(found.iter_parameters()):
            continue  # nothing that could be wrong
        tried += 1

        @effort(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=found.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
        def holds(case) -> None:
            case.call_and_validate()

        holds()
    assert tried >= 4
