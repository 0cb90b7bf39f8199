"""DDIM without fresh noise (Song, Meng and Ermon 2020): the same noise always gives the same picture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

from tercile.diffusion.processes import GaussianProcess

#: Predicts the noise in x (n, ...) at whole steps (n,). What it is conditioned on is bound before.
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ddim(
    denoise: Denoise,
    process: GaussianProcess,
    noise: torch.Tensor,
    *,
    steps: int,
    bounds: tuple[float, float] | None = (-1.0, 1.0),
) -> torch.Tensor:
    """Pictures drawn from noise in evenly spaced steps.

    Parameters
    ----------
    denoise
        Predicts noise.
    process
        The process that it was trained on.
    noise
        Standard normal (n, ...): where sampling starts.
    steps
        How often `denoise` is called, from 1 to one less than `process.steps`.
    bounds
        The clean picture that each step guesses is held within them; None leaves it as it is.

    Returns
    -------
    Tensor of the shape of `noise`, at step 0 of the process.

    Raises
    ------
    ValueError
        If steps is out of range.

    Examples
    --------
    With the noise known exactly, one step is as good as many:

    >>> from tercile.diffusion.processes import cosine
    >>> process, picture = cosine(100), torch.full((1, 4), 0.5)
    >>> def exact(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    ...     kept = process.kept[step][:, None]
    ...     return (x - kept.sqrt() * picture) / (1 - kept).sqrt()
    >>> [round(float(ddim(exact, process, torch.zeros(1, 4), steps=n)[0, 0]), 2) for n in (1, 20)]
    [0.5, 0.5]
    """
    if not 1 <= steps < process.steps:
        raise ValueError(f"steps must be between 1 and {process.steps - 1}, got {steps}")
    times = torch.linspace(process.steps - 1, 0, steps + 1).round().long().tolist()
    x = noise
    for now, after in pairwise(times):
        step = torch.full((len(x),), now, device=x.device)
        guess = denoise(x, step)
        clean = process.clean(x, step, guess)
        if bounds is not None:
            clean = clean.clamp(*bounds)
        x = process.noisy(clean, torch.full_like(step, after), guess)
    return x
