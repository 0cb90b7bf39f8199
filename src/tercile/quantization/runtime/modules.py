"""Packed layers for torch models: inference on the stored codes, nothing decoded but a tile at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.quantization.qtensor import QTensor
from tercile.quantization.runtime.layout import why_no_kernel
from tercile.quantization.runtime.matrix import Activations, PackedMatrix


class _Packed(nn.Module):
    """What packed layers share: the matrix, and its arrays as the module's state.

    The arrays are written by `state_dict` under ``weight.codes``, ``weight.scale`` and so on, the names of the packed
    folder, without being copied; `load_state_dict` checks them and makes the matrix anew.
    """

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    @property
    def nbytes(self) -> int:
        """Bytes that the packed weight holds."""
        return self.matrix.nbytes

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, array in self.matrix.stored.to_arrays(f"{prefix}weight").items():
            destination[name] = _shared(array)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        stored = self.matrix.stored
        names = stored.to_arrays(f"{prefix}weight")
        arrays = {
            name: state_dict.pop(name).numpy().view(old.dtype) for name, old in names.items() if name in state_dict
        }
        q = QTensor.from_arrays(f"{prefix}weight", stored.scheme, stored.shape, arrays)
        self.matrix = self.matrix.with_stored(q)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class PackedLinear(_Packed):
    """A linear layer on a packed weight.

    Parameters
    ----------
    matrix
        (outputs, inputs).
    bias
        Float (outputs,), or None.

    Examples
    --------
    >>> from tercile.quantization import Scheme, ranges
    >>> scheme, layer = Scheme.parse("int8-channel"), nn.Linear(16, 4)
    >>> w = layer.weight.detach().numpy()
    >>> q = QTensor.quantize(w, scheme, ranges.min_max(w, scheme))
    >>> packed, x = PackedLinear(PackedMatrix.from_qtensor(q), layer.bias), torch.ones(3, 16)
    >>> bool(torch.allclose(packed(x), layer(x), atol=0.05))
    True
    """

    def __init__(self, matrix: PackedMatrix, bias: torch.Tensor | None = None) -> None:
        super().__init__(matrix)
        self.out_features, self.in_features = matrix.shape
        self.bias = _kept(bias, self.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs), in the type of x."""
        y = _product(self.matrix, x.reshape(-1, x.shape[-1]))
        if self.bias is not None:
            y += self.bias.to(y.dtype)
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.matrix.stored.scheme}, {self.matrix.activations}"


