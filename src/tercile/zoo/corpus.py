"""English text that every Debian machine can install, read as documents of a few hundred characters.

The texts and their terms, as stated in ``/usr/share/doc/PACKAGE/copyright``:

=================  ====================================================  =======================
source             Debian package                                        terms
=================  ====================================================  =======================
``python``         python3.11-doc, prose paragraphs without code         PSF licence
``wordnet``        wordnet-base, glosses and example sentences           WordNet 3.0 licence
``kjv``            bible-kjv-text, King James Version                    no restriction
``state``          miscfiles, US constitution and declaration            public domain
``webster``        dict-gcide, only paragraphs marked "1913 Webster"     GPL-2+ as a compilation
``fortune``        fortunes, without songs and poems                     BSD as a compilation
=================  ====================================================  =======================

The language model reads all of them. The samples that are handed out with the models use the first
four only, whose terms allow that without conditions on the rest of the package.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

WITNESSES = {
    "python3.11-doc": Path("/usr/share/doc/python3.11/html/library/os.html"),
    "wordnet-base": Path("/usr/share/wordnet/data.noun"),
    "bible-kjv-text": Path("/usr/lib/bible.data"),
    "miscfiles": Path("/usr/share/state/us-constitution.gz"),
    "dict-gcide": Path("/usr/share/dictd/gcide.dict.dz"),
    "fortunes": Path("/usr/share/games/fortunes/wisdom"),
}
FREE_SOURCES = ("python", "wordnet", "kjv", "state")
LONGEST = 1200
SHORTEST = 120
HELD_OUT_PERCENT = 8


@dataclass(frozen=True)
class Document:
    """A self-contained piece of text and the name of the source that it comes from."""

    text: str
    source: str


def missing_packages() -> tuple[str, ...]:
    """Name the Debian packages of the corpus that are not installed.

    >>> set(missing_packages()) <= set(WITNESSES)
    True
    """
    return tuple(name for name, path in WITNESSES.items() if not path.exists())


def content_hash(text: str) -> int:
    """Hash the words of a text, blind to case, spacing and punctuation, to 64 bits.

    >>> content_hash("Be not afraid.") == content_hash("be  NOT afraid")
    True
    """
    words = " ".join(re.findall(r"\w+", text.lower()))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big")


def pack(pieces: Iterable[str], source: str, aim: int = 800) -> Iterator[Document]:
    """Join neighbouring pieces, a line each, into documents of at most ``LONGEST`` characters.

    A document is closed once it has `aim` characters; one shorter than ``SHORTEST`` is dropped, and a
    piece longer than ``LONGEST`` is cut between sentences.
    """
    held: list[str] = []
    for piece in _cut(pieces):
        if held and sum(map(len, held)) + len(held) + len(piece) > LONGEST:
            yield from _close(held, source)
            held = []
        held.append(piece)
        if sum(map(len, held)) >= aim:
            yield from _close(held, source)
            held = []
    yield from _close(held, source)


def _close(held: list[str], source: str) -> Iterator[Document]:
    text = "\n".join(held)
    if len(text) >= SHORTEST:
        yield Document(text, source)


def _cut(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        while len(piece) > LONGEST:
            at = piece.rfind(". ", 200, LONGEST) + 1
            at = at or LONGEST
            yield piece[:at].strip()
            piece = piece[at:].strip()
        if piece:
            yield piece


class _Prose(HTMLParser):
    """Collects (is_heading, text) of the headings and paragraphs in the body of a Sphinx page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[bool, str]] = []
        self._in_body = False
        self._block: str | None = None
        self._text: list[str] = []
        self._mute: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag == "div" and names.get("role") == "main":
            self._in_body = True
        if self._mute:
            if tag == self._mute[-1]:
                self._mute.append(tag)
            return
        hidden = names.get("class") or ""
        if tag in ("pre", "table", "dt") or "headerlink" in hidden or "section-number" in hidden:
            self._mute.append(tag)
        elif self._in_body and tag in ("p", "h1", "h2", "h3", "h4"):
            self._finish()
            self._block = tag

    def handle_endtag(self, tag: str) -> None:
        if self._mute:
            if tag == self._mute[-1]:
                self._mute.pop()
            return
        if tag == self._block:
            self._finish()
        if tag == "main" or (tag == "body"):
            self._in_body = False

    def handle_data(self, data: str) -> None:
        if self._block and not self._mute:
            self._text.append(data)

    def _finish(self) -> None:
        text = " ".join("".join(self._text).split())
        if self._block and text:
            self.found.append((self._block != "p", text))
        self._block, self._text = None, []


