"""``digits-cnn``: a small residual network for 28x28 digits, in plain torch modules."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(__file__).parent / "models" / "digits-cnn"


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al. 2015, figure 2)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, channels_out, h / stride, w / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        joined: torch.Tensor = self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))
        return joined


class DigitsCNN(nn.Module):
    """A stem, three stages of two residual blocks, mean pooling and a linear layer.

    Parameters
    ----------
    widths
        Channels of the three stages; the second and the third halve height and width.
    classes
        Number of logits.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages, before = [], widths[0]
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            stages.append(nn.Sequential(Residual(before, width, stride), Residual(width, width, 1)))
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float images in [0, 1], (n, 1, 28, 28), to logits, (n, classes)."""
        out = self.stages(self.relu(self.bn(self.conv(images))))
        logits: torch.Tensor = self.classifier(self.pool(out).flatten(1))
        return logits


def build(folder: Path = FOLDER) -> DigitsCNN:
    """Load the trained network in eval mode; it takes float images in [0, 1], (n, 1, 28, 28).

    >>> build().training
    False
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    model = DigitsCNN(tuple(config["widths"]), config["classes"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
