"""What the page refuses, hides and forgets: one promise of its guide a test."""

from __future__ import annotations

import json
import logging
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tercile.page import Settings, backup, create_app, restore
from tercile.page.database import NAME, Database
from tercile.page.observing import JsonLines
from tercile.page.routes import ROUTERS
from tercile.page.security import ADDRESSES, COOKIE, Buckets, address_of, forget_idle
from tercile.page.settings import load_settings

#: A mail program's own click (RFC 8058) brings no cookie and no token of a form: the address entitles.
ENTITLED_BY_ADDRESS = {"/digest/leave/{token}"}
ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
FORMS = sorted({route.path for route in ROUTES if "POST" in route.methods} - ENTITLED_BY_ADDRESS)
READS = sorted({route.path for route in ROUTES if "GET" in route.methods})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    data = tmp_path_factory.mktemp("page")
    limits = {"reads_per_minute": 10**6, "writes_per_minute": 10**6}
    return Settings(data=data, evidence=Path("evidence"), model=data / "none", **limits)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as made:
        yield made


def token_of(client: TestClient) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', client.get("/digest").text) or re.search(
        r'name="csrf" value="(\w+)"', client.get("/try").text
    )
    assert found
    return found.group(1)


def test_there_are_forms_to_guard() -> None:
    assert {"/try/live", "/import", "/digest", "/tag/{key}"} <= set(FORMS)


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("csrf", [None, "", "0" * 64, "ünï"])
def test_every_form_is_refused_without_the_token_of_this_browser(client: TestClient, path: str, csrf) -> None:
    client.get("/try")
    fields = {"title": "x", "by_hand": "1", "tag": "x", "address": "a@example.org", "hour": "7", "zone": "UTC"}
    sent = fields if csrf is None else {**fields, "csrf": csrf}
    assert client.post(re.sub(r"{\w+}", "iqn", path), data=sent).status_code == 403


def test_the_token_of_one_browser_is_worth_nothing_in_another(client: TestClient, settings: Settings) -> None:
    token = token_of(client)
    with TestClient(client.app) as other:
        other.get("/try")
        assert other.cookies[COOKIE] != client.cookies[COOKIE]
        assert other.post("/try/stop", data={"csrf": token}).status_code == 403
    answer = client.post("/try/stop", data={"csrf": token}, follow_redirects=False)
    assert answer.status_code == 303


WORN = ["-1", "1e400", "9" * 40, "nan", "\x00", "%00", "../..", "null", "' or 1=1 --"]
ODD = st.one_of(st.text(max_size=30), st.sampled_from(WORN))


@effort(max_examples=40, deadline=None)
@given(values=st.lists(ODD, min_size=8, max_size=8))
@pytest.mark.parametrize("path", READS)
def test_no_address_makes_the_page_fail(client: TestClient, path: str, values: list[str]) -> None:
    names = ("q", "room", "verdict", "since", "mode", "page", "loss")
    filled = re.sub(r"{\w+}", lambda _: quote(values[0], safe="") or "x", path)
    answer = client.get(filled, params=dict(zip(names, values[1:])), follow_redirects=False)
    assert answer.status_code < 500 and answer.headers["content-security-policy"]


def test_a_body_that_hides_its_length_is_cut_off_at_the_limit_even_with_a_good_token(client: TestClient) -> None:
    token = token_of(client)
    start = f"csrf={token}&model=".encode()
    content = (part for part in [start, *[b"x" * 10_000] * 7])
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/try/live", content=content, headers=headers).status_code == 413


def test_writes_have_a_limit_of_their_own(settings: Settings) -> None:
    own = Settings(data=settings.data / "few", model=settings.model, writes_per_minute=3)
    with TestClient(create_app(own)) as client:
        codes = [client.post("/try/stop").status_code for _ in range(4)]
        assert codes == [403, 403, 403, 429] and client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "peer,told,trusted,expected",
    [
        ("203.0.113.9", "198.51.100.1", (), "203.0.113.9"),  # anybody can write the header
        ("10.0.0.1", "198.51.100.1", ("10.0.0.1",), "198.51.100.1"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.1", ("10.0.0.1",), "198.51.100.1"),  # what the reader wrote is passed over
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", ("10.0.0.1", "10.0.0.2"), "198.51.100.1"),
        ("10.0.0.1", "", ("10.0.0.1",), "10.0.0.1"),
    ],
)
def test_only_a_trusted_proxy_says_who_asks(peer: str, told: str, trusted: tuple[str, ...], expected: str) -> None:
    scope = {"client": (peer, 1), "headers": [(b"x-forwarded-for", told.encode())] if told else []}
    assert address_of(scope, Settings(trusted_proxies=trusted)) == expected


