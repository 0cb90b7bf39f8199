"""What a transform did, and how: all new parameters are worked out and checked before one is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from tercile.quantization.families import Family


@dataclass(frozen=True)
class Rewrite:
    """What a transform did to a model. Nothing is left to do at run time: all of it is in the weights.

    Attributes
    ----------
    merged
        (what, where): what was taken out of which module, and the layers it went into.
    left
        (what, reason): what could have been merged but was not.
    divided
        By layer name, what each column of its inputs is divided by now, float64 (columns,).
        `Statistics.scaled` of its inverse brings Statistics up to date.
    shifted
        By layer name, what is taken off each column after the division; empty where only factors moved.
    """

    merged: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...] = ()
    divided: Mapping[str, np.ndarray] = field(default_factory=dict)
    shifted: Mapping[str, np.ndarray] = field(default_factory=dict)


class NewParameters:
    """New values of some parameters and buffers of a model, by name.

    They are worked out in float64, kept in the type of the model, and set by `apply` only. Holds a copy of
    what it changes.
    """

    def __init__(self, model: nn.Module, family: Family) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(family, Family):
            raise TypeError(f"family must be a Family, got {type(family).__name__}; call describe(model)")
        self._tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers()),
        }
        for layer in family.layers:
            found = self._tensors.get(layer.parameter)
            if found is None or tuple(found.shape) != layer.shape:
                shape = "missing" if found is None else str(tuple(found.shape))
                raise ValueError(
                    f"family is of another model: {layer.parameter} should be {layer.shape}, it is {shape}"
                )
        self._new: dict[str, torch.Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> torch.Tensor:
        """The value that a parameter will have, float64."""
        return self._new.get(name, self._tensors[name]).detach().to(torch.float64)

    def put(self, name: str, value: torch.Tensor) -> None:
        """Sets the value that a parameter will have.

        Raises
        ------
        ValueError
            If it holds NaN or infinity, or overflows the parameter's type.
        """
        old = self._tensors[name]
        new = value.to(old.dtype)
        if not torch.isfinite(new).all():
            raise ValueError(f"{name} would hold NaN or infinity in {old.dtype}; use a wider type or finite weights")
        self._new[name] = new

    def apply(self) -> None:
        """Changes the model."""
        with torch.no_grad():
            for name, value in self._new.items():
                self._tensors[name].copy_(value)


def is_constant(tensor: torch.Tensor, value: float) -> bool:
    """Whether every element is that value, exactly."""
    return bool((tensor == value).all())
