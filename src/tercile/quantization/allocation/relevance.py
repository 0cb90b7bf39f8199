"""Layer-wise relevance propagation through a vision transformer: how much each layer has a hand in the answer.

The answer's relevance is handed back from layer to layer, each dividing what it gets among its inputs by what they
contributed, so that none is lost on the way (Bach et al. 2015). Ranjan and Savakis (2024), "LRP-QViT: Mixed-Precision
Vision Transformer Quantization via Layer-wise Relevance Propagation", arXiv:2401.11243, give layers bits by it.

Of that paper only summaries could be read. The rules here are ours where the operation is not a layer: a linear layer
divides by its positive contributions (as Chefer, Gur and Wolf 2021 do), a sum by the magnitudes of its two terms, a
product of two matrices gives half to either factor by the magnitudes of the products, and norms, softmax and GELU pass
relevance on element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tercile.quantization.allocation.sensitivity import SensitivityTable

if TYPE_CHECKING:
    import torch

_TINY = 1e-12


@dataclass(frozen=True)
class Relevance:
    """What came back.

    Attributes
    ----------
    scores
        By layer name: share of all layers' relevance at their outputs; together 1.
    levels
        Total relevance, as a fraction of the answer's, before each block from the last to the first, and at the
        embeddings: 1 everywhere where nothing is lost.
    """

    scores: Mapping[str, float]
    levels: tuple[float, ...]


def vit_relevance(model: torch.nn.Module, pictures: torch.Tensor, classes: torch.Tensor | None = None) -> Relevance:
    """Relevance of every layer of a ViT classifier of Transformers for its own answers.

    Parameters
    ----------
    model
        A `ViTForImageClassification` with eager attention or any other; it is run block by block, by hand.
    pictures
        (n, channels, height, width).
    classes
        Which class's logit is explained, (n,); by default the likeliest.

    Raises
    ------
    ValueError
        If the model is no ViT classifier, or pictures are empty.

    Notes
    -----
    Costs about three runs of the model.
    """
    import torch

    if not len(pictures):
        raise ValueError("pictures is empty; give at least one")
    if not hasattr(model, "vit") or not isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        raise ValueError(f"model must be a ViT classifier of Transformers, got {type(model).__name__}")
    backbone: Any = model.vit
    blocks, config = backbone.layers, backbone.config
    with torch.no_grad():
        x = backbone.embeddings(pictures)
        trail = []
        for block in blocks:
            record = _forward(block, x, config.num_attention_heads)
            trail.append(record)
            x = record["out"]
        pooled = backbone.layernorm(x)
        head: Any = model.classifier
        logits = head(pooled[:, 0])
        wanted = logits.argmax(1) if classes is None else classes
        answer = torch.zeros_like(logits).scatter_(1, wanted[:, None], 1.0)
        felt = {"classifier": float(answer.abs().sum())}
        back = torch.zeros_like(pooled)
        back[:, 0] = through_linear(pooled[:, 0], head.weight, answer)
        whole = float(answer.sum())
        levels = [float(back.sum()) / whole]
        for index in range(len(blocks) - 1, -1, -1):
            back = _backward(f"vit.layers.{index}", blocks[index], trail[index], back, felt)
            levels.append(float(back.sum()) / whole)
        # The patch embedding gives out every token but the first.
        felt["vit.embeddings.patch_embeddings.projection"] = float(back[:, 1:].abs().sum())
    total = sum(felt.values())
    return Relevance({name: value / total for name, value in felt.items()}, tuple(levels))


def through_linear(x: torch.Tensor, weight: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Relevance of a linear layer's inputs: that of each output, divided by the positive contributions to it.

    Where an output has no positive contribution its relevance goes by the magnitudes of all.

    Examples
    --------
    >>> import torch
    >>> x, w = torch.tensor([[1.0, 2.0, 1.0]]), torch.tensor([[3.0, 0.5, -9.0]])
    >>> through_linear(x, w, torch.tensor([[8.0]])).tolist()
    [[6.0, 2.0, 0.0]]
    """
    above, below = x.clamp(min=0), x.clamp(max=0)
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    positive = above @ plus.T + below @ minus.T
    size, magnitude = x.abs(), weight.abs()
    some = positive > _TINY
    share = relevance * some / positive.clamp(min=_TINY)
    rest = relevance * ~some / (size @ magnitude.T).clamp(min=_TINY)
    return above * (share @ plus) + below * (share @ minus) + size * (rest @ magnitude)