def test_one_connection_with_many_ipv6_addresses_has_one_limit(settings: Settings) -> None:
    own = Settings(
        data=settings.data / "six", model=settings.model, reads_per_minute=10, trusted_proxies=("testclient",)
    )
    with TestClient(create_app(own)) as client:
        codes = [client.get("/health", headers={"x-forwarded-for": f"2001:db8::{at}"}).status_code for at in range(11)]
        assert codes == [200] * 10 + [429]
        assert client.get("/health", headers={"x-forwarded-for": "2001:db8:0:1::1"}).status_code == 200


def test_a_million_addresses_take_no_more_memory_than_ten_thousand() -> None:
    buckets = Buckets(60, lambda: 0.0)
    for at in range(3 * ADDRESSES):
        buckets.wait(str(at))
    assert len(buckets._left) <= ADDRESSES


@pytest.mark.parametrize("address,secure", [("https://papers.example.org", True), ("", False)])
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(settings: Settings, address: str, secure: bool) -> None:
    own = Settings(data=settings.data / f"cookie{secure}", model=settings.model, base_url=address)
    with TestClient(create_app(own)) as client:
        answer = client.get("/try")
    said = answer.headers["set-cookie"].lower()
    assert "httponly" in said and "samesite=lax" in said and ("; secure" in said) == secure
    assert ("strict-transport-security" in answer.headers) == secure


def test_the_log_names_no_reader_no_query_and_no_address_that_entitles(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "A" * 32
    with caplog.at_level(logging.INFO, "tercile.page"):
        client.get("/?q=confidential", headers={"x-forwarded-for": "198.51.100.7"})
        client.get(f"/digest/mine/{secret}")
        client.get(f"/import/{secret}")
    lines = [JsonLines().format(record) for record in caplog.records if record.name == "tercile.page"]
    assert len(lines) == 3 and all(json.loads(line)["route"] for line in lines)
    for private in ("confidential", "198.51.100.7", secret, "testclient"):
        assert private not in "".join(lines)


def test_what_readers_gave_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "data" / NAME)
    database.connection().execute("INSERT INTO secrets (name, value) VALUES ('a', x'00')")
    copy = backup(database.path, tmp_path / "copy.sqlite3")
    written = [*database.path.parent.iterdir(), copy]
    assert len(written) >= 3  # the log beside it too
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    database.close()
    restore(copy, database.path)
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600


def test_sessions_that_hold_nothing_are_forgotten_after_a_day(database: Database) -> None:
    long_ago, now = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 3))
    with database.transaction() as rows:
        for number, made in enumerate((long_ago, long_ago, now), 1):
            row = (number, bytes([number]), made.isoformat(), made.isoformat())
            rows.execute("INSERT INTO sessions (id, token_hash, created, seen) VALUES (?, ?, ?, ?)", row)
        rows.execute("INSERT INTO tags (session, paper, tag, made) VALUES (1, 'iqn', 'mine', 'now')")
        forget_idle(rows, now - timedelta(days=1))
        assert [row[0] for row in rows.execute("SELECT id FROM sessions ORDER BY id")] == [1, 3]


def test_the_link_in_a_letter_is_stored_as_a_hash(settings: Settings, tmp_path: Path, mailbox) -> None:
    import asyncio

    from tercile.page.mail.delivery import Sender
    from tercile.page.mail.subscribing import Choices, ask

    own = Settings(data=tmp_path, mail_from="d@example.org", smtp_host="127.0.0.1", smtp_port=mailbox.port,
                   smtp_security="none")  # fmt: skip
    database = Database(own.data / NAME)
    with database.transaction() as rows:
        ask(rows, "ann@example.org", Choices.checked([], "7", "UTC", None))
    sender = Sender(database, own)
    asyncio.run(sender.run())
    sender.close()
    text = mailbox.to("ann@example.org")[0].get_body(("plain",)).get_content()
    token = re.search(r"/digest/confirm/([\w-]{32})", text)
    stored = b"".join(path.read_bytes() for path in own.data.glob(f"{NAME}*"))
    assert token and b"ann@example.org" in stored and token.group(1).encode() not in stored
    database.close()


def test_no_template_lets_anything_through_unescaped() -> None:
    found = []
    for file in resources.files("tercile.page").joinpath("templates").iterdir():
        if file.name.endswith(".j2"):
            found += re.findall(r"\|\s*safe|autoescape\s+false", file.read_text(encoding="utf-8"))
    assert found == []


def test_a_password_for_mail_is_in_no_printed_setting() -> None:
    made = load_settings(environment={"TERCILE_PAGE_SMTP_PASSWORD": "hunter2"})
    assert made.smtp_password == "hunter2" and "hunter2" not in repr(made)


@pytest.mark.parametrize("file", ["deploy/Dockerfile", "deploy/tercile-page.service"])
def test_what_deployment_sets_are_settings(file: str) -> None:
    names = re.findall(r"\bTERCILE_PAGE_[A-Z_]+", Path(file).read_text())
    assert names
    for name in names:
        assert name.removeprefix("TERCILE_PAGE_").lower() in Settings.__dataclass_fields__
