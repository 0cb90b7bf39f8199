"""Options of block reconstruction, one changed at a time on a vision transformer, and the best of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread, pictures
from tercile.papers.digits_transformer import transformer, transformer_logits
from tercile.papers.stored_layers import StoredLayers, accuracy, divergence
from tercile.quantization import Scheme
from tercile.quantization.allocation import SensitivityTable, allocate
from tercile.quantization.families import Family, describe
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.training import (
    Rates,
    Reconstruction,
    SoftRounding,
    StraightThrough,
    Student,
    reconstruct,
)
from tercile.quantization.training.stored_weight import Rounding

PAPER = paper(
    "gptq_study",
    authors="Yvinec, Dapogny, Bailly",
    year=2023,
    source="arXiv:2308.07662",
)
MEASURED_ON = (
    "the zoo's digits-vit, weights of its blocks by channel at 4, 3 and 2 bits, reconstructed block by block from "
    "unlabelled pictures: KL divergence from the float network and accuracy on held-out MNIST digits. Only the "
    "abstract of the paper could be read; which options are good ones is found here, at 4 bits"
)
BASELINE = (
    "block reconstruction with learnt rounding alone: gates between two neighbours, squared error, Adam, uniform grid, "
    "one width everywhere, same pictures and passes"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test pictures": 40, "calibration pictures": 32, "passes": 1},
    "full": {"test pictures": 500, "calibration pictures": 48, "passes": 8, "seeds": "calibration pictures, order"},
}
SEEDS = (0, 1, 2)
RULE = (
    # The recommended set beats the base: at 4 bits this network loses too little accuracy for points to tell.
    Check("recommended_kl4", at_most="0.5 * base_kl4", quick=False),
    Check("recommended_kl3", at_most="0.5 * base_kl3", quick=False),
    # The paper's 6.8 points are more than the base loses here even at 2 bits: half of what it loses has to come back.
    Check("recommended_accuracy2", at_least="0.5 * (base_accuracy2 + float_accuracy)", quick=False),
    Check("recommended_kl2", at_most="0.5 * base_kl2", quick=False),
    # What it calls robust changes little; what it calls a matter of practice changes more.
    Check("robust_change", at_most="0.5 * practice_change", quick=False),
    Check("recommended_bytes4", at_most="base_bytes4"),
)

BATCH = 16
UNIFORM, BENT = "int{}-channel", "normal{}-channel"
# Each kind of rounding at the rate that did best on other pictures than those of the seeds.
HELD = Rates(codes=0.06, scales=0.0, offsets=0.0, vectors=0.0)
HELD_CODES = replace(HELD, codes=0.02)
FREE = Rates(codes=0.02, scales=0.002, offsets=0.0, vectors=0.005)
MOMENTUM = partial(torch.optim.SGD, momentum=0.9)


def absolute(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Absolute change as a share of the absolute deviation from the mean of what is wanted."""
    return (got - wanted).abs().sum() / (wanted - wanted.mean(0)).abs().sum()


