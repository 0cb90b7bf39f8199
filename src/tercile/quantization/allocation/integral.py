"""Post-quantization integral: what rounding each weight does to the loss, added up along the way from W to Q.

    F(Q) - F(W) = integral over t from 0 to 1 of g(W + t (Q - W)) . (Q - W) dt

Hu, Huang, Liang, Chen, Zhang, Zhu and Chen (2025), "Identifying Sensitive Weights via Post-quantization Integral",
arXiv:2503.01901: gradient and Hessian at W see only a small neighbourhood of W, and Q lies outside it; the gradients on
the way do not. Cut into points, the integral falls apart into a share of every weight.

ReQuant, in the same paper, spends float16 where it helps most: outliers are taken out of a layer before it is rounded,
as many as the layer's share of the integral asks for, and significant weights are put back afterwards in steps, the
gradient being taken anew after each. Its text could be read in summary only: how many outliers a layer gets (its share
of the integral to the power of one over a temperature) and what a weight is ranked by (|gradient * change| at the
point reached) are our reading of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tercile.quantization.allocation.hessian import Loss, _gradient, _gradients

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Integral:
    """Every weight's share of a change of the loss.

    Attributes
    ----------
    shares
        By tensor name, float tensors of the weights' shapes.
    """

    shares: Mapping[str, torch.Tensor]

    @property
    def by_layer(self) -> dict[str, float]:
        """Each tensor's share."""
        import torch

        return {name: float(share.sum(dtype=torch.float64)) for name, share in self.shares.items()}

    @property
    def total(self) -> float:
        """The change of the loss that is predicted."""
        return sum(self.by_layer.values())


def post_quantization_integral(
    losses: Sequence[Loss],
    tensors: Mapping[str, torch.Tensor],
    stored: Mapping[str, torch.Tensor],
    *,
    points: int = 8,
) -> Integral:
    """The change of the mean loss when tensors go from what they are to what is stored, weight by weight.

    Parameters
    ----------
    losses
        One a batch, each computed anew at each call; their mean is the loss.
    tensors
        Parameters by name. They are moved meanwhile, and are as they were afterwards.
    stored
        What each of them becomes, of the same shape.
    points
        Gradients on the way, at the middles of as many equal pieces: for a quadratic loss one is exact.

    Raises
    ------
    ValueError
        If nothing is given, shapes differ, points is below 1, or a loss is not finite.

    Notes
    -----
    Costs `points` gradients a batch, and two copies of the tensors.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([1.0, 2.0])
    >>> found = post_quantization_integral([lambda: (w**2).sum()], {"w": w}, {"w": torch.tensor([1.5, 2.0])}, points=1)
    >>> found.shares["w"].tolist(), found.total
    ([1.25, 0.0], 1.25)
    """
    import torch

    if not losses or not tensors:
        raise ValueError("losses and tensors must hold one or more each; there is nothing to integrate")
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    for name, tensor in tensors.items():
        if name not in stored or stored[name].shape != tensor.shape:
            raise ValueError(f"stored must hold {name!r} with shape {tuple(tensor.shape)}")
    begun = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    change = {name: stored[name].to(begun[name]) - begun[name] for name in tensors}
    shares = {name: torch.zeros_like(value) for name, value in begun.items()}
    try:
        with _gradients(tensors.values()):
            for point in range(points):
                _put(tensors, {name: begun[name] + (point + 0.5) / points * change[name] for name in tensors})
                for loss in losses:
                    gradients = _gradient(loss(), tensors, create_graph=False)
                    for name, gradient in gradients.items():
                        shares[name] += gradient * change[name] / (points * len(losses))
    finally:
        _put(tensors, begun)
    return Integral(shares)


def outlier_counts(
    integral: Integral, fraction: float, *, temperature: float = 2.0, most: float = 0.25
) -> dict[str, int]:
    """How many outliers each tensor may keep in float16 when all together keep a fraction of their weights.

    Parameters
    ----------
    integral
        Of the tensors rounded without outliers.
    fraction
        Of all weights.
    temperature
        Shares go as (loss of a layer a weight) ** (1 / temperature): 1 follows the integral, a high one gives every
        layer the same fraction.
    most
        Largest fraction of any one tensor.

    Examples
    --------
    >>> import torch
    >>> shares = Integral({"a": torch.full((100,), 0.04), "b": torch.full((100,), 0.01)})
    >>> outlier_counts(shares, 0.03)
    {'a': 4, 'b': 2}
    """
    if not 0 <= fraction < 1 or temperature <= 0:
        raise ValueError(f"fraction must be in [0, 1) and temperature above 0, got {fraction} and {temperature}")
    sizes = {name: share.numel() for name, share in integral.shares.items()}
    felt = {name: max(value, 0.0) / sizes[name] for name, value in integral.by_layer.items()}
    pull = {name: sizes[name] * value ** (1 / temperature) for name, value in felt.items()}
    whole = sum(pull.values())
    if whole == 0:
        pull, whole = {name: float(size) for name, size in sizes.items()}, float(sum(sizes.values()))
    budget = fraction * sum(sizes.values())
    return {name: int(min(round(budget * part / whole), most * sizes[name])) for name, part in pull.items()}