def python_sections(root: Path = Path("/usr/share/doc/python3.11/html")) -> Iterator[list[str]]:
    """Yield each section of Python's documentation as a heading and its paragraphs; code is left out."""
    for page in sorted(root.rglob("*.html")):
        if page.parent == root and page.stem not in ("glossary", "about", "bugs"):
            continue
        parser = _Prose()
        parser.feed(page.read_text(encoding="utf-8"))
        section: list[str] = []
        for is_heading, text in parser.found:
            if is_heading and section:
                yield section
                section = []
            # A paragraph of an example's output or of a navigation line has no sentence in it.
            if is_heading or (len(text) >= 40 and re.search(r"[a-z][.:!?)]", text)):
                section.append(text)
        if section:
            yield section


@dataclass(frozen=True)
class Synset:
    """A meaning in WordNet: its words, the number of the file its authors kept it in, definition and examples."""

    words: tuple[str, ...]
    file: int
    meaning: str
    examples: tuple[str, ...]


def wordnet_synsets(root: Path = Path("/usr/share/wordnet")) -> Iterator[Synset]:
    """Yield each synset of WordNet that has a definition."""
    for part in ("noun", "verb", "adj", "adv"):
        with open(root / f"data.{part}", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(" ") or " | " not in line:
                    continue
                fields, gloss = line.split(" | ", 1)
                columns = fields.split()
                words = [columns[4 + 2 * i].replace("_", " ") for i in range(int(columns[3], 16))]
                words = [re.sub(r"\((?:a|p|ip)\)$", "", word) for word in words]
                examples = re.findall(r'"([^"]{12,})"', gloss)
                meaning = re.split(r'[;:]?\s*"', gloss.strip(), maxsplit=1)[0].strip(" ;:")
                if meaning:
                    yield Synset(tuple(words), int(columns[1]), meaning, tuple(_sentence(text) for text in examples))


def wordnet_entries(root: Path = Path("/usr/share/wordnet")) -> Iterator[tuple[str, list[str]]]:
    """Yield each synset of WordNet as its words with their definition, and its example sentences."""
    for synset in wordnet_synsets(root):
        yield f"{', '.join(synset.words)}: {synset.meaning}.", list(synset.examples)


def _sentence(text: str) -> str:
    text = text.strip(" ;,")
    text = text[:1].upper() + text[1:]
    return text if text[-1:] in ".!?" else text + "."


def king_james(path: Path = Path("/usr/lib/bible.data")) -> Iterator[tuple[str, str]]:
    """Yield (chapter, verse text) of the King James Version.

    The file is an index followed by the text as ``compress`` packs it, in windows that share one header,
    which ``gzip`` reads as a whole.
    """
    data = path.read_bytes()
    start = data.index(b"\x1f\x9d")
    plain = subprocess.run(["gzip", "-dc"], input=data[start:], stdout=subprocess.PIPE, check=True).stdout
    for line in plain.decode("latin-1").splitlines():
        match = re.match(r"(\w+):\d+ (.+)", line)
        if match:
            yield match[1], match[2].strip()


def webster_entries(path: Path = Path("/usr/share/dictd/gcide.dict.dz")) -> Iterator[str]:
    """Yield the definitions of the 1913 Webster, a paragraph each, without etymology and attributions."""
    import gzip

    head = ""
    lines: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as text:
        for line in text:
            found = re.match(r"([A-Z][\w '-]{2,30}) \\", line)
            if found:
                head, lines = found[1], []
            elif line.strip() == "[1913 Webster]":
                prose = _definition(" ".join(lines))
                if head and len(prose) >= 60:
                    yield f"{head}: {prose}"
                lines = []
            elif line.strip():
                lines.append(line.strip())
            else:
                lines = []


def _definition(text: str) -> str:
    text = re.sub(r"\[[^\[\]]*\]", "", text)
    if "[" in text or "]" in text or "\\" in text or text.startswith("Syn:"):
        return ""
    text = re.sub(r"[{}]", "", re.sub(r"\([A-Z][a-z]+\.\)", "", text))
    text = re.sub(r"\s*--\s?[A-Z][\w. &'()]{1,32}?\.?(?=\s|$)", "", text)
    text = re.sub(r"^(\d+\.|\([a-z]\)|Note:)\s*", "", text.strip())
    return " ".join(text.split())


def fortune_cookies(root: Path = Path("/usr/share/games/fortunes")) -> Iterator[str]:
    """Yield the fortunes, without the files of songs, poems and drawings."""
    for path in sorted(root.iterdir()):
        if path.suffix or path.name in ("songs-poems", "ascii-art", "translate-me"):
            continue
        for cookie in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            cookie = re.sub(r"[\b\x00-\x08\x0b-\x1f]", "", cookie).expandtabs(1)
            yield "\n".join(" ".join(line.split()) for line in cookie.strip().splitlines() if line.strip())


def state_papers() -> Iterator[str]:
    """Yield the paragraphs of the constitution and the declaration of independence of the United States."""
    import gzip

    for name in ("us-constitution", "us-declaration"):
        with gzip.open(f"/usr/share/state/{name}.gz", "rt", encoding="utf-8", errors="replace") as text:
            for paragraph in re.split(r"\n\s*\n", text.read()):
                yield " ".join(paragraph.split())


def documents() -> Iterator[Document]:
    """Yield every document of the corpus, each text once.

    Raises
    ------
    FileNotFoundError
        A Debian package is missing; the message says which.
    """
    absent = missing_packages()
    if absent:
        raise FileNotFoundError(f"the corpus needs Debian packages: apt-get install {' '.join(absent)}")
    seen: set[int] = set()
    for document in _all():
        key = content_hash(document.text)
        if key not in seen:
            seen.add(key)
            yield document


def _all() -> Iterator[Document]:
    for section in python_sections():
        yield from pack(section, "python")
    yield from pack(_gloss_lines(), "wordnet")
    chapter = ""
    verses: list[str] = []
    for where, verse in king_james():
        if where != chapter:
            yield from pack(verses, "kjv", aim=700)
            chapter, verses = where, []
        verses.append(verse)
    yield from pack(verses, "kjv", aim=700)
    yield from pack(state_papers(), "state")
    yield from pack(webster_entries(), "webster")
    for cookie in fortune_cookies():
        yield from pack(cookie.split("\n") if len(cookie) > LONGEST else [cookie], "fortune")


def _gloss_lines() -> Iterator[str]:
    for meaning, examples in wordnet_entries():
        yield " ".join([meaning[:1].upper() + meaning[1:], *examples])


def split(pool: Iterable[Document]) -> tuple[list[Document], list[Document]]:
    """Split documents into (training, held out) by the hash of their words.

    A held-out document of which more than a fifth also stands, line by line, in the training text is
    dropped: it would flatter whoever learnt that text by heart.
    """
    train: list[Document] = []
    held: list[Document] = []
    for document in pool:
        (held if content_hash(document.text) % 100 < HELD_OUT_PERCENT else train).append(document)
    lines = {content_hash(line) for document in train for line in document.text.split("\n")}

    def known(document: Document) -> float:
        pieces = document.text.split("\n")
        return sum(len(piece) for piece in pieces if content_hash(piece) in lines) / len(document.text)

    return train, [document for document in held if known(document) <= 0.2]
