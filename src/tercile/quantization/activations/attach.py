"""Puts functions in front of the places where activations are read, and takes them out again without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tercile.quantization.activations.attention import AttentionTap
from tercile.quantization.activations.sites import ATTENTION, Operand, sites
from tercile.quantization.families import Family

#: What happens to an activation: a function of the tensor that returns one of its shape.
Quantizer = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def attached(model: nn.Module, family: Family, quantizers: Mapping[str, Quantizer]) -> Iterator[nn.Module]:
    """Within the block, every named activation passes through its quantizer before it is multiplied.

    Parameters
    ----------
    model, family
        The model and what `describe` says of it.
    quantizers
        By `Site.name`; sites without one stay as they are. Any function of a tensor will do.

    Yields
    ------
    The model. Its parameters are not touched; when the block ends, however it ends, nothing is left behind.

    Raises
    ------
    ValueError
        If a name is none of the model's sites; nothing is attached then.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False)).requires_grad_(False)
    >>> with attached(model, describe(model), {"0": lambda x: x * 0}):
    ...     float(model(torch.ones(1, 2)))
    0.0
    """
    remove = attach(model, family, quantizers)
    try:
        yield model
    finally:
        remove()


def attach(model: nn.Module, family: Family, quantizers: Mapping[str, Quantizer]) -> Callable[[], None]:
    """As `attached`, for as long as wanted: returns the function that takes everything out again."""
    known = {site.name: site for site in sites(model, family)}
    unknown = [name for name in quantizers if name not in known]
    if unknown:
        near = ", ".join(list(known)[:3])
        raise ValueError(f"quantizers names {unknown[0]!r}, which is no site of the model; sites are {near}, ...")
    handles: list[Any] = []
    of_attention: dict[str, dict[Operand, Quantizer]] = {}
    for name, quantizer in quantizers.items():
        site = known[name]
        if site.operand == "input":
            layer = model.get_submodule(site.module)
            handles.append(layer.register_forward_pre_hook(_input_hook(quantizer), with_kwargs=True))
        else:
            of_attention.setdefault(site.module, {})[site.operand] = quantizer
    for module, operands in of_attention.items():
        handles += _tap(model.get_submodule(module), operands)

    def remove() -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    return remove


def _input_hook(quantizer: Quantizer) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (quantizer(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "input": quantizer(kwargs["input"])}

    return hook


def _tap(module: nn.Module, operands: Mapping[Operand, Quantizer]) -> list[Any]:
    """Hooks that enter an AttentionTap before the module runs and leave it after, even when it raises."""
    entered: list[AttentionTap] = []
    assert set(operands) <= set(ATTENTION)

    def through(operand: Operand, x: torch.Tensor) -> torch.Tensor:
        quantizer = operands.get(operand)
        return x if quantizer is None else quantizer(x)

    def enter(module: nn.Module, args: Any) -> None:
        entered.append(AttentionTap(through))
        entered[-1].__enter__()

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
