"""Reads tokens into a language model one call after another, and says what may come next.

A packed model of the Llama family is run by compiled blocks (`llama_blocks`): at one token a call, a module of
Transformers spends far more time between the products than on them. Every other model is run as its module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from tercile.compression.llama_blocks import BlockReader, runs_in_blocks


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


def reader_of(module: nn.Module) -> Reader:
    """A reader at the beginning of a text."""
    return BlockReader(module) if runs_in_blocks(module) else ModuleReader(module)
