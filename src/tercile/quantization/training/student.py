"""A copy of a model that runs on stored weights, with gradients to whatever of it may still change."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from tercile.quantization.families import Family
from tercile.quantization.grids import Grid
from tercile.quantization.qtensor import QTensor
from tercile.quantization.training.scaled_rows import ScaledRows
from tercile.quantization.training.stored_weight import FixedCodes, Rounding, StraightThrough


class Student:
    """A float32 copy of a model in evaluation mode whose layers read stored weights.

    Parameters
    ----------
    model, family
        The original, which is left alone, and what `describe` says of it.
    weights
        Stored weights by layer name; layers that are not named keep the original's.
    parameters
        Values that gains and biases start from, by parameter name, where they differ from the original's.
    rounding
        What may become of the codes of linear layers and convolutions; under trellis grids and rotations they stay.
    table_rounding
        The same for embedding tables. Rows that no batch reads would keep their codes whatever the rest becomes.

    Attributes
    ----------
    module
        The copy.
    stored
        What it runs on, by layer name.
    small
        Gains, biases and other vectors by parameter name; they stay as they are until something trains them.

    Raises
    ------
    ValueError
        If a name or shape does not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        weights: Mapping[str, QTensor],
        parameters: Mapping[str, np.ndarray] | None = None,
        *,
        rounding: Rounding = StraightThrough,
        table_rounding: Rounding = FixedCodes,
    ) -> None:
        layers = {layer.name: layer for layer in family.layers}
        for name, tensor in weights.items():
            if name not in layers:
                raise ValueError(f"weights names {name!r}, which is no layer of the model")
            if tuple(tensor.shape) != layers[name].shape:
                raise ValueError(f"{name} is stored as {tuple(tensor.shape)}, the model has {layers[name].shape}")
        self.module = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.small = {name: parameter for name, parameter in self.module.named_parameters() if 0 < parameter.dim() <= 1}
        for name, value in (parameters or {}).items():
            if name not in self.small or tuple(self.small[name].shape) != np.shape(value):
                raise ValueError(
                    f"parameters names {name!r} of shape {np.shape(value)}; no vector of the model is that"
                )
            self.small[name].data.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
        self._follow = {group[0]: group[1:] for group in family.tied}
        self.stored: dict[str, FixedCodes] = {}
        for name, tensor in weights.items():
            kind = table_rounding if layers[name].kind == "embedding" else rounding
            if tensor.scheme.turned or not isinstance(tensor.scheme.grid, Grid):
                kind = ScaledRows
            device = self.module.get_parameter(layers[name].parameter).device
            original = model.get_parameter(layers[name].parameter).detach().cpu().float().numpy()
            self.stored[name] = kind(tensor, original).to(device)
        for name in self.stored:
            for alias in (name, *self._follow.get(name, ())):
                # A plain attribute takes the place of the parameter, so that it can hold what was just decoded.
                self.module.get_submodule(alias)._parameters.pop("weight", None)
        with torch.no_grad():
            self.decode()

    def decode(self, names: Iterable[str] | None = None) -> None:
        """Puts the decoded weights in place, with gradients unless these are switched off."""
        for name in self.stored if names is None else names:
            decoded = self.stored[name]()
            for alias in (name, *self._follow.get(name, ())):
                self.module.get_submodule(alias).weight = decoded

    def tensors(self) -> dict[str, QTensor]:
        """What is stored now, by layer name."""
        return {name: stored.tensor() for name, stored in self.stored.items()}

    def vectors(self) -> dict[str, np.ndarray]:
        """Gains, biases and other vectors now, float32, by parameter name."""
        return {name: parameter.detach().cpu().numpy().copy() for name, parameter in self.small.items()}

    def to_arrays(
        self, stored: Iterable[str] | None = None, small: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Everything that may change, of some stored weights and vectors, as named arrays."""
        arrays = {}
        for name in self.stored if stored is None else stored:
            for part, value in self.stored[name].named_parameters():
                arrays[f"{name}:{part}"] = value.detach().cpu().numpy().copy()
        for name in self.small if small is None else small:
            arrays[f"vector:{name}"] = self.small[name].detach().cpu().numpy().copy()
        return arrays

    @torch.no_grad()
    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes back to what `to_arrays` gave."""
        for key, value in arrays.items():
            name, _, part = key.rpartition(":")
            here = self.small[part] if name == "vector" else getattr(self.stored[name], part)
            here.copy_(torch.from_numpy(np.array(value)))
        self.decode()

    @contextmanager
    def learning(self, stored: Iterable[str], small: Iterable[str]) -> Iterator[None]:
        """Lets gradients through to some of what is stored and some of the vectors, and to nothing else."""
        learnt = {*stored}
        for name, each in self.stored.items():
            each.requires_grad_(name in learnt)
            each.shift.requires_grad_(name in learnt and each.scheme.asymmetric)
        chosen = [self.small[name] for name in small]
        for parameter in chosen:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter in [*chosen, *(one for each in self.stored.values() for one in each.parameters())]:
                parameter.requires_grad_(False)
            with torch.no_grad():
                self.decode(learnt)
