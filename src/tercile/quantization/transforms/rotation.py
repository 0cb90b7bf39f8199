"""Turns the residual stream of a pre-norm model into another basis, which changes nothing that the model gives.

What writes to the stream is multiplied by R, what reads it by R'. A norm without a gain commutes with R: RMSNorm with
any orthogonal one, LayerNorm with those that leave the vector of ones where it is. A good basis has no large channels,
so that a token's values, and the weights that read them, lose less when they are rounded. Nothing is left to do at run
time (Ashkboos et al. 2024, "SliceGPT", section 3; Liu et al. 2024, "SpinQuant", R1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tercile.quantization.families import Family, Stream
from tercile.quantization.hadamard import rotate
from tercile.quantization.transforms.norms import fold_norm
from tercile.quantization.transforms.rewrite import NewParameters, Rewrite

ORTHOGONAL_TO = 1e-4


def hadamard_rotation(width: int, *, centred: bool = False) -> np.ndarray:
    """An orthogonal matrix, float64 (width, width), that mixes all channels: x turned is R x.

    Parameters
    ----------
    width
        Channels.
    centred
        Whether it has to leave the vector of ones where it is, as the stream of a model with LayerNorm asks.

    Examples
    --------
    >>> r = hadamard_rotation(6, centred=True)
    >>> bool(np.allclose(r @ r.T, np.eye(6), atol=1e-6)), bool(np.allclose(r.sum(1), 1))
    (True, True)
    """
    if not centred:
        return rotate(np.eye(width, dtype=np.float32)).astype(np.float64).T
    return within(rotate(np.eye(width - 1, dtype=np.float32)).astype(np.float64).T)


def within(inner: np.ndarray) -> np.ndarray:
    """The rotation that turns what is orthogonal to the vector of ones by `inner`, (n - 1, n - 1), and only that."""
    basis = ones_complement(len(inner) + 1)
    return basis @ inner @ basis.T + 1 / (len(inner) + 1)


def ones_complement(n: int) -> np.ndarray:
    """Orthonormal columns, float64 (n, n - 1), orthogonal to the vector of ones: those of a Householder reflection."""
    axis = np.full(n, n**-0.5)
    axis[0] += 1
    axis /= np.linalg.norm(axis)
    return (np.eye(n) - 2 * np.outer(axis, axis))[:, 1:]


def rotate_stream(model: nn.Module, family: Family, rotation: np.ndarray) -> Rewrite:
    """Turns a model's residual stream.

    Parameters
    ----------
    model, family
        The model, changed in place, and what `describe` says of it. Gains and biases of the norms are folded into the
        layers that read them.
    rotation
        Orthogonal (width, width); with LayerNorm it has to leave the vector of ones where it is, see
        `hadamard_rotation`.

    Returns
    -------
    Rewrite
        What was merged.

    Raises
    ------
    ValueError
        If the family has no such stream (BERT's norms lie in the stream), if a layer that writes to it shares its
        weight with one that reads it (`untie` mends that), or if the rotation is not one, or of another width. Nothing
        is changed then.

    Notes
    -----
    Costs width operations for each weight that touches the stream, in float64.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> from tercile.zoo import find
    >>> from transformers import ViTForImageClassification
    >>> model = ViTForImageClassification.from_pretrained(find("digits-vit").source).eval()
    >>> x = torch.rand(2, 1, 28, 28)
    >>> with torch.no_grad(): before = model(x).logits
    >>> done = rotate_stream(model, describe(model), hadamard_rotation(128, centred=True))
    >>> with torch.no_grad(): torch.allclose(model(x).logits, before, atol=1e-3)
    True
    """
    new = NewParameters(model, family)
    stream = stream_of(family)
    turned = _checked(rotation, stream)
    merged = []
    for norm, readers in stream.norms:
        said, why_not = fold_norm(new, norm, readers)
        if why_not:
            raise ValueError(f"the stream can't be turned: {said} can't be folded, {why_not}")
        if said:
            merged.append((said, ", ".join(readers)))
        for reader in readers:
            new.put(f"{reader}.weight", new.get(f"{reader}.weight") @ turned.T)
            merged.append((f"rotation of {reader}", reader))
    kinds = {layer.name: layer.kind for layer in family.layers}
    for writer in stream.writers:
        weight = new.get(f"{writer}.weight")
        table = kinds[writer] == "embedding"
        new.put(f"{writer}.weight", weight @ turned.T if table else torch.tensordot(turned, weight, 1))
        if not table and f"{writer}.bias" in new:
            new.put(f"{writer}.bias", turned @ new.get(f"{writer}.bias"))
        merged.append((f"rotation of {writer}", writer))
    for name in stream.parameters:
        new.put(name, new.get(name) @ turned.T)
        module, _, parameter = name.rpartition(".")
        merged.append((f"rotation of {parameter} in {module}", module))
    new.apply()
    return Rewrite(tuple(merged))


def stream_of(family: Family) -> Stream:
    """A family's residual stream.

    Raises
    ------
    ValueError
        If it has none, or one of its writers shares its weight with a reader.
    """
    if family.stream is None:
        raise ValueError(
            f"a {family.name!r} model has no residual stream whose basis can change; Llama and ViT with a head have one"
        )
    touching = {*family.stream.writers, *(reader for _, readers in family.stream.norms for reader in readers)}
    for group in family.tied:
        if shared := touching & set(group):
            raise ValueError(f"{', '.join(sorted(shared))} shares its weight; call untie(model) and describe it again")
    return family.stream


def untie(model: nn.Module) -> tuple[str, ...]:
    """Gives each module that shares a weight with one before it a copy of its own, in place.

    Parameters
    ----------
    model
        Any module. A Transformers model is told, so that saving and loading keep both.

    Returns
    -------
    Names of the modules that have their own weight now.

    Examples
    --------
    >>> model = nn.ModuleDict({"table": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    >>> model["head"].weight = model["table"].weight
    >>> untie(model), model["head"].weight is model["table"].weight
    (('head',), False)
    """
    seen: set[int] = set()
    changed = []
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        if id(weight) in seen:
            module.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
            changed.append(name)
        seen.add(id(weight))
    config = getattr(model, "config", None)
    if changed and config is not None:
        config.tie_word_embeddings = False
    return tuple(changed)


def _checked(rotation: np.ndarray, stream: Stream) -> torch.Tensor:
    matrix = np.asarray(rotation, dtype=np.float64)
    if matrix.shape != (stream.width, stream.width):
        raise ValueError(f"rotation must be ({stream.width}, {stream.width}) as the stream is, got {matrix.shape}")
    if not np.abs(matrix @ matrix.T - np.eye(stream.width)).max() < ORTHOGONAL_TO:  # NaN fails too
        raise ValueError("rotation is not orthogonal: R R' is not the identity")
    if stream.centred and np.abs(matrix.sum(1) - 1).max() > ORTHOGONAL_TO * stream.width**0.5:
        raise ValueError("rotation moves the vector of ones, which LayerNorm takes off; build it with centred=True")
    return torch.from_numpy(matrix)
