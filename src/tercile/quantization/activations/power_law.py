"""Fits grids to the outputs of softmax and GELU: values that are mostly tiny, of which the few large ones decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from tercile.quantization.activations.attach import Quantizer, attached
from tercile.quantization.activations.quantizers import Static
from tercile.quantization.activations.rounding import stored
from tercile.quantization.block_inputs import Forward, quiet
from tercile.quantization.blocks import tensor
from tercile.quantization.families import Family
from tercile.quantization.grids import Grid, adaptive_logarithmic
from tercile.quantization.scales import NAMED
from tercile.quantization.scheme import Scheme

AnyQuantizer = TypeVar("AnyQuantizer", bound=Quantizer)

#: Smallest value of GELU: what is added before a logarithm is taken.
GELU_SHIFT = 0.17


def capture(
    model: nn.Module,
    family: Family,
    batches: Iterable[Any],
    names: Sequence[str],
    *,
    forward: Forward,
    quantizers: Mapping[str, Quantizer] | None = None,
) -> dict[str, torch.Tensor]:
    """Whole tensors that sites read, batches joined along the first axis. Give it few batches.

    Parameters
    ----------
    model, family, batches, forward
        As for `observe`.
    names
        Of sites.
    quantizers
        Attached meanwhile; what is captured is what comes before them.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> forward = lambda model, batch: model(batch)
    >>> capture(model, describe(model), [torch.ones(5, 3)], ["1"], forward=forward)["1"].shape
    torch.Size([5, 4])
    """
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    given = dict(quantizers or {})

    def keeping(name: str, then: Quantizer | None) -> Quantizer:
        def quantizer(x: torch.Tensor) -> torch.Tensor:
            kept[name].append(x.detach().float().clone())
            return x if then is None else then(x)

        return quantizer

    watched = {name: keeping(name, given.get(name)) for name in names}
    with quiet(model), attached(model, family, {**given, **watched}):
        for batch in batches:
            forward(model, batch)
    return {name: torch.cat(parts) for name, parts in kept.items() if parts}


def product_error(quantizer: Quantizer, left: torch.Tensor, right: torch.Tensor) -> float:
    """Mean squared change of the product left @ right when left is quantized.

    Examples
    --------
    >>> product_error(lambda x: x + 1, torch.zeros(2, 3), torch.ones(3, 1))
    9.0
    """
    return float(((quantizer(left) - left) @ right).square().mean())


def on_grid(grid: Grid, scale: float = 1.0, offset: float = 0.0) -> Static:
    """The quantizer that rounds to scale * level + offset.

    Examples
    --------
    >>> from tercile.quantization.grids import logarithmic
    >>> on_grid(logarithmic(2))(torch.tensor([0.3, 0.9])).tolist()
    [0.25, 1.0]
    """
    return Static(Scheme(grid, tensor(), NAMED["f32"]), torch.tensor([scale]), torch.tensor([offset]))


def best_of(quantizers: Iterable[AnyQuantizer], left: torch.Tensor, right: torch.Tensor) -> AnyQuantizer:
    """The quantizer of left that changes left @ right least."""
    return min(quantizers, key=lambda quantizer: product_error(quantizer, left, right))


def adaptive_probabilities(probabilities: torch.Tensor, value: torch.Tensor, bits: int) -> Static:
    """The adaptive logarithmic grid that changes attention's output least.

    Parameters
    ----------
    probabilities, value
        (batch, heads, queries, keys) and (batch, heads, keys, channels), as `capture` gives them.
    bits
        Of the codes.

    Source
    ------
    Wu, Chen, Zhong, Huang, Wang (2024), "AdaLog", arXiv:2407.12951.

    Examples
    --------
    >>> p, v = torch.randn(1, 1, 9, 9).mul(4).softmax(-1), torch.randn(1, 1, 9, 4)
    >>> fitted = adaptive_probabilities(p, v, 3)
    >>> product_error(fitted, p, v) <= product_error(on_grid(adaptive_logarithmic(3, 37)), p, v)
    True
    """

    def make(point: tuple[float, ...]) -> Static:
        return on_grid(adaptive_logarithmic(bits, max(1, round(point[0]))))

    bases = (5.0, 9.0, 13.0, 17.0, 21.0, 25.0, 29.0, 33.0, 37.0, 41.0, 45.0, 49.0, 53.0)
    best, _ = progressive_search(
        lambda point: product_error(make(point), probabilities, value), (bases,), keep=2, rounds=2
    )
    return make(best)


def adaptive_gelu(inputs: torch.Tensor, weight: torch.Tensor, bits: int) -> Static:
    """The same for the output of GELU, shifted up until it has no negative values.

    Parameters
    ----------
    inputs, weight
        What the layer after the GELU reads, (..., channels), and its weight (outputs, channels).
    bits
        Of the codes.

    Returns
    -------
    Static
        Its offset is minus the shift, a constant that the layer's bias takes: bias + weight.sum(1) * offset.
    """
    top = float(inputs.max()) + GELU_SHIFT

    def make(point: tuple[float, ...]) -> Static:
        return on_grid(adaptive_logarithmic(bits, max(1, round(point[0]))), point[1] * top, -GELU_SHIFT)

    bases, shares = (4.0, 7.0, 10.0, 14.0, 18.0, 24.0, 30.0, 37.0), (0.4, 0.55, 0.7, 0.85, 1.0)
    best, _ = progressive_search(lambda point: product_error(make(point), inputs, weight.T), (bases, shares))
    return make(best)


def fitted_input(inputs: torch.Tensor, weight: torch.Tensor, scheme: Scheme) -> Static:
    """One scale, and zero point, for what layers read, such that their outputs change least.

    Parameters
    ----------
    inputs, weight
        (..., channels) and (outputs, channels): of all layers that read it, one below the other.
    scheme
        An asymmetric integer scheme with one scale a tensor.

    Source
    ------
    Wu, Chen, Zhong, Huang, Wang (2024), "AdaLog", arXiv:2407.12951, searches scale and zero point so.

    Examples
    --------
    >>> x, w = torch.randn(50, 4), torch.randn(3, 4)
    >>> scheme = Scheme.parse("int3-tensor-asym-f32")
    >>> widest = Static(scheme, *stored(x.min()[None], x.max()[None], scheme))
    >>> product_error(fitted_input(x, w, scheme), x, w.T) <= product_error(widest, x, w.T)
    True
    """
    return fitted_product(inputs, weight.T, scheme)


def fitted_product(left: torch.Tensor, right: torch.Tensor, scheme: Scheme) -> Static:
    """One scale, and zero point, for left such that left @ right changes least; `fitted_input` for any product.

    Examples
    --------
    >>> query, key = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    >>> fitted_product(query, key.mT, Scheme.parse("int4-tensor-asym-f32")).scale.shape
    torch.Size([1])
    """
    if not scheme.asymmetric or scheme.blocks.spelling != "tensor":
        raise ValueError(f"scheme must be asymmetric with one scale a tensor, got {scheme}; write int4-tensor-asym-f32")
    low, high = left.min().clamp(max=0)[None], left.max().clamp(min=0)[None]

    def make(point: tuple[float, ...]) -> Static:
        return Static(scheme, *stored(low * point[0], high * point[1], scheme))

    shares = (0.4, 0.55, 0.7, 0.85, 1.0)
    best, _ = progressive_search(lambda point: product_error(make(point), left, right), (shares, shares))
    return make(best)


def progressive_search(
    loss: Callable[[tuple[float, ...]], float],
    axes: Sequence[Sequence[float]],
    *,
    keep: int = 4,
    rounds: int = 3,
) -> tuple[tuple[float, ...], float]:
    """Least loss over combinations of numbers: all coarse ones first, then finer ones around the best few.

    Parameters
    ----------
    loss
        Of one combination.
    axes
        Coarse candidates for each number, ascending.
    keep, rounds
        How many combinations are refined in a round, and how many rounds, each at half the spacing of the last.

    Returns
    -------
    The best combination and its loss. Costs the product of the axes' lengths and at most keep * 3^axes a round.

    Source
    ------
    Wu, Chen, Zhong, Huang, Wang (2024), "AdaLog", arXiv:2407.12951: fast progressive combining search.

    Examples
    --------
    >>> best, _ = progressive_search(lambda p: (p[0] - 1.3) ** 2 + (p[1] - p[0]) ** 2, ([0, 2, 4], [0, 2, 4]), rounds=6)
    >>> [round(value, 1) for value in best]
    [1.3, 1.3]
    """
    if not axes or any(len(axis) < 1 for axis in axes):
        raise ValueError("axes must hold one or more candidates for each number")
    gaps = [(max(axis) - min(axis)) / max(len(axis) - 1, 1) for axis in axes]
    found: dict[tuple[float, ...], float] = {}

    def try_all(points: Iterable[tuple[float, ...]]) -> None:
        for point in points:
            if point not in found:
                found[point] = loss(point)

    try_all(_grid(axes))
    for _ in range(rounds):
        gaps = [gap / 2 for gap in gaps]
        best = sorted(found, key=found.__getitem__)[:keep]
        for point in best:
            steps = [(at - gap, at, at + gap) if gap else (at,) for at, gap in zip(point, gaps, strict=True)]
            inside = [
                [step for step in around if min(axis) <= step <= max(axis)]
                for around, axis in zip(steps, axes, strict=True)
            ]
            try_all(_grid(inside))
    least = min(found, key=found.__getitem__)
    if not math.isfinite(found[least]):
        raise ValueError("loss is NaN or infinite everywhere that was tried")
    return least, found[least]


def _grid(axes: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    points: list[tuple[float, ...]] = [()]
    for axis in axes:
        points = [(*point, float(value)) for point in points for value in axis]
    return points