class PackedEmbedding(_Packed):
    """An embedding table that decodes the rows that are asked for.

    Parameters
    ----------
    matrix
        (entries, width).
    padding_idx
        Kept for what reads it; rows are looked up alike.
    """

    def __init__(self, matrix: PackedMatrix, padding_idx: int | None = None) -> None:
        super().__init__(matrix)
        self.num_embeddings, self.embedding_dim = matrix.shape
        self.padding_idx = padding_idx

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 (..., width) of whole numbers (...)."""
        rows = self.matrix.rows(ids.reshape(-1).numpy())
        return torch.from_numpy(rows).reshape(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.matrix.stored.scheme}"


class PackedConv2d(_Packed):
    """A convolution on a packed weight: the patches of the picture as rows, times the filters.

    Parameters
    ----------
    matrix
        One filter a row: (filters, channels / groups * height * width).
    like
        The convolution that it stands for.

    Raises
    ------
    ValueError
        If the convolution has groups, or pads with anything but zeros.
    """

    def __init__(self, matrix: PackedMatrix, like: nn.Conv2d) -> None:
        super().__init__(matrix)
        if reason := _cannot_convolve(like):
            raise ValueError(reason)
        self.in_channels, self.out_channels, self.kernel_size = like.in_channels, like.out_channels, like.kernel_size
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation
        self.bias = _kept(like.bias, self.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, height, width) to (n, filters, new height, new width), in the type of x."""
        batched = x if x.dim() == 4 else x[None]
        margins = [self._margin(axis) for axis in (1, 0)]
        padded = nn.functional.pad(batched.float(), [side for pair in margins for side in pair])
        height, width = (
            (padded.shape[2 + axis] - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        patches = nn.functional.unfold(padded, self.kernel_size, dilation=self.dilation, stride=self.stride)
        y = _product(self.matrix, patches.transpose(1, 2).reshape(-1, patches.shape[1]))
        if self.bias is not None:
            y += self.bias.to(y.dtype)
        y = y.reshape(len(batched), height, width, self.out_channels).permute(0, 3, 1, 2).to(x.dtype)
        return y if x.dim() == 4 else y[0]

    def _margin(self, axis: int) -> tuple[int, int]:
        """Zeros before and after, along the height (0) or the width (1)."""
        if isinstance(self.padding, str):
            whole = self.dilation[axis] * (self.kernel_size[axis] - 1) if self.padding == "same" else 0
            return whole // 2, whole - whole // 2
        return self.padding[axis], self.padding[axis]

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{shape}, {self.matrix.stored.scheme}, {self.matrix.activations}"


def use_packed(
    module: nn.Module, weights: Mapping[str, QTensor], activations: Activations = "float", *, unfold: bool = False
) -> nn.Module:
    """Replaces layers of a model, in place, by packed ones.

    Parameters
    ----------
    module
        The model. What it held of the replaced weights is let go.
    weights
        By name of the parameter (``encoder.layer.0.output.dense.weight``) or of its layer. Layers that share a weight
        share the packed one, whichever of them is named.
    activations
        How linear layers and convolutions treat what they read, see `PackedMatrix`.
    unfold
        Of ``int8``: as in `PackedMatrix.from_qtensor`, for weights that no embedding looks up.

    Returns
    -------
    The module itself; a packed layer if the module was a single layer.

    Raises
    ------
    ValueError
        If a name is not in the module, a shape differs, or a layer is of a kind that has no packed form. All such are
        named, and nothing was changed.

    Examples
    --------
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> from tercile.quantization import Scheme
    >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> weight = round_to_nearest(net[0].weight.detach().numpy(), None, Scheme.parse("int4-g8"))
    >>> use_packed(net, {"0.weight": weight})[0]
    PackedLinear(8, 8, int4-g8, float)
    """
    planned: list[tuple[nn.Module, Callable[[], nn.Module]]] = []
    refused: list[str] = []
    for name, q in weights.items():
        sharing, reason = _layers_of(module, name, q)
        if reason:
            refused.append(f"{name}: {reason}")
            continue
        looked_up = any(isinstance(layer, nn.Embedding) for layer in sharing)
        matrix = PackedMatrix.from_qtensor(q, activations, unfold=unfold and not looked_up)
        planned += [(layer, partial(_replacement, layer, matrix)) for layer in sharing]
    if refused:
        raise ValueError(f"{len(refused)} of {len(weights)} weights have no packed layer: " + "; ".join(refused))
    made = {layer: make() for layer, make in planned}
    for holder in list(module.modules()):
        for child, layer in list(holder.named_children()):
            if layer in made:
                setattr(holder, child, made[layer])
    return made.get(module, module)


def _layers_of(module: nn.Module, name: str, q: QTensor) -> tuple[list[nn.Module], str | None]:
    """The layers whose weight is the one of that name, and what stands against packing them."""
    modules = dict(module.named_modules(remove_duplicate=False))
    owner = name if name in modules and hasattr(modules[name], "weight") else name.rpartition(".")[0]
    leaf = "weight" if owner == name else name.rpartition(".")[2]
    parameter = getattr(modules.get(owner), leaf, None)
    if not isinstance(parameter, torch.Tensor):
        return [], "the module has no such weight"
    if tuple(parameter.shape) != tuple(q.shape):
        return [], f"the module's weight is {tuple(parameter.shape)}, the stored one {tuple(q.shape)}"
    if reason := why_no_kernel(q.scheme):
        return [], reason
    users = [m for m in dict.fromkeys(modules.values()) if any(p is parameter for p in m._parameters.values())]
    for layer in users:
        if reason := _no_form(layer, parameter):
            return [], reason
    return users, None


def _no_form(layer: nn.Module, parameter: torch.Tensor) -> str | None:
    """Why a layer can't be packed; None if it can."""
    if type(layer) not in _FORMS or layer._parameters.get("weight") is not parameter:
        kinds = ", ".join(kind.__name__ for kind in _FORMS)
        return f"{type(layer).__name__} has no packed form; there is one of {kinds}"
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None):
        return "an embedding that renormalises its rows changes its weight"
    return _cannot_convolve(layer) if isinstance(layer, nn.Conv2d) else None


def _cannot_convolve(layer: nn.Conv2d) -> str | None:
    if layer.groups != 1:
        return f"a convolution with {layer.groups} groups has no packed form; keep its weight as numbers"
    if layer.padding_mode != "zeros":
        return f"a convolution that pads with {layer.padding_mode!r} has no packed form; keep its weight as numbers"
    return None


def _replacement(layer: nn.Module, matrix: PackedMatrix) -> nn.Module:
    return _FORMS[type(layer)](layer, matrix).train(layer.training)


_FORMS: dict[type[nn.Module], Callable[[Any, PackedMatrix], nn.Module]] = {
    nn.Linear: lambda layer, matrix: PackedLinear(matrix, layer.bias),
    nn.modules.linear.NonDynamicallyQuantizableLinear: lambda layer, matrix: PackedLinear(matrix, layer.bias),
    nn.Embedding: lambda layer, matrix: PackedEmbedding(matrix, layer.padding_idx),
    nn.Conv2d: lambda layer, matrix: PackedConv2d(matrix, layer),
}


def _product(matrix: PackedMatrix, x: torch.Tensor) -> torch.Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("packed layers are for inference; call the model under torch.no_grad()")
    return torch.from_numpy(matrix.matmul(x.detach().to(torch.float32).contiguous().numpy()))


def _kept(bias: torch.Tensor | None, outputs: int) -> nn.Parameter | None:
    if bias is None:
        return None
    if tuple(bias.shape) != (outputs,):
        raise ValueError(f"bias must have shape ({outputs},), got {tuple(bias.shape)}")
    return nn.Parameter(bias.detach(), requires_grad=False)


def _shared(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory; types that torch lacks are seen as whole numbers of their width."""
    known = {"uint32": np.int32, "bfloat16": np.int16}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # memory-mapped arrays can't be written, and nothing here does
        return torch.from_numpy(np.asarray(array).view(known.get(array.dtype.name, array.dtype)))
