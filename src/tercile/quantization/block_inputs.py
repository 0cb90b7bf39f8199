"""Stops a model at its first block to see what it is called with, and lets blocks answer without working."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Batch = Any
Forward = Callable[[nn.Module, Batch], Any]


@dataclass
class BlockInputs:
    """Inputs of the next block for one batch: hidden states, on the CPU, and the other arguments."""

    hidden: torch.Tensor
    device: torch.device
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_tuple: bool = False


class _Stop(Exception):
    """The first block was reached."""


def inputs_of(model: nn.Module, name: str, forward: Forward, batch: Batch) -> BlockInputs:
    """What a block is called with, found by running the model until it is called."""
    captured: list[BlockInputs] = []

    def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Old keys and values serve generation only, and would grow with every block.
        rest = tuple(None if _is_cache(value) else value for value in args[1:])
        kwargs = {key: None if _is_cache(value) else value for key, value in kwargs.items()}
        if "use_cache" in kwargs:
            kwargs["use_cache"] = False
        hidden = args[0] if args else kwargs.pop("hidden_states")
        captured.append(BlockInputs(hidden.detach().cpu(), hidden.device, rest, kwargs))
        raise _Stop

    handle = model.get_submodule(name).register_forward_pre_hook(capture, with_kwargs=True)
    try:
        forward(model, batch)
    except _Stop:
        return captured[0]
    finally:
        handle.remove()
    raise ValueError(f"forward never called block {name}; it must run the model on the batch it is given")


def _is_cache(value: Any) -> bool:
    return hasattr(value, "get_seq_length")


@contextmanager
def answering(modules: Sequence[nn.Module], answer: Any) -> Iterator[None]:
    """Has modules give out an answer without working, and afterwards work as they did."""
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = lambda *args, **kwargs: answer
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:  # somebody had put another one there before
                module.forward = forward


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and afterwards every module as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
