"""Encryption and passwords towards the mail server, against a real one that asks for both; and the commands."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from tests.page.conftest import Mailbox, free_port
from tests.page.test_digest import REPORT, ask, send, states, subscribe
from tests.page.test_importing_papers import BIBTEX

from tercile.page.database import NAME, Database
from tercile.page.mail import Unreachable
from tercile.page.settings import Settings, load_settings


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


class Closed(Mailbox):
    """Takes mail over STARTTLS only, from who knows the password."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        super().__init__()
        self._certificate = certificate

    def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._certificate)

        def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
            return AuthResult(success=(data.login, data.password) == (b"digest", b"right"))

        self._controller = Controller(
            self, hostname="127.0.0.1", port=self.port, tls_context=context, require_starttls=True, auth_required=True,
            authenticator=check,
        )  # fmt: skip
        self._controller.start()


@pytest.fixture
def closed(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Closed]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    box = Closed(certificate)
    box.start()
    yield box
    box.stop()


def over_tls(settings: Settings, box: Closed, **more: Any) -> Settings:
    own = {"smtp_host": "localhost", "smtp_port": box.port, "smtp_security": "starttls", "smtp_user": "digest"}
    return replace(settings, **{**own, "smtp_password": "right", **more})


def test_mail_goes_over_starttls_with_a_password(database: Database, settings: Settings, closed: Closed) -> None:
    subscribe(database)
    assert send(database, over_tls(settings, closed)) == {"sent": 1}


@pytest.mark.parametrize("more", [{"smtp_password": "wrong"}, {"smtp_security": "none"}, {"smtp_security": "tls"}])
def test_a_wrong_password_or_encryption_sends_nothing_and_loses_nothing(
    database: Database, settings: Settings, closed: Closed, more: dict[str, str]
) -> None:
    subscribe(database)
    with pytest.raises(Unreachable):
        send(database, over_tls(settings, closed, smtp_timeout=2, **more))
    assert closed.taken == [] and states(database) == {"due": 1}


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    database: Database, settings: Settings, closed: Closed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    subscribe(database)
    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        send(database, over_tls(settings, closed))
    assert closed.taken == []


def test_the_password_is_in_no_message() -> None:
    made = load_settings(environment={"TERCILE_PAGE_SMTP_PASSWORD": "secret-word"})
    assert made.smtp_password == "secret-word" and "secret-word" not in repr(made)


def command(settings: Settings, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    names = ("data", "base_url", "mail_from", "bounce_address", "smtp_host", "smtp_port", "smtp_security")
    own = {f"TERCILE_PAGE_{name.upper()}": str(getattr(settings, name)) for name in names}
    run = [sys.executable, "-c", "from tercile.cli import app; app()", "page", *arguments]
    return subprocess.run(run, input=given, capture_output=True, env=os.environ | own, timeout=120)


def test_the_commands_show_send_and_take_bounces(database: Database, settings: Settings, mailbox: Any) -> None:
    subscribe(database, zone="UTC", hour=0, now=0)
    shown = json.loads(command(settings, "digest", "--dry-run", "--json").stdout)
    assert shown[0]["to"] == "ann@example.org" and len(shown[0]["papers"]) == 3 and mailbox.taken == []
    text = command(settings, "digest", "--dry-run").stdout.decode()
    assert "To: ann@example.org" in text and "1 letter would be sent; nothing was." in text
    assert json.loads(command(settings, "digest", "--json").stdout)["sent"] == 1
    assert command(settings, "digest").stdout.startswith(b"nothing was due")
    report = REPORT.format(to=mailbox.taken[0][0], action="failed", status="5.1.1").encode()
    assert b"letter 1: hard bounce, 5.1.1" in command(settings, "bounce", given=report).stdout
    ask(database, "bob@example.org", now=time.time())
    refused = command(replace(settings, smtp_port=free_port()), "digest")
    assert refused.returncode == 1 and b"letters wait for the next run" in refused.stderr


def test_commands_without_settings_say_what_to_set(tmp_path: Path) -> None:
    bare = Settings(data=tmp_path)
    for name, said in (("digest", b"mail_from"), ("fetch", b"feeds")):
        failed = command(bare, name)
        assert failed.returncode == 2 and said in failed.stderr and b"Traceback" not in failed.stderr
    assert (tmp_path / NAME).is_file()


def test_a_file_is_imported_from_the_command_line_once(tmp_path: Path) -> None:
    bare, file = Settings(data=tmp_path / "data"), tmp_path / "mine.bib"
    file.write_text(BIBTEX, encoding="utf-8")
    assert command(bare, "import", str(file), "--dry-run").stdout.endswith(b"3 of 7 would be stored\n")
    first, second = (command(bare, "import", str(file)).stdout.decode() for _ in range(2))
    assert first.endswith("3 of 7 stored\n") and "mine.bib:9: malformed: the entry says the same field twice" in first
    assert second.endswith("0 of 7 stored\n") and "exact-duplicate: the same arXiv identifier" in second
    missing = command(bare, "import", str(tmp_path / "none.bib"))
    assert missing.returncode == 2 and b"none.bib can't be read" in missing.stderr
