"""Curvature of the loss, layer by layer: average Hessian traces by Hutchinson's estimator, for weights and inputs.

Dong, Yao, Cai, Arfeen, Gholami, Mahoney and Keutzer (2019), "HAWQ-V2: Hessian Aware trace-Weighted Quantization of
Neural Networks", arXiv:1911.03852. Near a minimum, storing W as Q changes the loss by 1/2 d'Hd with d = vec(Q - W); if
d does not lean towards some of the Hessian's directions, that is 1/2 * mean eigenvalue * |d|^2. So a layer's
sensitivity is its average trace times its squared rounding error, and sums of it over layers rank bit settings.

Nothing is ever as large as a Hessian: for v of random signs, E[v'Hv] = tr H, and Hv is the gradient of g'v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tercile.quantization.allocation.sensitivity import SensitivityTable

if TYPE_CHECKING:
    import torch

#: Loss of one batch, computed anew at each call, with a graph to the tensors in question.
Loss = Callable[[], "torch.Tensor"]


@dataclass(frozen=True)
class Trace:
    """An estimated trace of one diagonal block of a Hessian.

    Attributes
    ----------
    value, error
        The estimate, and the standard error of it over probes.
    size
        Rows of the block.
    """

    value: float
    error: float
    size: int

    @property
    def mean(self) -> float:
        """Average eigenvalue of the block."""
        return self.value / self.size

    @property
    def cautious_mean(self) -> float:
        """Average eigenvalue, at least its own standard error: a trace lost in noise is not a trace of zero."""
        return max(self.value, self.error) / self.size


def weight_traces(
    losses: Sequence[Loss], tensors: Mapping[str, torch.Tensor], *, probes: int = 32, seed: int = 0
) -> dict[str, Trace]:
    """Traces of the blocks of the Hessian of the mean loss that belong to some parameters.

    Parameters
    ----------
    losses
        One a batch; their mean is what is differentiated twice.
    tensors
        Parameters by name; those that need no gradient are given one meanwhile.
    probes, seed
        Random sign vectors a batch, and which. All blocks share a probe, so that one costs as much as two gradients
        however many layers there are; that is unbiased, since signs of different blocks are independent.

    Raises
    ------
    ValueError
        If losses or tensors are empty, probes is below 2, or a loss does not depend on a tensor or is not finite.

    Notes
    -----
    Costs (1 + 2 probes) gradients a batch. Attention needs an implementation that can be differentiated twice:
    `attn_implementation="eager"`.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> weight_traces([lambda: (3 * w**2).sum()], {"w": w})["w"].value
    12.0
    """
    import torch

    _check(losses, tensors, probes)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {name: [] for name in tensors}
    with _gradients(tensors.values()):
        for loss in losses:
            gradients = _gradient(loss(), tensors)
            for _ in range(probes):
                for name, value in _probe(gradients, tensors, generator).items():
                    found[name].append(value)
    return {name: _trace(values, len(losses), tensors[name].numel()) for name, values in found.items()}


def input_traces(
    model: torch.nn.Module, layers: Sequence[str], losses: Sequence[Loss], *, probes: int = 32, seed: int = 0
) -> dict[str, Trace]:
    """Traces of the Hessian of the loss with respect to what each layer reads.

    Parameters
    ----------
    model, layers
        The model that the losses run, and names of its layers.
    losses
        One a batch: the *sum* of the losses of its examples, each a function of that example alone. Then the Hessian
        falls into a block an example, and the trace of all is the sum over examples.
    probes, seed
        As for `weight_traces`.

    Returns
    -------
    dict of Trace
        `value` is the sum over all examples, `size` the number of all examples' inputs together.

    Raises
    ------
    ValueError
        As for `weight_traces`, and if a layer is not run exactly once by a loss.

    Examples
    --------
    >>> import torch
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False)), torch.ones(3, 2)
    >>> with torch.no_grad(): _ = model[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
    >>> found = input_traces(model, ["0"], [lambda: model(x).square().sum()])["0"]
    >>> abs(found.value - 3 * 2 * (1 + 4)) < 4 * found.error + 1e-6, found.size
    (True, 6)
    """
    import torch

    _check(losses, dict.fromkeys(layers), probes)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {name: [] for name in layers}
    sizes = dict.fromkeys(layers, 0)
    for loss in losses:
        with _inputs(model, layers) as read:
            value = loss()
        once = [name for name in layers if len(read[name]) != 1]
        if once:
            raise ValueError(f"layer {once[0]!r} must run once a loss, it ran {len(read[once[0]])} times; leave it out")
        tensors = {name: tensor for name, (tensor,) in read.items()}
        gradients = _gradient(value, tensors)
        for _ in range(probes):
            for name, probed in _probe(gradients, tensors, generator).items():
                found[name].append(probed)
        for name, tensor in tensors.items():
            sizes[name] += tensor.numel()
    traces = {}
    for name, values in found.items():
        one = _trace(values, len(losses), sizes[name])
        traces[name] = Trace(one.value * len(losses), one.error * len(losses), one.size)
    return traces


def top_eigenvalues(
    losses: Sequence[Loss], tensors: Mapping[str, torch.Tensor], *, steps: int = 20, seed: int = 0
) -> dict[str, float]:
    """Magnitude of the largest eigenvalue of each parameter's own block of the Hessian of the mean loss.

    Power iteration on every block by itself: what the first HAWQ ranked layers by, and what traces are compared with.

    Parameters
    ----------
    losses, tensors
        As for `weight_traces`.
    steps, seed
        Products with the block, and the start.

    Notes
    -----
    Costs 2 steps gradients a batch *for each tensor*: far more than traces of all of them.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> top = top_eigenvalues([lambda: 3 * w[0] ** 2 + w[1] ** 2], {"w": w}, steps=40)["w"]
    >>> abs(top - 6) < 1e-3
    True
    """
    import torch

    _check(losses, tensors, 2)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    with _gradients(tensors.values()):
        graphs = [_gradient(loss(), tensors) for loss in losses]
        for name, tensor in tensors.items():
            vector = torch.randn(tensor.shape, generator=generator).to(tensor)
            value = 0.0
            for _ in range(steps):
                vector = vector / vector.norm().clamp(min=1e-30)
                product = torch.zeros_like(tensor)
                for gradients in graphs:
                    product += _product(gradients[name], tensor, vector) / len(graphs)
                value = float(product.norm())  # also where two eigenvalues differ in sign only
                vector = product
            found[name] = value
    return found


def curvature_table(
    curvature: Mapping[str, float],
    changes: Mapping[str, Mapping[str, float]],
    nbytes: Mapping[str, Mapping[str, int]],
) -> SensitivityTable:
    """The table of `1/2 * curvature * squared change`, from which `allocate` and `pareto_ladder` choose bits.

    Parameters
    ----------
    curvature
        By layer; negative values, which noise or a saddle gives, count as 0.
    changes
        By layer and scheme, the squared rounding error |Q(W) - W|^2, or that of the layer's inputs.
    nbytes
        By layer and scheme; where something else than bytes is limited (bits of all inputs of an example, say), that.

    Examples
    --------
    >>> curvature_table({"a": 2.0}, {"a": {"int4-g64": 0.5}}, {"a": {"int4-g64": 34}}).loss.tolist()
    [[0.5]]
    """
    schemes = tuple(dict.fromkeys(scheme for row in changes.values() for scheme in row))
    loss = np.full((len(changes), len(schemes)), np.inf)
    sizes = np.zeros(loss.shape, dtype=np.int64)
    for row, (layer, of_schemes) in enumerate(changes.items()):
        if layer not in curvature:
            raise ValueError(f"curvature has no layer {layer!r}; estimate it for every layer of changes")
        for scheme, change in of_schemes.items():
            column = schemes.index(scheme)
            loss[row, column] = 0.5 * max(curvature[layer], 0.0) * change
            sizes[row, column] = nbytes[layer][scheme]
    return SensitivityTable(tuple(changes), schemes, sizes, loss)


def _check(losses: Sequence[Loss], tensors: Mapping[str, Any], probes: int) -> None:
    if not losses or not tensors:
        raise ValueError("losses and tensors must hold one or more each; there is nothing to differentiate")
    if probes < 2:
        raise ValueError(f"probes must be at least 2, so that there is a spread to tell the error by, got {probes}")


def _gradient(
    loss: torch.Tensor, tensors: Mapping[str, torch.Tensor], *, create_graph: bool = True
) -> dict[str, torch.Tensor]:
    import torch

    if not bool(torch.isfinite(loss).all()):
        raise ValueError(f"loss is {float(loss)}; it must be finite")
    found = torch.autograd.grad(loss, list(tensors.values()), create_graph=create_graph, allow_unused=True)
    unused = [name for name, gradient in zip(tensors, found, strict=True) if gradient is None]
    if unused:
        raise ValueError(f"the loss does not depend on {unused[0]!r}; leave it out")
    return dict(zip(tensors, found, strict=True))


def _probe(
    gradients: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], generator: torch.Generator
) -> dict[str, float]:
    """v'Hv of each block, for one vector of random signs over all of them."""
    import torch

    signs = {
        name: (2 * torch.randint(0, 2, tensor.shape, generator=generator) - 1).to(tensor)
        for name, tensor in tensors.items()
    }
    linear = [name for name in tensors if gradients[name].requires_grad]  # where the loss is linear, H is 0
    if not linear:
        return dict.fromkeys(tensors, 0.0)
    products = torch.autograd.grad(
        [gradients[name] for name in linear],
        list(tensors.values()),
        [signs[name] for name in linear],
        retain_graph=True,
        allow_unused=True,
    )
    return {
        name: 0.0 if product is None else float((signs[name] * product).sum(dtype=torch.float64))
        for name, product in zip(tensors, products, strict=True)
    }


def _product(gradient: torch.Tensor, tensor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    import torch

    if not gradient.requires_grad:
        return torch.zeros_like(tensor)
    (product,) = torch.autograd.grad(gradient, tensor, vector, retain_graph=True, allow_unused=True)
    return torch.zeros_like(tensor) if product is None else product


def _trace(values: Sequence[float], batches: int, size: int) -> Trace:
    array = np.asarray(values).reshape(batches, -1)
    probes = array.shape[1]
    error = float(np.sqrt((array.var(axis=1, ddof=1) / probes).sum()) / batches)
    return Trace(float(array.mean()), error, size)


@contextmanager
def _gradients(tensors: Any) -> Iterator[None]:
    import torch

    kept = [(tensor, tensor.requires_grad) for tensor in tensors]
    for tensor, needed in kept:
        if not needed:
            tensor.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for tensor, needed in kept:
            if not needed:
                tensor.requires_grad_(False)


@contextmanager
def _inputs(model: torch.nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What each layer reads while the context lasts, each a tensor of its own that the loss depends on."""
    import torch

    read: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def keep(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        # A view of its own: layers that read the same tensor are told apart.
        x = x.view_as(x) if x.requires_grad else x.detach().clone().requires_grad_(True)
        read[name].append(x)
        return (x, *args[1:])

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda module, args, name=name: keep(name, args))
        for name in layers
    ]
    try:
        with torch.enable_grad():
            yield read
    finally:
        for handle in handles:
            handle.remove()
