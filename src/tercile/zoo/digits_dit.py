"""``digits-dit``: a small diffusion transformer that draws digits, and how its drawings are judged."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from tercile.diffusion.models import DiT, Shape
from tercile.diffusion.processes import GaussianProcess, cosine
from tercile.diffusion.sampling import ddim, frechet_distance

from .digits import enlarge
from .digits_cnn import build as build_classifier

FOLDER = Path(__file__).parent / "models" / "digits-dit"
STEPS = 1000


def build(folder: Path = FOLDER) -> DiT:
    """Load the trained denoiser in eval mode.

    It predicts the noise in float pictures (n, 1, 16, 16), which are in [-1, 1] when clean, at whole steps (n,) of
    `process()`, of digits (n,).

    >>> build().training
    False
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    model = DiT(Shape(**config["shape"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def process() -> GaussianProcess:
    """The process that it was trained on.

    >>> process().steps
    1000
    """
    return cosine(STEPS)


@torch.no_grad()
def draw(model: nn.Module, noise: torch.Tensor, labels: torch.Tensor, *, steps: int = 50) -> torch.Tensor:
    """Pictures (n, 1, 16, 16) of the digits asked for, from noise of that shape, a few hundred at a time."""

    def drawn(some: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
        return ddim(lambda x, step: model(x, step, digits), process(), some, steps=steps)

    return torch.cat([drawn(*part) for part in zip(noise.split(250), labels.split(250), strict=True)])


class Judge:
    """The zoo's digits-cnn, as a judge of pictures.

    >>> features, guesses = Judge()(torch.zeros(3, 1, 16, 16))
    >>> features.shape, guesses.shape
    (torch.Size([3, 64]), torch.Size([3]))
    """

    def __init__(self) -> None:
        self.classifier = build_classifier()

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled features (n, 64) of pictures (n, 1, 16, 16) in [-1, 1], and the digits (n,) that it sees in them."""
        found = []
        for part in pictures.split(250):
            network = self.classifier
            features = network.pool(network.stages(network.relu(network.bn(network.conv(enlarge(part)))))).flatten(1)
            found.append((features, network.classifier(features).argmax(1)))
        return torch.cat([features for features, _ in found]), torch.cat([digits for _, digits in found])

    def distance(self, left: torch.Tensor, right: torch.Tensor) -> float:
        """Fréchet distance between two sets of pictures, in its features."""
        return frechet_distance(self(left)[0].numpy(), self(right)[0].numpy())

    def accuracy(self, pictures: torch.Tensor, labels: torch.Tensor) -> float:
        """Share of pictures in which it sees the digit that was asked for."""
        return float((self(pictures)[1] == labels).float().mean())