def angle(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """1 - cosine between tokens, which does not see their length."""
    return (1 - torch.cosine_similarity(wanted - wanted.mean(0), got - wanted.mean(0), dim=-1)).mean()


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every option at 4 bits; the base and the recommended set at 4, 3 and 2."""
    study = Study(size, seed)
    passes = int(SIZES[size]["passes"])
    base = Reconstruction(passes, HELD, vectors=False)
    found: dict[str, float] = {"float_accuracy": accuracy(study.truth, study.labels)}
    half, noise = study.batches[: len(study.batches) // 2], study.noise
    options: dict[str, float] = {
        # The paper finds these to matter little ...
        "half_of_weights": study.run(4, replace(base, moving=0.5))["kl"],
        "mixed_inputs": study.run(4, replace(base, mixed=0.5))["kl"],
        "half_of_pictures": study.run(4, replace(base, passes=2 * passes), batches=half)["kl"],
        # ... and these to be worth a choice.
        "any_level": study.run(4, replace(base, rates=HELD_CODES), rounding=StraightThrough)["kl"],
        "free_scales": study.run(4, replace(base, rates=replace(FREE, codes=HELD.codes), vectors=True))["kl"],
        "bent_grid": study.run(4, base, grid=BENT)["kl"],
        "mixed_widths": study.run(4, base, mixed=True)["kl"],
        "absolute_loss": study.run(4, replace(base, loss=absolute))["kl"],
        "angle_loss": study.run(4, replace(base, loss=angle))["kl"],
        "adamax": study.run(4, replace(base, optimizer=torch.optim.Adamax))["kl"],
        "momentum": study.run(4, replace(base, optimizer=MOMENTUM, rates=Rates(0.5, 0, 0, 0)))["kl"],
        # No part of either: pictures of noise.
        "noise_pictures": study.run(4, base, batches=noise)["kl"],
    }
    for bits in (4, 3, 2):
        plain = study.run(bits, base)
        best = study.run(bits, Reconstruction(passes, FREE), rounding=StraightThrough, grid=BENT, mixed=True)
        for key in ("kl", "accuracy", "bytes"):
            found |= {f"base_{key}{bits}": plain[key], f"recommended_{key}{bits}": best[key]}
        found[f"nearest_kl{bits}"] = study.run(bits, Reconstruction(0))["kl"]
    shares = {name: abs(np.log(max(kl, 1e-9) / found["base_kl4"])) for name, kl in options.items()}
    found |= {f"{name}_kl4": kl for name, kl in options.items()}
    found["robust_change"] = float(
        np.mean([shares[n] for n in ("half_of_weights", "mixed_inputs", "half_of_pictures")])
    )
    found["practice_change"] = float(
        np.mean([shares[n] for n in ("any_level", "free_scales", "bent_grid", "mixed_widths")])
    )
    return found


class Study:
    """The network, its pictures, and one reconstruction of it after another."""

    def __init__(self, size: Size, seed: int) -> None:
        given = SIZES[size]
        self.seed = seed
        self.model: nn.Module = transformer()
        self.family: Family = describe(self.model)
        self.layers = [layer.name for block in self.family.blocks for layer in block.layers]
        images, labels = pictures(0, 2)
        self.images, self.labels = images[: int(given["test pictures"])], labels[: int(given["test pictures"])]
        pool = pictures(1, 2)[0]
        chosen = np.random.default_rng(seed).permutation(len(pool))[: int(given["calibration pictures"])]
        self.calibration = pool[torch.from_numpy(chosen)]
        self.batches = list(self.calibration.split(BATCH))
        generator = torch.Generator().manual_seed(seed)
        like = torch.randn(self.calibration.shape, generator=generator) * self.calibration.std(0)
        self.noise = list((self.calibration.mean(0) + like).clamp(0, 1).split(BATCH))
        self.truth = transformer_logits(self.model, self.images)
        self._widths: dict[tuple[int, str], dict[str, str]] = {}

    def run(
        self,
        bits: int,
        settings: Reconstruction,
        *,
        rounding: Rounding = SoftRounding,
        grid: str = UNIFORM,
        mixed: bool = False,
        batches: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, float]:
        """Divergence, accuracy and bytes of one choice of options."""
        own = grid.format(bits if grid == UNIFORM else 2**bits)
        schemes = self.widths(bits, grid) if mixed else dict.fromkeys(self.layers, own)
        weights = {
            name: round_to_nearest(self.weight(name), None, Scheme.parse(scheme)) for name, scheme in schemes.items()
        }
        student = Student(self.model, self.family, weights, rounding=rounding)
        data = self.batches if batches is None else batches
        for _ in reconstruct(
            student, self.model, self.family, data, forward=forward, settings=settings, seed=self.seed
        ):
            pass
        # What is measured is what would be written: codes, not gates.
        stored = student.tensors()
        final = Student(self.model, self.family, stored, student.vectors())
        answers = transformer_logits(final.module, self.images)
        return {
            "kl": divergence(self.truth, answers),
            "accuracy": accuracy(answers, self.labels),
            "bytes": float(sum(tensor.nbytes for tensor in stored.values())),
        }

    def weight(self, name: str) -> np.ndarray:
        """A layer's own weight."""
        value: np.ndarray = self.model.get_parameter(f"{name}.weight").detach().numpy()
        return value

    def widths(self, bits: int, grid: str) -> Mapping[str, str]:
        """A width for each layer, within the bytes of one width everywhere, by how much each layer's rounding alone
        changes the answers on the calibration pictures."""
        if (bits, grid) not in self._widths:
            near = [width for width in range(bits - 1, bits + 3) if width >= 2] if bits > 2 else [1, 2, 3, 4]
            names = {width: grid.format(width if grid == UNIFORM else 2**width) for width in near}
            stored = StoredLayers(self.model, self.layers, list(names.values()))
            images = self.calibration[:16]
            wanted = transformer_logits(self.model, images)
            loss = np.zeros((len(self.layers), len(near)))
            nbytes = np.zeros(loss.shape, dtype=np.int64)
            for row, layer in enumerate(self.layers):
                for column, spelling in enumerate(names.values()):
                    stored.put({layer: spelling})
                    loss[row, column] = divergence(wanted, transformer_logits(self.model, images))
                    nbytes[row, column] = stored.nbytes[layer][spelling]
            stored.put({})
            table = SensitivityTable(tuple(self.layers), tuple(names.values()), nbytes, loss)
            self._widths[bits, grid] = dict(allocate(table, stored.bytes_of(names[bits])).choices)
        return self._widths[bits, grid]


def forward(model: nn.Module, images: torch.Tensor) -> object:
    """Runs the network."""
    return model(images)
