"""Folds batch norms, a fixed scale and shift a channel once training is over, into the convolutions before.

    g (w * x + c - m) / s + b  =  (g / s w) * x + (g / s (c - m) + b)        s = sqrt(variance + eps)

The shift goes into the convolution's bias. One without a bias stays without, so that the state dict keeps its
keys and the weights load into the class they came from: the shift then stays in the norm, which scales by 1.
"""

from __future__ import annotations

import torch
from torch import nn

from tercile.quantization.families import Family
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite, is_constant


def fold_batch_norms(model: nn.Module, family: Family) -> Rewrite:
    """Moves the scales of batch norms into the convolutions before them, and the shifts where they can go.

    Parameters
    ----------
    model, family
        The model, changed in place, and what `describe` says of it. The gain of a folded norm is ones, its
        mean zeros and its variance 1 - eps.

    Raises
    ------
    TypeError, ValueError
        If family is of another model, a folded norm is in training mode, or a product is not finite in the
        model's type; nothing is changed then.

    Notes
    -----
    Costs one pass over the convolutions' weights, and a copy of them while it runs. Weights are then of the
    scale that quantization has to keep: without folding, a channel with a large gain is rounded as coarsely
    as others.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    >>> with torch.no_grad(): _ = model[1].weight.fill_(2.0), model[1].running_var.fill_(0.25)
    >>> x = torch.randn(1, 1, 5, 5)
    >>> before = model(x)
    >>> fold_batch_norms(model, describe(model)).merged
    (('scale and shift of 1', '0'),)
    >>> torch.allclose(model(x), before, atol=1e-5), model[1].weight.tolist()
    (True, [1.0, 1.0])
    """
    new = NewParameters(model, family)
    merged, left = [], []
    for convolution, norm in family.batch_norms:
        module = model.get_submodule(norm)
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        if module.running_mean is None or module.running_var is None:
            left.append((f"scale of {norm}", "it normalises by each batch, having no running statistics"))
            continue
        if module.training:
            raise ValueError(f"batch norm {norm} is in training mode, its scale changes; call model.eval() first")
        mean, variance = new.get(f"{norm}.running_mean"), new.get(f"{norm}.running_var")
        affine = f"{norm}.weight" in new
        gain = new.get(f"{norm}.weight") if affine else torch.ones_like(mean)
        shift = new.get(f"{norm}.bias") if affine else torch.zeros_like(mean)
        biased = f"{convolution}.bias" in new
        # What float32 keeps of 1 - eps is what a folded norm holds.
        unit = torch.full_like(mean, 1 - module.eps).to(module.running_var.dtype).to(torch.float64)
        done = is_constant(gain, 1) and torch.equal(variance, unit) and (is_constant(mean, 0) or not affine)
        if done and (not biased or (is_constant(shift, 0) and is_constant(mean, 0))):
            continue
        scale = gain / torch.sqrt(variance + module.eps)
        weight = new.get(f"{convolution}.weight")
        new.put(f"{convolution}.weight", weight * scale.reshape(-1, *[1] * (weight.dim() - 1)))
        moved = shift - scale * mean
        new.put(f"{norm}.running_var", unit)
        if biased:
            new.put(f"{convolution}.bias", scale * new.get(f"{convolution}.bias") + moved)
            moved = torch.zeros_like(moved)
        new.put(f"{norm}.running_mean", torch.zeros_like(mean) if affine else -moved)
        if affine:
            new.put(f"{norm}.weight", torch.ones_like(gain))
            new.put(f"{norm}.bias", moved)
        merged.append((f"{'scale and shift' if biased else 'scale'} of {norm}", convolution))
    new.apply()
    return Rewrite(tuple(merged), tuple(left))
