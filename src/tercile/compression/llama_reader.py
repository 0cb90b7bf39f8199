"""Reads tokens into a language model one call after another, and says what may come next.

A packed model of the Llama family is run by a reader of its own: at one token a call, a module of Transformers spends
far more time between the products than on them. Compiled blocks do it where every layer is a product alone
(`llama_blocks`), numpy where some are turned or have a branch beside them. Every other model is run as its module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from tercile.compression.llama_blocks import BlockReader, runs_in_blocks
from tercile.quantization.runtime.modules import PackedEmbedding, PackedLinear

Product = Callable[[np.ndarray], np.ndarray]


class Reader(Protocol):
    """One text as far as it has been read."""

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Reads more tokens; float32 (vocabulary,) logits of the one that follows."""
        ...


class ModuleReader:
    """A causal language model of Transformers with its cache."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._cache: Any = None

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> np.ndarray:
        """See `Reader`."""
        out = self._module(
            input_ids=torch.tensor([list(ids)]), past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._cache = out.past_key_values
        logits: np.ndarray = out.logits[0, -1].float().numpy()
        return logits


class LlamaReader:
    """A packed model of the Llama family, in numpy.

    Parameters
    ----------
    module
        A LlamaForCausalLM for which `is_packed_llama` holds.

    Notes
    -----
    A token costs the products and about 30 calls of numpy a block. Keys and values are kept as float32.
    """

    def __init__(self, module: Any) -> None:
        config = module.config
        self._heads: int = config.num_attention_heads
        self._shared: int = config.num_key_value_heads
        self._width: int = module.model.layers[0].self_attn.head_dim
        self._epsilon = np.float32(config.rms_norm_eps)
        self._frequencies: np.ndarray = module.model.rotary_emb.inv_freq.numpy()
        self._table = module.model.embed_tokens.matrix
        self._norm = _numpy(module.model.norm.weight)
        self._head = _product(module.lm_head)
        self._blocks = [_Block(layer) for layer in module.model.layers]
        self._cache = [np.empty((2, self._shared, 0, self._width), np.float32) for _ in self._blocks]
        self._length = 0

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """See `Reader`."""
        first, count = self._length, len(ids)
        x = self._table.rows(np.asarray(ids, dtype=np.int64))
        angles = np.arange(first, first + count, dtype=np.float32)[:, None] * self._frequencies
        turn = np.cos(angles), np.sin(angles)
        for number, block in enumerate(self._blocks):
            x += self._attention(number, block, self._normal(x, block.before), turn)
            y = self._normal(x, block.between)
            gate = block.gate(y)
            if count > 1:  # torch's are faster where there is more to do than to call
                nn.functional.silu(torch.from_numpy(gate), inplace=True)
            else:
                gate /= 1 + np.exp(-gate)
            gate *= block.up(y)
            x += block.down(gate)
        self._length += count
        logits: np.ndarray = self._head(self._normal(x[-1:], self._norm))[0]
        return logits

    def _normal(self, x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        size = np.einsum("td,td->t", x, x)[:, None] / np.float32(x.shape[1])
        return x * (gain / np.sqrt(size + self._epsilon))

    def _attention(self, number: int, block: _Block, x: np.ndarray, turn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        count, shared, width = len(x), self._shared, self._width
        query = _turned(block.query(x).reshape(count, self._heads, width), turn)
        key = _turned(block.key(x).reshape(count, shared, width), turn)
        keys, values = self._room(number, count)
        keys[:, self._length : self._length + count] = key.swapaxes(0, 1)
        values[:, self._length : self._length + count] = block.value(x).reshape(count, shared, width).swapaxes(0, 1)
        total = self._length + count
        if count > 1:
            mixed = _mixed(query, keys[:, :total], values[:, :total], self._length)
            return block.output(mixed.reshape(count, -1))
        # Heads that share a key are rows of one product.
        scores = query.reshape(shared, -1, width) @ keys[:, :total].swapaxes(1, 2)
        scores *= np.float32(width**-0.5)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return block.output((scores @ values[:, :total]).reshape(1, -1))

    def _room(self, number: int, count: int) -> np.ndarray:
        """Keys and values of a block, with room for so many more."""
        kept = self._cache[number]
        if self._length + count > kept.shape[2]:
            grown = np.empty(
                (2, self._shared, max(64, 2 * kept.shape[2], self._length + count), self._width), np.float32
            )
            grown[:, :, : self._length] = kept[:, :, : self._length]
            self._cache[number] = kept = grown
        return kept


class _Block:
    """What a block multiplies by."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = _numpy(layer.input_layernorm.weight), _numpy(layer.post_attention_layernorm.weight)
        self.query, self.key = _product(attention.q_proj), _product(attention.k_proj)
        self.value, self.output = _product(attention.v_proj), _product(attention.o_proj)
        self.gate, self.up, self.down = _product(mlp.gate_proj), _product(mlp.up_proj), _product(mlp.down_proj)


def is_packed_llama(module: nn.Module) -> bool:
    """Whether `LlamaReader` gives the answers of a module: packed, and with none of the family's rarer options."""
    config: Any = getattr(module, "config", None)
    if type(module).__name__ != "LlamaForCausalLM" or config.hidden_act != "silu":
        return False
    positions = getattr(config, "rope_parameters", None) or {}
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, PackedLinear))]
    packed = all(isinstance(m, PackedLinear) for m in layers) and any(
        isinstance(m, PackedEmbedding) for m in module.modules()
    )
    return packed and positions.get("rope_type", "default") == "default"


def reader_of(module: nn.Module) -> Reader:
    """A reader at the beginning of a text."""
    if not is_packed_llama(module):
        return ModuleReader(module)
    return BlockReader(module) if runs_in_blocks(module) else LlamaReader(module)


def _mixed(query: np.ndarray, keys: np.ndarray, values: np.ndarray, before: int) -> np.ndarray:
    """Attention of several tokens, (tokens, heads, width), each to itself and what came before it."""
    mask = None
    if before:
        total = keys.shape[1]
        mask = torch.arange(total) <= torch.arange(before, total)[:, None]
    mixed = nn.functional.scaled_dot_product_attention(
        torch.from_numpy(query.swapaxes(0, 1))[None],
        torch.from_numpy(keys)[None],
        torch.from_numpy(values)[None],
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=query.shape[1] != len(keys),
    )
    made: np.ndarray = mixed[0].transpose(0, 1).contiguous().numpy()
    return made


def _turned(x: np.ndarray, turn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(tokens, heads, width) with each pair of channels (i, i + half) turned by its angle."""
    half = x.shape[-1] // 2
    cosine, sine = turn[0][:, None], turn[1][:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def _product(layer: Any) -> Product:
    multiply, bias = layer.matrix.matmul, layer.bias
    if bias is None:
        return multiply  # type: ignore[no-any-return]
    added = _numpy(bias)
    return lambda x: multiply(x) + added


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    made: np.ndarray = tensor.detach().float().numpy()
    return made
