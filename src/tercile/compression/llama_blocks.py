"""Reads tokens into a packed model of the Llama family a block at a time, each block one call of compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from tercile import _native
from tercile.quantization.runtime.encoder import floats, part, runs_in_block
from tercile.quantization.runtime.modules import PackedEmbedding, PackedLinear

_LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


class BlockReader:
    """A packed model of the Llama family that compiled blocks run.

    Parameters
    ----------
    module
        A LlamaForCausalLM for which `runs_in_blocks` holds.

    Notes
    -----
    Keys and values are kept as float32. Between two blocks nothing is done but the next call.
    """

    def __init__(self, module: Any) -> None:
        model, epsilon = module.model, module.config.rms_norm_eps
        self._frequencies: np.ndarray = model.rotary_emb.inv_freq.numpy()
        self._table, self._head = model.embed_tokens.matrix, module.lm_head
        self._norm, self._epsilon = floats(model.norm.weight), np.float32(epsilon)
        self._blocks = [_block(layer, epsilon) for layer in model.layers]

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """See `Reader`."""
        first, count = self._blocks[0].length, len(ids)
        x = self._table.rows(np.asarray(ids, dtype=np.int64))
        angles = np.arange(first, first + count, dtype=np.float32)[:, None] * self._frequencies
        cosine, sine = np.cos(angles), np.sin(angles)
        for block in self._blocks:
            block.run(x, cosine, sine)
        last = x[-1:]
        last = last * (self._norm / np.sqrt(np.mean(last * last) + self._epsilon))
        logits: np.ndarray = self._head.matrix.matmul(last)[0]
        return logits if self._head.bias is None else logits + floats(self._head.bias)


def runs_in_blocks(module: nn.Module) -> bool:
    """Whether compiled blocks give the answers of a module: a packed Llama with none of the family's rarer options."""
    config: Any = getattr(module, "config", None)
    if type(module).__name__ != "LlamaForCausalLM" or config.hidden_act != "silu":
        return False
    positions = getattr(config, "rope_parameters", None) or {}
    model: Any = module.model
    linears = [part(layer, name) for layer in model.layers for name in _LINEARS]
    packed = isinstance(model.embed_tokens, PackedEmbedding) and isinstance(module.lm_head, PackedLinear)
    fits = packed and model.layers[0].self_attn.head_dim % 16 == 0 and all(runs_in_block(layer) for layer in linears)
    return fits and positions.get("rope_type", "default") == "default"


def _block(layer: Any, epsilon: float) -> _native.LlamaBlock:
    linears = [part(layer, name) for name in _LINEARS]
    nothing = np.empty(0, np.float32)
    return _native.LlamaBlock(
        tuple(linear.matrix.native for linear in linears),
        [nothing if linear.bias is None else floats(linear.bias) for linear in linears],
        [floats(layer.input_layernorm.weight), floats(layer.post_attention_layernorm.weight)],
        layer.self_attn.head_dim,
        epsilon,
    )
