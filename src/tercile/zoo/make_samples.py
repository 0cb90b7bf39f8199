"""Draw the text samples that MiniLM and the language model bring along.

    python -m tercile.zoo.make_samples

needs the Debian packages of ``corpus.py``. Both samples hold only the sources whose terms allow handing them
on freely: Python's documentation, WordNet, the King James Version and two state papers.

The sentences are drawn at random, one by one, and nothing is cleaned away afterwards: headings, one-line
notes and paragraphs that a manual repeats nearly word for word are there because they are in the texts.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path

from .corpus import (
    FREE_SOURCES,
    Document,
    documents,
    king_james,
    python_sections,
    split,
    state_papers,
    wordnet_entries,
)

FOLDER = Path(__file__).parent / "samples"
SEED = 41
# Sentences and paragraphs of each kind for MiniLM; all that there are where the text has fewer.
SHARES = {
    "python": 2600,
    "python heading": 200,
    "wordnet example": 1500,
    "wordnet gloss": 700,
    "kjv": 850,
    "state": 150,
}


def english_pool() -> dict[str, list[str]]:
    """Collect the sentences and paragraphs of each kind, in the order of their texts."""
    pool: dict[str, list[str]] = {kind: [] for kind in SHARES}
    for section in python_sections():
        pool["python heading"] += [text for text in section[:1] if len(text) >= 20]
        pool["python"] += section[1:]
    for gloss, examples in wordnet_entries():
        pool["wordnet example"] += [text for text in examples if len(text) >= 20]
        pool["wordnet gloss"] += [gloss] if len(gloss) >= 40 else []
    pool["kjv"] = [verse for _, verse in king_james()]
    pool["state"] = [text for text in state_papers() if len(text) >= 20]
    return pool


def english(seed: int = SEED) -> list[Document]:
    """Draw MiniLM's sample: about 6,000 sentences and paragraphs, shuffled."""
    chooser = random.Random(seed)
    drawn = [
        Document(text, kind)
        for kind, texts in english_pool().items()
        for text in chooser.sample(texts, min(len(texts), SHARES[kind]))
    ]
    chooser.shuffle(drawn)
    return drawn


def held_out(seed: int = SEED) -> list[Document]:
    """Return the language model's sample: held-out documents of 300 to 1,200 characters, shuffled."""
    _, held = split(documents())
    kept = [document for document in held if document.source in FREE_SOURCES and len(document.text) >= 300]
    random.Random(seed).shuffle(kept)
    return kept


def store(sample: Iterable[Document], path: Path) -> None:
    """Write JSON lines, gzipped without a time stamp so that the same text gives the same bytes."""
    lines = [json.dumps({"text": d.text, "source": d.source}, ensure_ascii=False) for d in sample]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))


if __name__ == "__main__":
    store(english(), FOLDER / "english.jsonl.gz")
    store(held_out(), FOLDER / "debian-held-out.jsonl.gz")
