"""One message for many readers: written once, with places for what differs.

Python's mail library takes some milliseconds for a message. Here it writes each wording once, with a placeholder
where the reader's token belongs; a letter is then a copy with 32 bytes put in at known places. Quoted-printable
may break a line inside the placeholder, so each of its characters is found by itself; as a token has the same
length, and no character that quoted-printable would escape, the breaks are right for every token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cached_property

from tercile.page.mail.addresses import mail_address

#: Stands for the token; it occurs in no text of ours. A token is `secrets.token_urlsafe(24)`: 32 characters.
PLACE = "Qv7zXk3JwWq9LmB2nYtRpZ0aVuHcGfDs"
# Quoted-printable, as mail servers may count lines; and unfolded, as we write the only long header ourselves.
_POLICY = SMTP.clone(cte_type="7bit", max_line_length=78)


@dataclass(frozen=True, eq=False)
class Wording:
    """A message without what differs from reader to reader.

    Attributes
    ----------
    head
        From, Subject and what all letters of a list bear, as bytes.
    body
        MIME headers and parts, dots at line starts doubled, ended by a line break; holds `PLACE` here and there.
    """

    head: bytes
    body: bytes

    @cached_property
    def _places(self) -> list[list[int]]:
        """For each occurrence of the placeholder, where each of its characters stands."""
        broken = re.compile(b"(?:=\r\n)?".join(re.escape(c.encode()) for c in PLACE))
        found = []
        for match in broken.finditer(self.body):
            text = match.group()
            signs = [at for at in range(len(text)) if text[at : at + 1] not in b"=\r\n"]
            found.append([match.start() + at for at in signs])
        return found

    def letter(self, to: str, token: str, message_id: str, now: float, unsubscribe: str = "") -> bytes:
        """The whole message for one reader, ready for SMTP up to the dot that ends it.

        Parameters
        ----------
        to
            A checked address.
        token
            32 characters of the URL-safe base64 alphabet.
        message_id
            Without brackets.
        now
            Unix time, for the Date header.
        unsubscribe
            Address that ends the subscription by one POST, for RFC 8058.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{32}", token):
            raise ValueError(f"token must be 32 characters of URL-safe base64, got {len(token)} characters")
        lines = [
            f"To: {to}",
            f"Message-ID: <{message_id}>",
            f"Date: {format_datetime(datetime.fromtimestamp(now, UTC))}",
        ]
        if unsubscribe:
            lines += [f"List-Unsubscribe: <{unsubscribe}>", "List-Unsubscribe-Post: List-Unsubscribe=One-Click"]
        filled = bytearray(self.body)
        for places in self._places:
            for at, sign in zip(places, token.encode("ascii")):
                filled[at] = sign
        return self.head + "\r\n".join(lines).encode("ascii") + b"\r\n" + bytes(filled)


def wording(sender: str, subject: str, text: str, html: str, list_id: str = "") -> Wording:
    """Write a message of two parts, plain and HTML, with `PLACE` wherever the reader's token belongs.

    >>> made = wording("tercile <d@example.org>", "Hello", f"https://x.org/{PLACE}", f"<a href='https://x.org/{PLACE}'>x</a>")
    >>> b"https://x.org/" + b"A" * 32 in made.letter("a@example.org", "A" * 32, "1@x", 0.0)
    True
    """
    name, address = parseaddr(sender)
    local, _, domain = mail_address(address).rpartition("@")
    head, parts = EmailMessage(policy=_POLICY), EmailMessage(policy=_POLICY)
    head["From"] = Address(name, local, domain)
    head["Subject"] = subject
    head["Auto-Submitted"] = "auto-generated"
    if list_id:
        head["List-Id"] = f"<{list_id}>"
        head["Precedence"] = "bulk"
    parts.set_content(text, cte="quoted-printable")
    parts.add_alternative(html, subtype="html", cte="quoted-printable")
    body = re.sub(rb"(?m)^\.", b"..", parts.as_bytes())
    return Wording(head.as_bytes().rstrip(b"\r\n") + b"\r\n", body if body.endswith(b"\r\n") else body + b"\r\n")
