"""Text from a language model, token by token, on a cache of what it has read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tercile.compression.reader import reader_of
from tercile.compression.runtime import Runtime
from tercile.compression.source import read_tokenizer


def generate(
    runtime: Runtime, prompt: str, *, max_tokens: int = 200, temperature: float = 0.0, seed: int = 0
) -> Iterator[str]:
    """Goes on with a text.

    Parameters
    ----------
    runtime
        Of a language model.
    prompt
        What it goes on from; at least one token.
    max_tokens
        Most tokens that are added; fewer if the model ends the text, or can read no more.
    temperature
        0 takes the likeliest token each time; above it tokens are drawn by their probabilities, the flatter the higher.
    seed
        Of the draws. The same seed gives the same text.

    Yields
    ------
    What is added, in pieces of whole characters as they are known.

    Raises
    ------
    ValueError
        If the model is no language model, a number is out of range, or the prompt is empty or too long for it.

    Examples
    --------
    >>> print("".join(generate(runtime, "This package provides")))  # doctest: +SKIP
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if not temperature >= 0 or temperature == float("inf"):
        raise ValueError(f"temperature must be a number of at least 0, got {temperature:g}")
    source = runtime.source
    config: Any = getattr(source.module, "config", None)
    if source.folder is None or not hasattr(source.module, "generate"):
        raise ValueError(f"{source.spec} is no language model of Transformers; it can't go on with a text")
    tokenizer = read_tokenizer(source.folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    most = getattr(config, "max_position_embeddings", None) or 1 << 30
    if not ids.numel():
        raise ValueError("the prompt is empty; give at least one word to go on from")
    if ids.shape[1] >= most:
        raise ValueError(f"the prompt is {ids.shape[1]} tokens long and the model reads {most}; shorten it")
    return _pieces(source.module, tokenizer, ids[0].tolist(), min(max_tokens, most - ids.shape[1]), temperature, seed)


def _pieces(module: Any, tokenizer: Any, ids: list[int], most: int, temperature: float, seed: int) -> Iterator[str]:
    random = np.random.default_rng(seed)
    ends = module.generation_config.eos_token_id if getattr(module, "generation_config", None) else None
    ends = set(ends if isinstance(ends, list) else [ends])
    made: list[int] = []
    shown = ""
    for token in _tokens(module, ids, most, temperature, random):
        if token in ends:
            break
        made.append(token)
        text = tokenizer.decode(made)
        # The bytes of a character may be spread over tokens; until it is whole it is decoded as U+FFFD.
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    text = tokenizer.decode(made)
    if len(text) > len(shown):
        yield text[len(shown) :]


def _tokens(module: Any, ids: list[int], most: int, temperature: float, random: np.random.Generator) -> Iterator[int]:
    reader = reader_of(module)
    for _ in range(most):
        token = choose(reader.read(ids), temperature, random)
        yield token
        ids = [token]


def choose(logits: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    """The likeliest token, or one drawn at a temperature above 0.

    Examples
    --------
    >>> choose(np.float32([0, 3, 1]), 0, np.random.default_rng(0))
    1
    >>> draws = [choose(np.log(np.float32([0.2, 0.8])), 1, np.random.default_rng(seed)) for seed in range(200)]
    >>> 140 < sum(draws) < 180
    True
    """
    if temperature == 0:
        return int(logits.argmax())
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    return int((logits.astype(np.float64) / temperature + random.gumbel(size=logits.shape)).argmax())
