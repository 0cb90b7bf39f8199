"""Trains a network with rounding in the loop towards the answers of the network it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tercile.quantization.training.fake_quantize import RoundedNetwork


def train_rounded(
    network: RoundedNetwork,
    original: torch.nn.Module,
    pictures: torch.Tensor,
    *,
    steps: int = 200,
    batch: int = 64,
    rate: float = 1e-3,
    range_rate: float = 1e-3,
    settled_after: float = 0.5,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    seed: int = 0,
) -> float:
    """Lowers the mean KL divergence of the rounded network's class probabilities from the original's.

    Parameters
    ----------
    network
        Changed in place, and left in evaluation mode. Ranges are trained where `learn_ranges` made them parameters.
    original
        pictures -> logits, in evaluation mode.
    pictures
        Float (n, channels, height, width); no labels are needed.
    steps, batch, seed
        Steps of Adam, pictures in each, and which.
    rate, range_rate
        Rate of weights, in units of each tensor's root mean square, and of ranges, which are logarithms; both fall to 0
        along a cosine.
    settled_after
        Share of the steps after which batch norms use running statistics in training too, as they will at inference; 0
        for a short tuning, in which what a batch norm has seen before is worth more than what it would see.
    augment
        Distorts a batch.

    Returns
    -------
    Mean divergence over the last tenth of the steps.

    Raises
    ------
    ValueError
        If there are no pictures, or steps or batch are below 1.

    Notes
    -----
    Krishnamoorthi (2018), arXiv:1806.08342, fine-tunes on labels; here the original's answers are the target, so that
    what is lost is measured against the same thing that is trained.

    Examples
    --------
    >>> import torch
    >>> from tercile.quantization.training.fake_quantize import RoundedNetwork
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    >>> pictures = torch.rand(40, 1, 6, 6)
    >>> rounded = RoundedNetwork(model, weights="int2-channel-f32").watch(pictures)
    >>> train_rounded(rounded, model, pictures, steps=20, batch=8) < 0.05
    True
    """
    import torch
    from torch.nn.functional import kl_div, log_softmax

    if not len(pictures):
        raise ValueError("pictures is empty: there is nothing to train on")
    if not 0 <= settled_after <= 1:
        raise ValueError(f"settled_after must be between 0 and 1, got {settled_after}")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1, got {steps} and {batch}")
    ranges = [
        one for name, one in network.named_parameters() if name.endswith(("log_scale", ".low")) and one.requires_grad
    ]
    of_ranges = {id(one) for one in ranges}
    groups = [{"params": [one], "lr": range_rate} for one in ranges]
    for one in network.parameters():
        if id(one) not in of_ranges and _is_weight(one, network):
            one.requires_grad_(True)
            groups.append({"params": [one], "lr": rate * max(float(one.detach().square().mean().sqrt()), 1e-3)})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    late: list[float] = []
    with torch.enable_grad():
        for step in range(steps):
            if step == int(settled_after * steps):
                network.settle_norms()
            x = pictures[torch.randint(len(pictures), (batch,), generator=generator)]
            x = x if augment is None else augment(x, generator)
            with torch.no_grad():
                wanted = log_softmax(original(x), 1)
            loss = kl_div(log_softmax(network(x), 1), wanted, reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step >= steps - max(1, steps // 10):
                late.append(float(loss.detach()))
    network.eval().requires_grad_(False)
    return sum(late) / len(late)


def _is_weight(parameter: torch.nn.Parameter, network: RoundedNetwork) -> bool:
    return any(
        parameter is getattr(layer, name, None)
        for layer in network.layers.values()
        for name in ("weight", "gain", "shift")
    )
