"""Measure ``debian-llama`` on text it has not seen, beside xz and a 5-gram model, and write its card.

    python -m tercile.zoo.measure_language_model --work FOLDER

takes the log of the training from FOLDER and needs the Debian packages of ``corpus.py``.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import lzma
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .cards import provenance, write
from .corpus import Document, documents, split
from .ngram import KneserNey
from .train_language_model import CONTEXT, PASSES, bits_per_byte

NAME = "debian-llama"
FOLDER = Path(__file__).parent / "models" / NAME
SAMPLE = Path(__file__).parent / "samples" / "debian-held-out.jsonl.gz"
PROMPTS = (
    "",
    "The function returns",
    "If the file does not exist,",
    "And the king said unto",
    "Horse: ",
    "A small bird that",
    "In the beginning",
    "The people of the city were",
)


def sample_documents(count: int | None = None) -> list[Document]:
    """Return the first `count` documents of the bundled sample."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines][:count]


def rounded(model: torch.nn.Module, bits: int, group: int = 64) -> torch.nn.Module:
    """Return a copy whose linear layers, the head excepted, are rounded to the nearest of 2^bits levels.

    Levels are symmetric, from -2^(bits-1) + 1 up, scaled by the largest magnitude of each `group` along a
    row; two bits leave -1, 0 and 1.
    """
    small = copy.deepcopy(model)
    top = 2 ** (bits - 1) - 1
    for name, layer in small.named_modules():
        if isinstance(layer, torch.nn.Linear) and not name.endswith("lm_head"):
            weight = layer.weight.data.float().reshape(-1, group)
            scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
            layer.weight.data = ((weight / scale).round() * scale).reshape(layer.weight.shape)
    return small


def compressor_bits(train: list[Document], held: list[Document]) -> dict[str, float]:
    """Bits per byte of ``xz -9e`` on the held-out text alone, and when the training text goes before it."""

    def size(texts: list[str]) -> int:
        return len(lzma.compress("\n\n".join(texts).encode(), preset=9 | lzma.PRESET_EXTREME))

    texts = [document.text for document in held]
    known = [document.text for document in train]
    length = len("\n\n".join(texts).encode())
    return {
        "xz -9e": 8 * size(texts) / length,
        "xz -9e after the training text": 8 * (size(known + texts) - size(known)) / length,
    }


def ngram_bits(tokenizer: Any, train: list[Document], held: list[Document]) -> float:
    """Bits per byte of an interpolated Kneser-Ney 5-gram model over the same tokens."""
    rows = [np.array(row.ids) for row in tokenizer.backend_tokenizer.encode_batch_fast([d.text for d in train])]
    model = KneserNey.fit(rows)
    bits, size = 0.0, 0
    for document in held:
        row = tokenizer(document.text)["input_ids"][:CONTEXT]
        bits += float(model.bits(np.array(row))[1:].sum())
        size += len(tokenizer.decode(row[1:]).encode())
    return bits / size


@torch.no_grad()
def written(model: Any, tokenizer: Any, seed: int = 7) -> list[dict[str, str]]:
    """Let the model go on from each prompt, at temperature 0.7 over its 40 likeliest tokens."""
    torch.manual_seed(seed)
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(ids, max_new_tokens=90, do_sample=True, temperature=0.7, top_k=40, pad_token_id=0)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        texts.append({"prompt": prompt, "text": text})
    return texts


def yardsticks(train: list[Document], scored: list[Document], work: Path) -> dict[str, float]:
    """Score xz and the 5-gram model once, and keep the figures in ``work/yardsticks.json``."""
    kept = work / "yardsticks.json"
    if not kept.exists():
        tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
        found = compressor_bits(train, scored)
        found["Kneser-Ney 5-gram over the same tokens"] = ngram_bits(tokenizer, train, scored)
        write(kept, found)
    figures: dict[str, float] = json.loads(kept.read_text())
    return figures


def measure(work: Path, folder: Path = FOLDER) -> dict[str, Any]:
    """Measure everything that the card says."""
    train, held = split(documents())
    scored = random.Random(5).sample(held, 1000)
    others = yardsticks(train, scored, work)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    own = bits_per_byte(model, tokenizer, scored)
    few = scored[:150]
    log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    end = next((line for line in reversed(log) if line.get("event") == "end"), log[-1])
    return {
        "bits_per_byte_held_out": own,
        "bits_per_byte_of_others": others,
        "bits_per_byte_first_20_of_sample": bits_per_byte(model, tokenizer, sample_documents(20))["all"],
        "bits_per_byte_rounded_to_nearest_group_64": {"as it is": _score(model, tokenizer, few)}
        | {f"int{bits}": _score(rounded(model, bits), tokenizer, few) for bits in (4, 3, 2)},
        "documents": {"trained_on": len(train), "held_out": len(held), "scored": 1000, "rounded": len(few)},
        "training": {key: value for key, value in end.items() if key != "event"}
        | {
            "bytes": sum(len(d.text.encode()) for d in train),
            "passes_a_source": PASSES,
            "seed": log[0].get("seed"),
        },
        "writes": written(model, tokenizer),
    }


def _score(model: torch.nn.Module, tokenizer: Any, held: list[Document]) -> float:
    return bits_per_byte(model, tokenizer, held)["all"]


def card(measured: dict[str, Any], folder: Path = FOLDER) -> dict[str, Any]:
    """Put the measurements into the card of the model."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {
        "summary": "A small Llama with grouped-query attention that writes the English of Debian's texts.",
        "task": "language-model",
        "licence": "Apache-2.0; the sample: PSF (Python docs), WordNet 3.0, public domain (KJV, state)",
        "made_by": "tercile.zoo.train_language_model",
        "weights": sum(value.numel() for value in model.parameters()),
        "size_bytes": (folder / "model.safetensors").stat().st_size,
        "data": "Debian: python3.11-doc, wordnet-base, bible-kjv-text, miscfiles, dict-gcide, fortunes",
        "sample": {
            "file": SAMPLE.name,
            "units": len(sample_documents()),
            "what": "documents of 300 to 1,200 characters that the model was not trained on",
            "disjoint": "documents are split by a hash of their words; one of which more than a fifth also "
            "stands in the training text, line by line, is left out",
        },
        "limits": "It was trained for under four hours, in two schedules, on a machine shared with much other work, "
        "and read the texts once: its clauses are grammatical, it repeats itself, and it knows next to nothing.",
        "context": CONTEXT,
        **measured,
        **provenance(),
    }


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else value
    if isinstance(value, dict):
        return {key: _round(inner) for key, inner in value.items()}
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the language model of the zoo and write its card.")
    parser.add_argument("--work", type=Path, default=Path("language-model-training"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--yardsticks", action="store_true", help="only score xz and the 5-gram model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.yardsticks:
        train, held = split(documents())
        print(yardsticks(train, random.Random(5).sample(held, 1000), given.work))
        raise SystemExit
    write(FOLDER / "card.json", _round(card(measure(given.work))))
