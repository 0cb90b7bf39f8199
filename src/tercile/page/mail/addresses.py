"""Mail addresses as people type them."""

from __future__ import annotations

import difflib
import re
from typing import Any

#: Where most addresses are; a typing error in one of these is the most common reason why no mail arrives.
COMMON = ("gmail.com", "outlook.com", "hotmail.com", "yahoo.com", "icloud.com", "proton.me", "protonmail.com", "gmx.de",
          "gmx.net", "web.de", "googlemail.com", "live.com", "aol.com", "mail.ru", "qq.com", "163.com")  # fmt: skip
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def mail_address(text: Any) -> str:
    """Check an address and put its domain into the form that mail servers take.

    Parameters
    ----------
    text
        What somebody typed. Quoted local parts, comments, and domains in brackets are refused: nobody reads there.

    Raises
    ------
    ValueError
        With what is wrong, for the one who typed it.

    >>> mail_address(" Ann@Example.ORG "), mail_address("a@bücher.example")
    ('Ann@example.org', 'a@xn--bcher-kva.example')
    >>> mail_address("ann@gmial.com")
    Traceback (most recent call last):
    ValueError: did you mean ann@gmail.com? gmial.com looks like a typing error
    """
    address = text.strip() if isinstance(text, str) else ""
    if not address:
        raise ValueError("an address is needed")
    if len(address) > 254:
        raise ValueError(f"an address has at most 254 characters, this one has {len(address)}")
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        raise ValueError("an address has a name, an @ and a domain, such as ann@example.org")
    if any(c.isspace() or not c.isprintable() for c in address):
        raise ValueError("an address has no spaces in it")
    if not _LOCAL.fullmatch(local) or len(local) > 64:
        raise ValueError(f"{local[:70]!r} before the @ can't be used; it takes letters, digits and single dots")
    try:
        plain = domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError(f"{domain[:70]!r} is no domain") from None
    labels = plain.split(".")
    if len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ValueError(f"{domain[:70]!r} is no domain, such as example.org")
    if plain not in COMMON and (close := difflib.get_close_matches(plain, COMMON, n=1, cutoff=0.88)):
        raise ValueError(f"did you mean {local}@{close[0]}? {plain} looks like a typing error")
    return f"{local}@{plain}"
