"""Finds the layers of any torch module: what can be quantized, what shares a weight, what stays and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tercile.quantization.families.family import Kind, Layer

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Inventory:
    """Layers in the order of the model's modules, groups of tied names, (name, reason) of what is skipped."""

    layers: tuple[Layer, ...]
    tied: tuple[tuple[str, ...], ...]
    skipped: tuple[tuple[str, str], ...]

    def of(self, kind: Kind) -> tuple[Layer, ...]:
        """Layers of that kind."""
        return tuple(layer for layer in self.layers if layer.kind == kind)

    def under(self, prefix: str) -> tuple[Layer, ...]:
        """Layers in the module of that name, embeddings left out."""
        inside = (layer for layer in self.layers if layer.name.startswith(prefix + "."))
        return tuple(layer for layer in inside if layer.kind != "embedding")

    @property
    def shared(self) -> frozenset[str]:
        """Names of all modules that share their weight with another."""
        return frozenset(name for group in self.tied for name in group)


def inventory(model: nn.Module) -> Inventory:
    """Looks at every module once.

    Raises
    ------
    TypeError
        If model is no torch module.
    ValueError
        If nothing in it can be quantized.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; load it first")
    layers: list[Layer] = []
    skipped: list[tuple[str, str]] = []
    names_of: dict[int, list[str]] = {}
    closed: list[str] = []  # modules that use the weights of the modules inside without calling them
    for name, module in model.named_modules():
        if any(name.startswith(prefix + ".") or not prefix for prefix in closed):
            continue
        if isinstance(module, nn.MultiheadAttention):
            closed.append(name)
            skipped.append((name, "nn.MultiheadAttention multiplies by its weights without calling a layer"))
            continue
        kind = _kind(module)
        why_not = _why_not(module) if kind else None
        if kind and why_not is None:
            weight = module._parameters["weight"]
            if id(weight) not in names_of:
                layers.append(Layer(name, kind, tuple(weight.shape)))
            names_of.setdefault(id(weight), []).append(name)
        elif why_not is not None:
            skipped.append((name, why_not))
        else:
            skipped += _left(name, module)
    if not layers:
        reasons = "".join(f"; {name or 'the model itself'}: {reason}" for name, reason in skipped)
        raise ValueError(
            f"model ({type(model).__name__}) has no linear layer, convolution or embedding{reasons}"
        )
    tied = tuple(tuple(names) for names in names_of.values() if len(names) > 1)
    return Inventory(tuple(layers), tied, tuple(skipped))


def _kind(module: nn.Module) -> Kind | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, CONVOLUTIONS) and not module.transposed:
        return "convolution"
    return "embedding" if isinstance(module, nn.Embedding) else None


def _why_not(module: nn.Module) -> str | None:
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed from other parameters; remove the parametrization first"
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "its weight has no shape yet; run the model once first"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype} already"
    if weight.numel() == 0:
        return "its weight is empty"
    groups = getattr(module, "groups", 1)
    if groups > 1:
        return f"grouped convolution ({groups} groups): its filters do not read the same inputs"
    return None


def _left(name: str, module: nn.Module) -> list[tuple[str, str]]:
    """Matrices among the parameters that a module of no known kind holds itself.

    Vectors are not reported: gains, biases, class tokens stay as they are in every model.
    """
    matrices = [
        parameter_name
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if parameter.numel() > max(parameter.shape, default=1)
    ]
    if not matrices:
        return []
    kind = type(module).__name__
    if isinstance(module, nn.RNNBase):
        return [(name, f"recurrent layer ({kind}): its steps run inside one call, out of sight")]
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return [(name, f"transposed convolution ({kind}): its weight is not outputs x inputs")]
    prefix = f"{name}." if name else ""
    return [(prefix + each, f"parameter of a {kind}, which is no known layer") for each in matrices]


def has(module: nn.Module, *paths: str) -> bool:
    """Whether a module has all the submodules."""
    return all(_submodule(module, path) is not None for path in paths)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    for part in path.split("."):
        inner = module._modules.get(part)
        if inner is None:
            return None
        module = inner
    return module


def model_type(model: nn.Module) -> str:
    """What a Transformers model says it is; empty for others."""
    return str(getattr(getattr(model, "config", None), "model_type", "") or "")


def stack(model: nn.Module, *paths: str) -> tuple[str, ...]:
    """Names of the modules of the one nn.ModuleList whose members all have the submodules.

    Empty if there is none, or more than one: an encoder and a decoder are no sequence.
    """
    found = [
        tuple(f"{name}.{index}" if name else str(index) for index in range(len(module)))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and all(has(member, *paths) for member in module)
    ]
    return found[0] if len(found) == 1 else ()


def has_gain(module: nn.Module) -> bool:
    """Whether a norm has a gain that is a vector."""
    gain = module._parameters.get("weight")
    return isinstance(gain, torch.Tensor) and gain.dim() == 1
