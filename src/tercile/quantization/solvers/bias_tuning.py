"""Bias tuning: train the biases of a quantized network, and nothing else, towards the float network's
answers.

Hubara, Nahshan, Hanani, Banner and Soudry (2020), arXiv:2006.10518. Biases are few, so a small
unlabelled calibration set is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tune_biases(
    model: torch.nn.Module,
    biases: Sequence[torch.nn.Parameter],
    inputs: torch.Tensor,
    logits: torch.Tensor,
    *,
    steps: int = 60,
    batch: int = 50,
    rate: float = 1e-3,
    seed: int = 0,
) -> tuple[float, float]:
    """Changes `biases` in place to lower the mean KL divergence from the float network's class probabilities.

    Every fifth example is held out; the biases that do best on those are kept, the ones given included.

    Parameters
    ----------
    model
        Quantized network, in the mode it is used in: inputs -> logits (n, classes), with gradients to the
        biases.
    biases
        Parameters of `model`.
    inputs, logits
        Calibration examples, and what the float network says about them.
    steps, batch, rate, seed
        Steps of Adam, examples in each, its rate in units of each bias' own root mean square, and which
        examples.

    Returns
    -------
    KL divergence on the held-out examples, before and after.

    Raises
    ------
    ValueError
        If there are fewer than 10 examples, or not one row of logits for each.
    """
    import torch
    from torch.nn.functional import kl_div, log_softmax

    if len(inputs) < 10 or len(inputs) != len(logits):
        raise ValueError(f"need 10 examples or more and logits for each, got {len(inputs)} and {len(logits)}")
    wanted = log_softmax(logits.detach(), dim=1)
    held = torch.arange(len(inputs)) % 5 == 0
    training = torch.nonzero(~held)[:, 0]
    generator = torch.Generator().manual_seed(seed)

    def divergence(chosen: torch.Tensor) -> torch.Tensor:
        answers = log_softmax(model(inputs[chosen]), dim=1)
        return kl_div(answers, wanted[chosen], reduction="batchmean", log_target=True)

    @torch.no_grad()
    def held_out() -> float:
        parts = torch.nonzero(held)[:, 0].split(100)
        return float(sum(divergence(part) * len(part) for part in parts)) / int(held.sum())

    needed = [bias.requires_grad for bias in biases]
    groups = []
    for bias in biases:
        bias.requires_grad_(True)
        unit = max(float(bias.detach().square().mean().sqrt()), 1e-3)
        groups.append({"params": [bias], "lr": rate * unit})
    optimizer = torch.optim.Adam(groups)
    before = least = held_out()
    best = [bias.detach().clone() for bias in biases]
    for step in range(1, steps + 1):
        chosen = training[torch.randint(len(training), (batch,), generator=generator)]
        with torch.enable_grad():
            loss = divergence(chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step % 10 == 0 or step == steps) and (now := held_out()) < least:
            least, best = now, [bias.detach().clone() for bias in biases]
    with torch.no_grad():
        for bias, value, need in zip(biases, best, needed):
            bias.copy_(value)
            bias.requires_grad_(need)
    return before, least
