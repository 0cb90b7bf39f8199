"""Texts to vectors by the small MiniLM: many short texts at once, and no work on padding.

The model is the packed folder that tercile made, its weights decoded once. Rows of all texts are laid end to end, so
that the large products run over real tokens alone; only attention sees the texts as rows of one length. On processors
that multiply in bfloat16, the layers run in it, which moves an embedding by about 5e-5 in cosine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

#: Most tokens of a text that are read, as the original does.
LONGEST = 256
#: Tokens that go through the layers at once.
ROOM = 4096


class Encoder(Protocol):
    """What turns texts into vectors of unit length, float32 (n, width)."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


def default_model() -> Path:
    """The packed folder that comes with tercile."""
    from tercile.zoo.entries import MODELS

    return MODELS / "small-minilm"


def why_not(folder: Path) -> str | None:
    """Why texts can't be embedded here, in words for a reader; None if they can."""
    missing = [name for name in ("torch", "transformers", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        return f'search by meaning needs {missing[0]}, which is not installed here (pip install "tercile[torch]")'
    if not (folder / "model.safetensors").is_file():
        return "search by meaning needs its model, which is not in this installation"
    return None


class SmallBert:
    """A sentence encoder of the BERT family from a packed folder, by the mean over tokens.

    Parameters
    ----------
    folder
        Written by `tercile compress`.
    threads
        Of the layers.
    half
        Run the layers in bfloat16; by default where the processor multiplies in it.

    Raises
    ------
    ValueError
        The folder is damaged or holds another kind of model.
    """

    def __init__(self, folder: Path, *, threads: int = 1, half: bool | None = None) -> None:
        import torch
        from tokenizers import Tokenizer

        from tercile.compression.package import load_package

        torch.set_num_threads(threads)
        module: Any = load_package(folder).module
        if getattr(module.config, "model_type", None) != "bert":
            raise ValueError(f"{folder} must hold a model of the BERT family, got a {module.config.model_type}")
        self.width, self.heads = int(module.config.hidden_size), int(module.config.num_attention_heads)
        self._epsilon = float(module.config.layer_norm_eps)
        self._type = torch.bfloat16 if (_has_bfloat16() if half is None else half) else torch.float32
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)
        state = module.state_dict()
        start = "embeddings."
        self._words = state[f"{start}word_embeddings.weight"]
        self._places = state[f"{start}position_embeddings.weight"] + state[f"{start}token_type_embeddings.weight"][0]
        self._norm = (state[f"{start}LayerNorm.weight"], state[f"{start}LayerNorm.bias"])
        self._layers = [self._layer(state, number) for number in range(int(module.config.num_hidden_layers))]

    def _layer(self, state: dict[str, torch.Tensor], number: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        import torch

        def pair(*names: str) -> tuple[torch.Tensor, torch.Tensor]:
            start = f"encoder.layer.{number}"
            weight, bias = (
                torch.cat([state[f"{start}.{name}.{part}"] for name in names]) for part in ("weight", "bias")
            )
            return weight.to(self._type).contiguous(), bias.to(self._type)

        return {
            "reads": pair("attention.self.query", "attention.self.key", "attention.self.value"),
            "mixes": pair("attention.output.dense"),
            "norm": pair("attention.output.LayerNorm"),
            "widens": pair("intermediate.dense"),
            "narrows": pair("output.dense"),
            "last_norm": pair("output.LayerNorm"),
        }

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        texts
            Any number; of long ones the first 256 tokens count.

        Returns
        -------
        ndarray of shape (n, width)
            float32, of unit length. About 2 million products a layer and token.
        """
        import torch

        if not texts:
            return np.empty((0, self.width), dtype=np.float32)
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length go together: little of the attention is padding then.
        order = sorted(range(len(tokens)), key=lambda at: len(tokens[at]))
        rows = np.empty((len(texts), self.width), dtype=np.float32)
        with torch.inference_mode():
            while order:
                together = [order.pop()]
                longest = len(tokens[together[0]])
                while order and (len(together) + 1) * longest <= ROOM:
                    together.append(order.pop())
                rows[together] = self._embed([tokens[at] for at in together]).numpy()
        return rows

    def _embed(self, tokens: list[list[int]]) -> torch.Tensor:
        import torch
        from torch.nn import functional

        count, longest = len(tokens), max(len(one) for one in tokens)
        lengths = torch.tensor([len(one) for one in tokens])
        real = torch.arange(longest)[None] < lengths[:, None]
        at = real.flatten().nonzero()[:, 0]  # where each real token stands among rows of one length
        x = self._words[torch.tensor([token for one in tokens for token in one])] + self._places[at % longest]
        x = functional.layer_norm(x, (self.width,), *self._norm, self._epsilon).to(self._type)
        hidden = torch.zeros(count, 1, 1, longest, dtype=self._type).masked_fill(~real[:, None, None], float("-inf"))
        wide = torch.zeros(count * longest, 3 * self.width, dtype=self._type)
        for layer in self._layers:
            wide[at] = functional.linear(x, *layer["reads"])
            query, key, value = wide.view(count, longest, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
            mixed = functional.linear(seen.transpose(1, 2).reshape(count * longest, -1)[at], *layer["mixes"])
            x = functional.layer_norm(x + mixed, (self.width,), *layer["norm"], self._epsilon)
            inner = functional.gelu(functional.linear(x, *layer["widens"]))
            x = functional.layer_norm(
                x + functional.linear(inner, *layer["narrows"]), (self.width,), *layer["last_norm"], self._epsilon
            )
        sums = torch.zeros(count, self.width).index_add_(0, at // longest, x.float())
        return functional.normalize(sums, dim=1)


def _has_bfloat16() -> bool:
    import torch

    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked and asked())
