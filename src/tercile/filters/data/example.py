"""What the data filters pass along: one unit of data, and one unit turned away with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Content = str | np.ndarray
Label = int | str | None


@dataclass(frozen=True, eq=False)
class Example:
    """One independent unit: a text or an array, where it came from, and its label if it has one.

    Parameters
    ----------
    content : str or numpy.ndarray
        A text, or an array such as a picture: ``(height, width)`` or ``(height, width, colours)``.
    label : int, str or None
        The class, where the source gives one.
    origin : str
        ``file:line``, ``file:row`` or ``item 17`` of an iterable: enough to find the unit again.
    metadata : mapping
        The short scalar fields that came with it (numbers, booleans, strings of up to 256 characters).

    Two examples are equal when content, label, origin and metadata are.

    >>> Example("A sentence.", origin="a.txt:1").digest
    '5c1229fc51017a5304800ff35fb7e18a'
    >>> Example("same") == Example("same"), Example("same") == Example("Same")
    (True, False)
    """

    content: Content
    label: Label = None
    origin: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", as_label(self.label))

    @property
    def digest(self) -> str:
        """BLAKE2b (128 bit, hexadecimal) of the exact content: any changed byte, type or shape shows."""
        return content_digest(self.content).hex()

    @property
    def excerpt(self) -> str:
        """The content in at most 80 printable characters."""
        return excerpt(self.content)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Example):
            return NotImplemented
        mine = (self.label, self.origin, dict(self.metadata))
        return mine == (other.label, other.origin, dict(other.metadata)) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True)
class Rejection:
    """One unit that did not pass, and why.

    Parameters
    ----------
    reason : str
        A word to count by: ``undecodable``, ``malformed``, ``broken``, ``empty``, ``too-short``,
        ``over-long``, ``not-text``, ``exact-duplicate``, ``near-duplicate``.
    detail : str
        What exactly was wrong, for a person.
    origin : str
        Where the unit came from.
    excerpt : str
        Its first 80 characters, made printable.

    >>> print(Rejection("empty", "nothing but white space", "a.txt:7"))
    a.txt:7: empty: nothing but white space
    """

    reason: str
    detail: str
    origin: str
    excerpt: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}: {self.detail}"


def content_digest(content: Content) -> bytes:
    """BLAKE2b of a text's UTF-8 or of an array's type, shape and bytes (16 bytes).

    >>> content_digest("a") == content_digest("a"), content_digest("a") == content_digest("A")
    (True, False)
    """
    if isinstance(content, str):
        return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    # Byte order is a property of the machine, not of the picture: hash the little-endian bytes.
    plain = np.ascontiguousarray(content, dtype=content.dtype.newbyteorder("<"))
    state = hashlib.blake2b(digest_size=16, person=b"array")
    state.update(f"{plain.dtype.str}{content.shape}".encode())
    state.update(plain.tobytes())
    return state.digest()


def excerpt(content: object, longest: int = 80) -> str:
    r"""The first characters of a text with control characters spelt out, or an array's shape and type.

    >>> print(excerpt("one\ntwo\x00"), "|", excerpt(np.zeros((2, 3), np.uint8)))
    one two\x00 | array (2, 3) uint8
    """
    if isinstance(content, np.ndarray):
        return f"array {content.shape} {content.dtype}"
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    words = " ".join(text[: 4 * longest].split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def as_label(value: object) -> Label:
    """A label as a plain int or str; ValueError for anything else.

    >>> as_label(np.int64(3)), as_label("cat"), as_label(2.0), as_label(None)
    (3, 'cat', 2, None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, int, np.integer, np.bool_)):
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return int(value)
    raise ValueError(f"a label must be a whole number or a word, got {excerpt(repr(value))}")


def short_scalars(record: Mapping[str, Any], leave_out: tuple[str | None, ...]) -> dict[str, Any]:
    """The fields worth carrying along: numbers, booleans and strings of up to 256 characters.

    >>> short_scalars({"text": "t", "year": 2023, "tags": ["a"]}, ("text",))
    {'year': 2023}
    """
    kept: dict[str, Any] = {}
    for name, value in record.items():
        if name in leave_out or not isinstance(name, str):
            continue
        short = isinstance(value, str) and len(value) <= 256
        finite = isinstance(value, float) and np.isfinite(value)
        if short or finite or isinstance(value, (bool, int)):
            kept[name] = value
    return kept
