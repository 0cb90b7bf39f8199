"""A GGUF file run by llama.cpp itself, called like the module of Transformers that it stands for.

What llama.cpp rounds besides the weights (what layers read, the cache of keys and values) is then part of what is
certified. Decoded by Transformers, the same file gives the answers of its weights alone.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

#: Before the name of a .gguf file: run it with llama.cpp.
PREFIX = "llama.cpp:"


class LlamaCppModule(torch.nn.Module):
    """A causal language model.

    Parameters
    ----------
    path
        Of the .gguf file.

    Raises
    ------
    ValueError
        If llama-cpp-python is not installed, or refuses the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import llama_cpp
        except ImportError:
            raise ValueError(f"running {str(path)!r} takes llama.cpp; run: pip install llama-cpp-python") from None
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{str(path)!r} is no GGUF file: it does not start with GGUF")
        threads = torch.get_num_threads()
        try:
            self._model: Any = llama_cpp.Llama(
                str(path), n_ctx=0, logits_all=True, verbose=False, n_threads=threads, n_threads_batch=threads
            )
        except Exception as error:
            raise ValueError(
                f"{str(path)!r} can't be opened by llama.cpp ({error}); it is damaged, or too new"
            ) from None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **rest: Any) -> Any:
        """Logits of every token that the mask keeps, zeros elsewhere; texts are read one after another."""
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if int(keep.sum(1).max()) > self._model.n_ctx():
            raise ValueError(f"a text is longer than the {self._model.n_ctx()} tokens that the GGUF file allows")
        logits = np.zeros((*input_ids.shape, self._model.n_vocab()), dtype=np.float32)
        for row, (ids, kept) in enumerate(zip(input_ids, keep.bool())):
            asked = ids[kept].tolist()
            self._model.reset()
            self._model.eval(asked)
            logits[row, kept.numpy()] = self._model.scores[: len(asked)]
        return SimpleNamespace(logits=torch.from_numpy(logits))
