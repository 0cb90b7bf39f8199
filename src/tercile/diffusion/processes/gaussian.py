"""Gaussian noise added in steps so that the variance is preserved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """At step t, a picture is the square root of `kept[t]` of itself and noise of variance `1 - kept[t]`.

    Attributes
    ----------
    kept
        float32 (steps + 1,): share of the signal's power that is left at each step, falling, strictly between 0 and 1.

    Raises
    ------
    ValueError
        If `kept` is anything else.

    Examples
    --------
    >>> process = GaussianProcess(torch.tensor([0.96, 0.64, 0.36]))
    >>> process.steps, process.noisy(torch.ones(1, 1), torch.tensor([2]), torch.zeros(1, 1)).tolist()
    (2, [[0.6000000238418579]])
    """

    kept: torch.Tensor

    def __post_init__(self) -> None:
        kept = self.kept
        if kept.dim() != 1 or len(kept) < 2:
            raise ValueError(f"kept must be (steps + 1,) with a step at least, got shape {tuple(kept.shape)}")
        if not bool(((kept > 0) & (kept < 1)).all()) or bool((kept[1:] > kept[:-1]).any()):
            raise ValueError("kept must fall from step to step and lie strictly between 0 and 1")

    @property
    def steps(self) -> int:
        """The last step, which is all but noise."""
        return len(self.kept) - 1

    def noisy(self, x: torch.Tensor, step: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean x (n, ...) as it is at whole steps (n,), with noise of its shape."""
        kept = self._of(step, x)
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def clean(self, x: torch.Tensor, step: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """What x (n, ...) at steps (n,) is without that noise: the inverse of `noisy`."""
        kept = self._of(step, x)
        return (x - (1 - kept).sqrt() * noise) / kept.sqrt()

    def _of(self, step: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.kept.to(x.device)[step].reshape(-1, *[1] * (x.dim() - 1))


def cosine(steps: int) -> GaussianProcess:
    """The cosine schedule (Nichol and Dhariwal 2021), held between 0.0001 and 0.9999.

    Parameters
    ----------
    steps
        How many, 1 at least.

    Raises
    ------
    ValueError
        If steps is below 1.

    Examples
    --------
    >>> [round(share, 4) for share in cosine(100).kept[[0, 50, 100]].tolist()]
    [0.9998, 0.4938, 0.0001]
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    angle = (torch.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2
    return GaussianProcess(torch.cos(angle).square().clamp(1e-4, 0.9999))
