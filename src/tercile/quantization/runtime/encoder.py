"""Blocks of packed encoders in one call: what lies between the products is computed beside them, not in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tercile import _native
from tercile.quantization.runtime.modules import PackedLinear

_LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def join_encoder_blocks(module: nn.Module) -> int:
    """Lets every BERT-like block whose linear layers are all packed run in one call.

    Blocks keep their names, parameters and answers to rounding; hooks of layers within them are not called any more.
    A call that asks for attention weights or for a cache runs the block as it was.

    Parameters
    ----------
    module
        A model of Transformers, in evaluation mode.

    Returns
    -------
    How many blocks were joined.
    """
    joined = 0
    for layer in list(module.modules()):
        if _fits(layer):
            layer.forward = _Joined(layer, layer.forward)
            joined += 1
    return joined


def runs_in_block(layer: Any) -> bool:
    """Whether a compiled block can call a layer: it is packed, and its rows are stored in their order."""
    return isinstance(layer, PackedLinear) and not layer.matrix.stored.scheme.mixed


def _fits(layer: nn.Module) -> bool:
    parts = [part(layer, name) for name in _LINEARS + _NORMS]
    if any(found is None for found in parts):
        return False
    linears, norms, attention = parts[:6], parts[6:], part(layer, "attention.self")
    packed = all(runs_in_block(linear) and linear.bias is not None for linear in linears)
    if not packed or not all(type(norm) is nn.LayerNorm and norm.elementwise_affine for norm in norms):
        return False
    act = getattr(part(layer, "intermediate"), "intermediate_act_fn", None)
    heads, width = getattr(attention, "num_attention_heads", 0), getattr(attention, "attention_head_size", 0)
    simple = type(act).__name__ == "GELUActivation" and not getattr(layer, "is_decoder", False)
    return simple and norms[0].eps == norms[1].eps and width % 16 == 0 and heads * width == linears[0].out_features


class _Joined:
    """Stands for the forward method of a block."""

    def __init__(self, layer: Any, apart: Any) -> None:
        self._layer, self._apart = layer, apart
        self._config = layer.attention.self.config
        # Where each linear layer is kept: looking there costs less than asking modules for attributes, in every call.
        self._places = [
            (part(layer, holder)._modules, name) for holder, _, name in (n.rpartition(".") for n in _LINEARS)
        ]
        self._matrices: list[Any] = []
        self._block: Any = None

    def __call__(self, hidden_states: torch.Tensor, attention_mask: Any = None, *rest: Any, **more: Any) -> Any:
        layer, x = self._layer, hidden_states
        asks = any(value is not None for value in rest) or any(v is not None and v is not False for v in more.values())
        if asks or layer.training or self._config.output_attentions or x.requires_grad:
            return self._apart(hidden_states, attention_mask, *rest, **more)
        count, length, width = x.shape
        mask = _scores_mask(attention_mask, count, length)
        rows = x.detach().to(torch.float32).reshape(-1, width).contiguous().numpy()
        out = np.empty_like(rows)
        self._native().run(rows, length, mask, out)
        return torch.from_numpy(out).reshape(x.shape).to(x.dtype)

    def _native(self) -> Any:
        linears = [kept[name] for kept, name in self._places]
        matrices = [linear.matrix for linear in linears]
        if list(map(id, matrices)) != list(map(id, self._matrices)):
            norms = [part(self._layer, name) for name in _NORMS]
            self._block = _native.EncoderBlock(
                tuple(matrix.native for matrix in matrices),
                [floats(linear.bias) for linear in linears],
                [floats(tensor) for norm in norms for tensor in (norm.weight, norm.bias)],
                self._layer.attention.self.num_attention_heads,
                norms[0].eps,
            )
            self._matrices = matrices
        return self._block


def _scores_mask(mask: Any, count: int, length: int) -> np.ndarray | None:
    """What is added to scores, float32 (count, length, length); None where nothing is."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    added: np.ndarray = mask[:, 0].float().expand(count, length, length).contiguous().numpy()
    return added


def part(layer: Any, path: str) -> Any:
    """The module of that name within another, None if there is none."""
    for name in path.split("."):
        layer = getattr(layer, name, None)
    return layer


def floats(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as compiled blocks take it."""
    made: np.ndarray = np.ascontiguousarray(tensor.detach().float().numpy())
    return made
