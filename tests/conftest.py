from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# The models of the tests are tiny: a second thread costs them more than it gives. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SCHEMES = {"int8-channel": 8.08, "int5-g64-asym-k6": 5.28, "int4-g32-asym-k6": 4.5, "int3-g32-asym-k6": 3.5}
SENTENCES = (
    "Rocroi, Battle of Rocroi: a battle in the Thirty Years' War (1643); the French defeated the invaders.",
    "Convert 32-bit positive integers from host to network byte order.",
    "<script>alert('a unit that is markup & no text')</script>",
    "And the LORD said unto Joshua, Get thee up; wherefore liest thou thus upon thy face?",
    "genus Erythrina: genus of attractive tropical shrubs or trees with usually red flowers.",
)


def bert_layers() -> list[dict[str, Any]]:
    """The layers of a BERT with 6 blocks of width 384, each under one of four schemes."""
    shapes = {"embeddings.word_embeddings": [30522, 384], "embeddings.position_embeddings": [512, 384]}
    for number in range(6):
        for part, shape in {
            "attention.self.query": [384, 384],
            "attention.self.key": [384, 384],
            "attention.self.value": [384, 384],
            "attention.output.dense": [384, 384],
            "intermediate.dense": [1536, 384],
            "output.dense": [384, 1536],
        }.items():
            shapes[f"encoder.layer.{number}.{part}"] = shape
    spellings = list(SCHEMES)
    layers = []
    for number, (name, shape) in enumerate(shapes.items()):
        scheme = spellings[3 if "word" in name else (number * 7 + number // 5) % 3 + 1]
        weights = shape[0] * shape[1]
        layers.append(
            {
                "name": name,
                "kind": "embedding" if "embeddings" in name else "linear",
                "shape": shape,
                "scheme": scheme,
                "bits_per_weight": SCHEMES[scheme],
                "nbytes": int(weights * SCHEMES[scheme] / 8),
                "original_nbytes": 4 * weights,
                "predicted_loss": 0.0001 * (1 + number % 4),
            }
        )
    return layers


def made_certificate() -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run on all-MiniLM-L6-v2 leaves, with losses that are drawn and not measured."""
    random = np.random.default_rng(5)
    layers = bert_layers()
    ladder: list[dict[str, Any]] = []
    for rung in range(44):
        nbytes = int(23_100_000 * 0.968**rung)
        predicted = 0.0004 * 1.105**rung
        ladder.append(
            {
                "rung": rung,
                "nbytes": nbytes,
                "predicted_loss": predicted,
                "selection_loss": float(predicted * random.uniform(0.92, 1.05))
                if rung in {0, 22, 33, 36, 38, 41}
                else None,
                "certified": None,
                "risk": None,
                "bound": None,
            }
        )
    walk = []
    for rung in range(33, 40):
        risk = ladder[rung]["predicted_loss"] * 1.02
        bound = risk * 1.055
        certified = bool(bound <= 0.02)
        p_value = 0.05 * (bound / 0.02) ** 18
        walk.append(
            {
                "rung": rung,
                "nbytes": ladder[rung]["nbytes"],
                "risk": risk,
                "bound": bound,
                "p_value": p_value,
                "certified": certified,
            }
        )
        ladder[rung] |= {"certified": certified, "risk": risk, "bound": bound}
        if not certified:
            break
    chosen = walk[-2]
    losses = random.lognormal(0, 0.55, 1000)
    losses = losses * chosen["risk"] / losses.mean()
    small = {
        "nbytes": chosen["nbytes"],
        "files": {"model.safetensors": "5e" * 32, "tokenizer.json": "0b" * 32},
    }
    certificate = {
        "format": "tercile-certificate",
        "version": 1,
        "statement": "With 95% confidence, the mean loss on data like yours is at most 0.02, where the loss "
        "of a unit is 1 minus the cosine between the embeddings of the original and the small model. "
        f"Measured on 1,000 units that played no part in making the model: mean {chosen['risk']:.4f}.",
        "task": "embedding",
        "loss": "1 - cosine",
        "max_loss": 0.02,
        "confidence": 0.95,
        "quantile": None,
        "method": "betting",
        "bound": chosen["bound"],
        "risk": chosen["risk"],
        "units": 1000,
        "walk": walk,
        "rung": chosen["rung"],
        "original": {"source": "minilm", "weights_sha256": "9c" * 32, "nbytes": 90_868_376},
        "small": small,
        "data": {"units": [f"{number:032x}" for number in range(1000)]},
        "seed": 0,
        "versions": {"tercile": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6"},
        "digest": "d1" * 32,
    }
    rejected = {"near-duplicate": 61, "exact-duplicate": 12, "over-long": 2}
    samples = {
        "near-duplicate": [
            {
                "origin": "english.jsonl.gz:88",
                "detail": "near-duplicate of english.jsonl.gz:17",
                "excerpt": SENTENCES[1],
            },
            {
                "origin": "english.jsonl.gz:431",
                "detail": "near-duplicate of english.jsonl.gz:5",
                "excerpt": SENTENCES[0],
            },
        ],
        "exact-duplicate": [
            {
                "origin": "english.jsonl.gz:9",
                "detail": "exact duplicate of english.jsonl.gz:3",
                "excerpt": SENTENCES[3],
            }
        ],
        "over-long": [
            {"origin": "english.jsonl.gz:7", "detail": "length 4112, at most 2000 allowed", "excerpt": "See"}
        ],
    }
    details = {
        "format": "tercile-details",
        "version": 1,
        "model": {
            "name": "minilm",
            "task": "embedding",
            "weights": 22_713_216,
            "original_nbytes": 90_868_376,
            "small_nbytes": chosen["nbytes"],
            "float_nbytes": 204_800,
            "skipped": [["pooler.dense", "its output is not used"]],
        },
        "selection": {
            "read": 6000,
            "kept": 5925,
            "sides": {"calibration": 384, "selection": 384, "certification": 1000},
            "rejected": rejected,
            "samples": samples,
            "seed": 0,
            "settings": {"threshold": 0.8},
        },
        "used": {"calibration": 384, "selection": 384, "certification": 1000},
        "layers": layers,
        "ladder": ladder,
        "losses": losses.tolist(),
        "worst": [
            {"loss": float(loss), "origin": f"english.jsonl.gz:{7 * i + 3}", "excerpt": SENTENCES[i]}
            for i, loss in enumerate(np.sort(losses)[::-1][:5])
        ],
    }
    return certificate, details


@pytest.fixture
def certificate() -> dict[str, Any]:
    return made_certificate()[0]


@pytest.fixture
def details() -> dict[str, Any]:
    return made_certificate()[1]


@pytest.fixture
def small_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write the two files of a compressed model; arguments replace parts of them."""

    def put(certificate: dict[str, Any] | None = None, details: dict[str, Any] | None = None) -> Path:
        made = made_certificate()
        folder = tmp_path / "small"
        folder.mkdir(exist_ok=True)
        for name, content in zip(("certificate", "details"), (certificate or made[0], details or made[1])):
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return put
