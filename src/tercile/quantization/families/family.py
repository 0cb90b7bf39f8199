"""The words that a model is described in: layers, blocks of them, and where a scale may move between them.

Names are module names, as `model.get_submodule` takes them; the weight of a layer is its parameter `weight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["linear", "convolution", "embedding"]


@dataclass(frozen=True)
class Layer:
    """A module whose weight can be quantized.

    Attributes
    ----------
    name, kind
        Module name, empty if the model is itself the layer, and what the module is.
    shape
        Shape of its weight.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def parameter(self) -> str:
        """Name of its weight in the state dict."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Scaling:
    """A place where a factor a channel can move from a module's output to the columns of its readers.

    It is listed only where the function of the model stays the same: nothing but the readers sees the
    channels, and what lies between is linear in each of them.

    Attributes
    ----------
    producer
        A norm with a gain, or a linear layer whose outputs (rows and bias) can be scaled.
    readers
        Linear layers that read it.
    kind
        "norm" or "linear": what the producer is.
    repeats, head
        Grouped-query attention: each run of `head` channels of the producer is read `repeats` times, one
        after the other. 1 and 0 where channel i is column i.

    Examples
    --------
    >>> pair = Scaling("v", ("o",), "linear", repeats=2, head=2)
    >>> pair.spread(np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]
    >>> pair.largest(np.array([1.0, 2.0, 5.0, 0.0, 3.0, 4.0, 3.0, 9.0])).tolist()
    [5.0, 2.0, 3.0, 9.0]
    """

    producer: str
    readers: tuple[str, ...]
    kind: Literal["norm", "linear"]
    repeats: int = 1
    head: int = 0

    def spread(self, channels: np.ndarray) -> np.ndarray:
        """One value a channel of the producer, as one a column of the readers."""
        if self.repeats == 1:
            return channels
        return np.repeat(channels.reshape(-1, 1, self.head), self.repeats, axis=1).reshape(-1)

    def largest(self, columns: np.ndarray) -> np.ndarray:
        """One value a column of the readers, as the largest of those that read a channel of the producer."""
        if self.repeats == 1:
            return columns
        largest: np.ndarray = columns.reshape(-1, self.repeats, self.head).max(axis=1).reshape(-1)
        return largest


@dataclass(frozen=True)
class Stream:
    """The residual stream of a pre-norm model: whatever writes to it and reads from it, so that its basis can change.

    Attributes
    ----------
    width
        Channels.
    writers
        Layers whose outputs are added to it: rows of their weights, and biases, are in its basis. Columns, where the
        layer is an embedding.
    parameters
        Other parameters that are added, in its basis along the last axis.
    norms
        (norm, layers that read it), by name. The norm's gain and bias are in the stream's basis.
    centred
        Whether the norms take off the mean, as LayerNorm does and RMSNorm does not.
    """

    width: int
    writers: tuple[str, ...]
    parameters: tuple[str, ...]
    norms: tuple[tuple[str, tuple[str, ...]], ...]
    centred: bool


@dataclass(frozen=True)
class Block:
    """A part of the model that is calibrated and quantized at a time.

    Attributes
    ----------
    name
        Module name; in a family that is not sequential, whatever the layers' names have in common.
    layers
        In the order of the model's modules.
    scalings
        Between modules of this block.
    """

    name: str
    layers: tuple[Layer, ...]
    scalings: tuple[Scaling, ...] = ()


@dataclass(frozen=True)
class Family:
    """A model, described. Every weight that can be quantized is the weight of exactly one layer.

    Attributes
    ----------
    name
        "bert", "llama", "vit", "cnn" or "unknown".
    sequential
        Each block is a module that is called once, with what the one before gave out and otherwise the same
        arguments; such a model can be calibrated block by block.
    blocks
        In order.
    embeddings
        Tables that are looked up.
    outside
        Other layers outside the blocks: poolers, heads, patch embeddings.
    scalings
        Between modules outside the blocks.
    batch_norms
        (convolution, batch norm) names, where the norm alone reads the convolution.
    tied
        Groups of module names that share one weight; the first of each is the layer, the others follow it.
    skipped
        (name, reason) of modules or parameters that stay as they are although they hold a matrix of weights.
    stream
        The residual stream, where its basis can be changed without changing what the model gives.
    """

    name: str
    sequential: bool
    blocks: tuple[Block, ...]
    embeddings: tuple[Layer, ...] = ()
    outside: tuple[Layer, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    batch_norms: tuple[tuple[str, str], ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    stream: Stream | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer once: embeddings, blocks in order, the rest."""
        inside = tuple(layer for block in self.blocks for layer in block.layers)
        return self.embeddings + inside + self.outside

    @property
    def all_scalings(self) -> tuple[Scaling, ...]:
        """Scalings of every block and of what is outside."""
        return tuple(scaling for block in self.blocks for scaling in block.scalings) + self.scalings