def through_sum(a: torch.Tensor, b: torch.Tensor, relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance of two terms, by their magnitudes.

    Examples
    --------
    >>> import torch
    >>> [one.tolist() for one in through_sum(torch.tensor([1.0]), torch.tensor([-3.0]), torch.tensor([8.0]))]
    [[2.0], [6.0]]
    """
    whole = a.abs() + b.abs()
    first = relevance * (a.abs() / whole.clamp(min=_TINY)).where(whole > _TINY, a.new_tensor(0.5))
    return first, relevance - first


def through_product(a: torch.Tensor, b: torch.Tensor, relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance of two matrices, half for either, divided by the magnitudes of the products.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0], [-2.0]])
    >>> [one.tolist() for one in through_product(a, b, torch.tensor([[8.0]]))]
    [[[1.0, 3.0]], [[1.0], [3.0]]]
    """
    left, right = a.abs(), b.abs()
    share = 0.5 * relevance / (left @ right).clamp(min=_TINY)
    return left * (share @ right.mT), right * (left.mT @ share)


def relevance_table(
    scores: Mapping[str, float], noise: Mapping[str, Mapping[str, float]], nbytes: Mapping[str, Mapping[str, int]]
) -> SensitivityTable:
    """The table of score times relative noise, from which `allocate` chooses bits.

    Parameters
    ----------
    scores
        By layer.
    noise
        By layer and scheme: squared rounding error over squared values.
    nbytes
        By layer and scheme.

    Examples
    --------
    >>> relevance_table({"a": 0.5}, {"a": {"int4-channel": 0.02}}, {"a": {"int4-channel": 10}}).loss.tolist()
    [[0.01]]
    """
    schemes = tuple(dict.fromkeys(scheme for row in noise.values() for scheme in row))
    loss = np.full((len(noise), len(schemes)), np.inf)
    sizes = np.zeros(loss.shape, dtype=np.int64)
    for row, (layer, of_schemes) in enumerate(noise.items()):
        if layer not in scores:
            raise ValueError(f"scores has no layer {layer!r}; propagate relevance to every layer of noise")
        for scheme, value in of_schemes.items():
            loss[row, schemes.index(scheme)] = scores[layer] * value
            sizes[row, schemes.index(scheme)] = nbytes[layer][scheme]
    return SensitivityTable(tuple(noise), schemes, sizes, loss)


def _forward(block: Any, x: torch.Tensor, heads: int) -> dict[str, torch.Tensor]:
    """One block by hand, with everything that relevance is divided by on the way back."""
    import torch

    def split(value: torch.Tensor) -> torch.Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    normed = block.layernorm_before(x)
    attention = block.attention
    query, key, value = (split(getattr(attention, f"{one}_proj")(normed)) for one in "qkv")
    shares = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
    context = (shares @ value).transpose(1, 2).flatten(2)
    attended = attention.o_proj(context)
    middle = x + attended
    normed_again = block.layernorm_after(middle)
    inner = block.mlp.fc1(normed_again)
    activated = (
        block.mlp.activation_fn(inner) if hasattr(block.mlp, "activation_fn") else torch.nn.functional.gelu(inner)
    )
    fed = block.mlp.fc2(activated)
    return {
        "x": x, "normed": normed, "query": query, "key": key, "value": value, "shares": shares, "context": context,
        "attended": attended, "middle": middle, "normed_again": normed_again, "activated": activated, "fed": fed,
        "out": middle + fed,
    }  # fmt: skip


def _backward(
    name: str, block: Any, seen: Mapping[str, torch.Tensor], relevance: torch.Tensor, felt: dict[str, float]
) -> torch.Tensor:
    """Relevance of a block's inputs; notes what arrives at the output of each of its layers."""
    heads = seen["query"].shape[1]

    def note(layer: str, value: torch.Tensor) -> torch.Tensor:
        felt[f"{name}.{layer}"] = float(value.abs().sum())
        return value

    def split(value: torch.Tensor) -> torch.Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    def joined(value: torch.Tensor) -> torch.Tensor:
        return value.transpose(1, 2).flatten(2)

    to_middle, to_feed = through_sum(seen["middle"], seen["fed"], relevance)
    inner = through_linear(seen["activated"], block.mlp.fc2.weight, note("mlp.fc2", to_feed))
    to_middle = to_middle + through_linear(seen["normed_again"], block.mlp.fc1.weight, note("mlp.fc1", inner))
    to_x, to_attention = through_sum(seen["x"], seen["attended"], to_middle)
    attention = block.attention
    context = through_linear(seen["context"], attention.o_proj.weight, note("attention.o_proj", to_attention))
    to_shares, to_value = through_product(seen["shares"], seen["value"], split(context))
    to_query, to_key_t = through_product(seen["query"], seen["key"].mT, to_shares)
    for letter, value in (("q", to_query), ("k", to_key_t.mT), ("v", to_value)):
        layer = getattr(attention, f"{letter}_proj")
        to_x = to_x + through_linear(seen["normed"], layer.weight, note(f"attention.{letter}_proj", joined(value)))
    return to_x