def detach_significant(
    losses: Sequence[Loss],
    tensors: Mapping[str, torch.Tensor],
    stored: Mapping[str, torch.Tensor],
    fraction: float,
    *,
    steps: int = 4,
    sure: float = 3.0,
    allowed: Callable[[str], bool] | None = None,
) -> dict[str, np.ndarray]:
    """Weights whose float value, put back after rounding, surely lowers the loss; chosen in steps.

    Parameters
    ----------
    losses, tensors, stored
        As for `post_quantization_integral`; one batch tells nothing of chance, so many small ones are better than a few
        large ones.
    fraction
        Of all weights, at most: weights that are not surely worth it stay as they are.
    steps
        After each, the gradient is taken anew where the model stands then.
    sure
        A weight is worth its mean gain over the batches less so many standard errors: of millions of weights many seem
        useful by chance. 0 ranks by the mean.
    allowed
        Which tensors may take part; all by default.

    Returns
    -------
    dict of bool arrays of the tensors' shapes: true where the float value is kept.

    Notes
    -----
    Costs `steps` gradients a batch.

    Examples
    --------
    >>> import torch
    >>> w, q = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.1, 1.5, 0.9])
    >>> loss = lambda: ((w - 1) ** 2 * torch.tensor([1.0, 1.0, 9.0])).sum()
    >>> detach_significant([loss, loss], {"w": w}, {"w": q}, 0.67, steps=2)["w"].tolist()
    [False, True, True]
    """
    import torch

    if not 0 <= fraction <= 1 or steps < 1:
        raise ValueError(f"fraction must be in [0, 1] and steps at least 1, got {fraction} and {steps}")
    if not sure >= 0 or (sure > 0 and len(losses) < 2):
        raise ValueError(f"sure must be 0, or above it with two losses or more; got {sure} and {len(losses)} losses")
    names = [name for name in tensors if allowed is None or allowed(name)]
    begun = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    now = {name: stored[name].to(begun[name]).clone() for name in tensors}
    budget = round(fraction * sum(begun[name].numel() for name in names))
    kept = {name: torch.zeros(begun[name].shape, dtype=torch.bool) for name in tensors}
    taken = 0
    try:
        with _gradients(tensors.values()):
            for step in range(steps):
                wanted = budget * (step + 1) // steps - taken
                if wanted <= 0:
                    continue
                _put(tensors, now)
                sums = {name: torch.zeros_like(begun[name]) for name in tensors}
                squares = {name: torch.zeros_like(begun[name]) for name in tensors}
                for loss in losses:
                    for name, gradient in _gradient(loss(), tensors, create_graph=False).items():
                        sums[name] += gradient
                        squares[name] += gradient**2
                # What putting a weight back is worth to first order; those that would raise the loss stay.
                gains = [
                    (now[name] - begun[name]) * sums[name]
                    - sure * (now[name] - begun[name]).abs() * _spread(sums[name], squares[name], len(losses))
                    for name in names
                ]
                worth = torch.cat([gain.flatten() for gain in gains])
                worth[torch.cat([kept[name].flatten() for name in names])] = 0.0
                chosen = torch.topk(worth, min(wanted, len(worth))).indices
                chosen = chosen[worth[chosen] > 0]
                mask = torch.zeros(len(worth), dtype=torch.bool)
                mask[chosen] = True
                taken += len(chosen)
                for name, part in zip(names, mask.split([begun[name].numel() for name in names]), strict=True):
                    kept[name] |= part.reshape(begun[name].shape)
                    now[name] = torch.where(kept[name], begun[name], now[name])
    finally:
        _put(tensors, begun)
    return {name: mask.numpy() for name, mask in kept.items()}


def _spread(sums: torch.Tensor, squares: torch.Tensor, count: int) -> torch.Tensor:
    """Standard error of a sum of so many independent terms, from it and the sum of their squares."""
    return ((squares - sums**2 / count).clamp(min=0) * (count / max(count - 1, 1))).sqrt()


def _put(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
