"""Examples in batches of like length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tercile.compression.source import Inputs, Source
from tercile.filters.data.example import Example

# Texts in a batch, and characters: about 4,000 tokens of English.
MOST_EXAMPLES = 32
MOST_CHARACTERS = 16_000


@dataclass(frozen=True)
class Batch:
    """Some examples and the model inputs made of them.

    Attributes
    ----------
    examples
        In batch order.
    at
        int (n,): where they stand in the sequence that was cut into batches.
    inputs
        Keyword arguments of the module, or its one tensor.
    """

    examples: tuple[Example, ...]
    at: np.ndarray
    inputs: Inputs

    @property
    def keep(self) -> torch.Tensor | None:
        """bool (n, tokens), False on padding; None when nothing is padded."""
        mask = None if isinstance(self.inputs, torch.Tensor) else self.inputs.get("attention_mask")
        return None if mask is None else mask.bool()

    def keep_mask(self, like: torch.Tensor) -> torch.Tensor:
        """`keep` as floats, or ones in the shape of `like`."""
        keep = self.keep
        return torch.ones_like(like, dtype=torch.float32) if keep is None else keep.to(like.device, torch.float32)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its inputs on a device."""
        if isinstance(self.inputs, torch.Tensor):
            return Batch(self.examples, self.at, self.inputs.to(device))
        return Batch(self.examples, self.at, {key: value.to(device) for key, value in self.inputs.items()})


def cut(examples: Sequence[Example], source: Source, most: int = MOST_EXAMPLES) -> tuple[Batch, ...]:
    """Cuts examples into batches; texts are sorted by length first. The same examples give the same batches."""
    device = next(source.module.parameters()).device
    sizes = np.array([len(e.content) if isinstance(e.content, str) else 1 for e in examples])
    order = np.argsort(sizes, kind="stable")
    cap = 4 * (source.max_tokens or MOST_CHARACTERS)
    batches, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and stop - start < most:
            if (stop - start + 1) * min(sizes[order[stop]], cap) > MOST_CHARACTERS:
                break
            stop += 1
        at = order[start:stop]
        chosen = tuple(examples[i] for i in at)
        batches.append(Batch(chosen, at, source.prepare([e.content for e in chosen])).to(device))
        start = stop
    return tuple(batches)
