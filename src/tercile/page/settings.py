"""What a running page can be told: nothing at all, a TOML file, or variables of the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

PREFIX = "TERCILE_PAGE_"
FILE = f"{PREFIX}CONFIG"


def default_data() -> Path:
    """Where the page keeps what it is given: ``$XDG_DATA_HOME/tercile``, by default under the home folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tercile"


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; the defaults start a page for one reader on this machine.

    Parameters
    ----------
    data
        Folder of the database and of live runs; made if it is missing.
    evidence
        Folder of evidence files; by default as `tercile papers` finds it.
    host, port
        Where it listens.
    base_url
        How readers reach it, without a slash at the end: for the feed and for links in mail. Over https, cookies are
        sent over https only. By default host and port.
    repository
        Where the code can be read: an address with ``{path}`` and ``{commit}``. None shows paths without links.
    trusted_proxies
        Addresses whose ``X-Forwarded-For`` is believed.
    reads_per_minute, writes_per_minute
        What one address may ask for, and may send, before it is told to wait.
    form_limit, upload_limit
        Most bytes of a request's body: of a form, and of a file of papers.
    model
        Packed folder of the encoder; by default the one that comes with tercile. Without torch, search is by words.
    encoder_threads
        Threads that embed queries.
    live_runs
        Whether readers may start a compression, one at a time.
    live_seconds
        After which a live run is stopped.
    deliver
        Whether the page itself sends the digest and reads feeds; false where timers or other processes do.
    half_life_days
        After which a reading counts half in what is read most.
    feeds
        Atom addresses from which `tercile page fetch` pulls papers.
    feed_contact
        Mail address by which the owners of those hosts can reach you; without it nothing is fetched.
    feed_hours
        Pause between two rounds.
    feed_pages
        Most pages of one feed in one round.
    feed_robots
        Whether robots.txt forbids; set it to false only for a host whose terms allow programs.
    mail_from
        Sender of the digest, such as ``tercile <digest@example.org>``; empty for no digest.
    bounce_address
        Where mail that can't be delivered comes back, such as ``bounces@example.org``; each letter gets its own address
        by plus and a number. By default the sender.
    smtp_host, smtp_port
        The mail server; port 0 takes 25, 587 or 465 by `smtp_security`.
    smtp_security
        ``none``, ``starttls`` or ``tls``.
    smtp_user, smtp_password
        Where the server asks for them.
    smtp_connections
        Kept open at once.
    smtp_timeout
        Seconds that an answer may take.
    hard_bounces
        Letters of a month that may come back for good before a reader is suspended.
    """

    data: Path = field(default_factory=default_data)
    evidence: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8166
    base_url: str = ""
    repository: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    reads_per_minute: int = 1200
    writes_per_minute: int = 30
    form_limit: int = 64_000
    upload_limit: int = 4_000_000
    model: Path | None = None
    encoder_threads: int = 1
    live_runs: bool = True
    live_seconds: int = 1800
    deliver: bool = True
    half_life_days: int = 7
    feeds: tuple[str, ...] = ()
    feed_contact: str = ""
    feed_hours: int = 6
    feed_pages: int = 10
    feed_robots: bool = True
    mail_from: str = ""
    bounce_address: str = ""
    smtp_host: str = ""
    smtp_port: int = 0
    smtp_security: str = "starttls"
    smtp_user: str = ""
    smtp_password: str = field(default="", repr=False)
    smtp_connections: int = 4
    smtp_timeout: int = 60
    hard_bounces: int = 3

    def __post_init__(self) -> None:
        at_least_one = ("reads_per_minute", "writes_per_minute", "form_limit", "upload_limit", "encoder_threads")
        mail = ("smtp_connections", "smtp_timeout", "hard_bounces", "half_life_days", "feed_hours", "feed_pages")
        for name in (*at_least_one, "live_seconds", *mail):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        if self.base_url:
            parts = urlsplit(self.base_url)
            if parts.scheme not in {"http", "https"} or not parts.netloc or self.base_url.endswith("/"):
                raise ValueError(
                    f"base_url must be an address such as https://papers.example.org without a slash at its end, "
                    f"got {self.base_url!r}"
                )
        if self.smtp_security not in {"none", "starttls", "tls"}:
            raise ValueError(f"smtp_security must be none, starttls or tls, got {self.smtp_security!r}")
        if not 0 <= self.smtp_port <= 65535:
            raise ValueError(f"smtp_port must be between 0 and 65535, got {self.smtp_port}")
        if self.repository is not None and not self.repository.startswith("https://"):
            raise ValueError(f"repository must be an https address with {{path}} in it, got {self.repository!r}")

    @property
    def address(self) -> str:
        """How readers reach the page: `base_url`, or host and port."""
        if self.base_url:
            return self.base_url
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def mails(self) -> bool:
        """Whether there is a sender and a server, so that a digest can go out."""
        return bool(self.mail_from and self.smtp_host)

    @property
    def secure(self) -> bool:
        """Whether readers come over https."""
        return self.address.startswith("https://")


def load_settings(
    file: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None, **given: Any
) -> Settings:
    """Settings from a file, over it the environment, over that what is given.

    Parameters
    ----------
    file
        TOML with the names of `Settings`; by default ``$TERCILE_PAGE_CONFIG``, if that is set.
    environment
        ``TERCILE_PAGE_PORT`` and so on; lists by commas. By default the process's own.
    **given
        Values that win over both; None counts as not given.

    Raises
    ------
    ValueError
        The file is missing or no TOML, or a name or value in it can't be used; the message names it.

    >>> load_settings(environment={"TERCILE_PAGE_PORT": "8000"}).port
    8000
    >>> load_settings(environment={"TERCILE_PAGE_PROT": "8000"})
    Traceback (most recent call last):
    ValueError: TERCILE_PAGE_PROT is no setting of the page; settings are data, evidence, host, port, ...
    """
    environment = os.environ if environment is None else environment
    found: dict[str, Any] = {}
    chosen = file if file is not None else environment.get(FILE)
    if chosen:
        found |= _from_file(Path(chosen))
    for name, text in environment.items():
        if name.startswith(PREFIX) and name != FILE:
            found[_known(name.removeprefix(PREFIX).lower(), name)] = text
    found |= {_known(name, name): value for name, value in given.items() if value is not None}
    kinds = get_type_hints(Settings)
    return replace(Settings(), **{name: _value(name, value, kinds[name]) for name, value in found.items()})


def _from_file(path: Path) -> dict[str, Any]:
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from None
    return {_known(name, f"{name} in {path}"): value for name, value in read.items()}


def _known(name: str, said: str) -> str:
    names = [known.name for known in fields(Settings)]
    if name not in names:
        raise ValueError(f"{said} is no setting of the page; settings are {', '.join(names)}")
    return name


def _value(name: str, value: Any, kind: Any) -> Any:
    """A value of a file or of the environment, as the setting's own type."""
    said = str(kind)
    try:
        if kind is bool:
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            return words[str(value).lower()]
        if kind is int:
            if isinstance(value, (bool, float)):
                raise ValueError
            return int(value)
        if "tuple" in said:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(str(part).strip() for part in parts if str(part).strip())
        if "Path" in said:
            return Path(value).expanduser()
        if isinstance(value, str):
            return value
        raise ValueError
    except (KeyError, TypeError, ValueError):
        told = {bool: "true or false", int: "a whole number"}.get(kind, "text")
        raise ValueError(f"{name} must be {told}, got {value!r}") from None
