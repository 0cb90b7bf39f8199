"""Cross-layer equalisation: two layers with a ReLU between them get the same range in every channel they share.

    f(s x) = s f(x) for s > 0 and f = ReLU:   W2 relu(W1 x + b1) = (W2 S) relu(S^-1 W1 x + S^-1 b1)

Nagel, van Baalen, Blankevoort and Welling (2019), "Data-Free Quantization Through Weight Equalization and Bias
Correction", and the white paper that builds on it, Nagel et al. (2021), arXiv:2106.08295. A channel whose weights are
small beside the others' is rounded away when all share one scale; afterwards none is.
"""

from __future__ import annotations

import torch
from torch import nn

from tercile.quantization.families import Family
from tercile.quantization.families.steps import network_steps
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite

SWEEPS, ENOUGH = 20, 1e-3


def equalize_layers(model: nn.Module, family: Family) -> Rewrite:
    """Evens out the ranges of neighbouring convolutions, channel by channel, without needing any data.

    Parameters
    ----------
    model, family
        A convolutional network, changed in place, and what `describe` says of it. Where a batch norm stands between
        two layers it has to be folded first (`fold_batch_norms`); what still stands there is left alone.

    Returns
    -------
    Rewrite: the pairs that were evened out, and why others were not.

    Raises
    ------
    TypeError, ValueError
        If family is of another model, or a product is not finite in the model's type; nothing is changed then.

    Notes
    -----
    Channel i of both layers gets the largest magnitude sqrt(r1 r2), by s = sqrt(r1 r2) / r2 for ranges r1 and r2. A
    chain of layers is swept until no factor is further than a thousandth from 1.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    >>> with torch.no_grad(): model[0].weight[0] *= 100
    >>> x = torch.randn(2, 1, 8, 8)
    >>> before = model(x)
    >>> equalize_layers(model, describe(model)).merged
    (('scale of 0', '2'),)
    >>> torch.allclose(model(x), before, atol=1e-4)
    True
    >>> ranges = model[0].weight.abs().amax((1, 2, 3)), model[2].weight.abs().amax((0, 2, 3))
    >>> torch.allclose(*ranges, rtol=1e-4)
    True
    """
    new = NewParameters(model, family)
    pairs, left = _pairs(model, new)
    if not pairs:
        return Rewrite((), tuple(left))
    for _ in range(SWEEPS):
        furthest = 0.0
        for first, second in pairs:
            before, after = new.get(f"{first}.weight"), new.get(f"{second}.weight")
            out = before.abs().flatten(1).amax(1)
            into = after.abs().transpose(0, 1).flatten(1).amax(1)
            used = (out > 0) & (into > 0)
            factor = torch.where(used, (out / torch.where(used, into, 1.0)).sqrt(), 1.0)
            furthest = max(furthest, float((factor - 1).abs().max()))
            new.put(f"{first}.weight", before / factor.reshape(-1, *[1] * (before.dim() - 1)))
            if f"{first}.bias" in new:
                new.put(f"{first}.bias", new.get(f"{first}.bias") / factor)
            new.put(f"{second}.weight", after * factor.reshape(1, -1, *[1] * (after.dim() - 2)))
        if furthest < ENOUGH:
            break
    new.apply()
    return Rewrite(tuple((f"scale of {first}", second) for first, second in pairs), tuple(left))


def _pairs(model: nn.Module, new: NewParameters) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(first, second) names of layers between which a factor can move, and reasons for the others."""
    try:
        steps = network_steps(model)
    except ValueError as error:
        return [], [("the whole model", str(error))]
    readers: dict[str, list[str]] = {}
    for step in steps:
        for read in step.reads:
            readers.setdefault(read, []).append(step.name)
    of = {step.name: step for step in steps}
    pairs, left = [], []
    for step in steps:
        after = [of[name] for name in readers.get(step.name, [])]
        if not step.module or not after:
            continue
        if step.norm and not _is_identity(model.get_submodule(step.norm)):
            left.append((f"scale of {step.module}", f"{step.norm} follows it; fold batch norms first"))
        elif len(after) > 1 or not after[0].module:
            left.append((f"scale of {step.module}", f"it is read by {', '.join(one.name for one in after)}"))
        elif not step.relu:
            left.append((f"scale of {step.module}", "no ReLU follows it"))
        elif f"{step.module}.weight" in new and f"{after[0].module}.weight" in new:
            pairs.append((step.module, after[0].module))
    return pairs, left


def _is_identity(norm: nn.Module) -> bool:
    """Whether a folded norm neither scales nor shifts: a shift would have to be scaled with the layer."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return False
    unit = torch.allclose(norm.running_var + norm.eps, torch.ones_like(norm.running_var), atol=1e-6)
    gain = norm.weight is None or bool((norm.weight == 1).all())
    shift = norm.bias is None or bool((norm.bias == 0).all())
    return unit and gain and shift and not bool(norm.running_mean.any())
