"""Folds the gain and bias of a norm into the layers that read it, after which the norm only normalises.

    W (g * x + b) + c  =  (W diag(g)) x + (c + W b)

Rotations and scale smoothing get simpler behind such a norm, and all its readers see inputs of one scale.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tercile.quantization.families import Family
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite, is_constant


def fold_norms(model: nn.Module, family: Family) -> Rewrite:
    """Moves gains and biases of norms into their readers, where nothing else reads them.

    Parameters
    ----------
    model, family
        The model, changed in place, and what `describe` says of it. A folded gain is ones and a folded bias
        zeros.

    Returns
    -------
    Rewrite
        What was merged. A norm with a bias whose readers have none is left. Post-norm blocks, as in BERT,
        offer nothing: their norms feed the residual too.

    Raises
    ------
    TypeError, ValueError
        If family is of another model, or a product is not finite in the model's type; nothing is changed
        then.

    Notes
    -----
    Costs one pass over the readers' weights, and a copy of them while it runs.

    Examples
    --------
    >>> import torch
    >>> from tercile.quantization.families import Block, Scaling, describe
    >>> from dataclasses import replace
    >>> model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))
    >>> with torch.no_grad(): _ = model[0].weight.uniform_(1, 2)
    >>> family = replace(describe(model), scalings=(Scaling("0", ("1",), "norm"),))
    >>> before = model(torch.eye(3))
    >>> fold_norms(model, family).merged
    (('gain of 0', '1'),)
    >>> model[0].weight.tolist(), torch.allclose(model(torch.eye(3)), before, atol=1e-6)
    ([1.0, 1.0, 1.0], True)
    """
    new = NewParameters(model, family)
    merged, left = [], []
    for scaling in family.all_scalings:
        if scaling.kind != "norm":
            continue
        said, why_not = fold_norm(new, scaling.producer, scaling.readers)
        if why_not:
            left.append((said, why_not))
        elif said:
            merged.append((said, ", ".join(scaling.readers)))
    new.apply()
    return Rewrite(tuple(merged), tuple(left))


def fold_norm(new: NewParameters, norm: str, readers: Sequence[str]) -> tuple[str, str]:
    """Folds one norm's gain and bias into its readers.

    Returns
    -------
    What there was to fold, empty if nothing, and why it was not done, empty if it was.
    """
    gain_name, bias_name = f"{norm}.weight", f"{norm}.bias"
    gain = new.get(gain_name)
    bias = new.get(bias_name) if bias_name in new else None
    if bias is not None and is_constant(bias, 0):
        bias = None
    if is_constant(gain, 1) and bias is None:
        return "", ""
    if bias is not None:
        without = [reader for reader in readers if f"{reader}.bias" not in new]
        if without:
            return f"gain and bias of {norm}", f"{', '.join(without)} has no bias to take it"
    for reader in readers:
        weight = new.get(f"{reader}.weight")
        if bias is not None:
            new.put(f"{reader}.bias", new.get(f"{reader}.bias") + weight @ bias)
        new.put(f"{reader}.weight", weight * gain)
    new.put(gain_name, gain.new_ones(gain.shape))
    if bias is not None:
        new.put(bias_name, bias.new_zeros(bias.shape))
    return ("gain" if bias is None else "gain and bias") + f" of {norm}", ""
