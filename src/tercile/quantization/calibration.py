"""Runs calibration data through a model and gathers the Statistics of every layer, a block at a time.

In a sequential family the blocks are run one after the other on stored hidden states: the model's forward is
stopped at the first block to get its inputs, then each block turns the states of all batches into the next
block's. In memory are the hidden states between two blocks and the Statistics of one block. Every block runs
once for every batch.

In other families the whole model is run, with as many blocks watched at a time as have their second moments
in `PACK_BYTES`: one pass for a small model, one a block for a huge one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.quantization.block_inputs import Batch, BlockInputs, Forward, answering, inputs_of, quiet
from tercile.quantization.calibration_files import Shelf, fingerprint
from tercile.quantization.families import Block, Family
from tercile.quantization.layer_inputs import Recorder, columns
from tercile.quantization.statistics import Statistics

PACK_BYTES = 1 << 29
OUTSIDE = "outside"

Keep = Callable[[Batch], torch.Tensor]
Progress = Callable[[int, int], None]


def collect(
    model: nn.Module,
    family: Family,
    batches: Iterable[Batch],
    *,
    forward: Forward,
    keep: Keep | None = None,
    sketch: bool = False,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Block, dict[str, Statistics]]]:
    """Statistics of the inputs of every linear layer and convolution of a model.

    Parameters
    ----------
    model, family
        The model and what `describe` says of it. It is run in evaluation mode, without gradients, and is as
        it was whenever a block is yielded.
    batches
        Inputs; kept until the end.
    forward
        Runs the model on a batch, once.
    keep
        Which tokens of a batch count, bool (batch, tokens): padding is left out by `lambda b:
        b["attention_mask"] > 0`. Layers that read something else than (batch, tokens, channels), such as
        pooled vectors, keep all.
    sketch
        Keep a quantile sketch a channel too.
    folder
        Each block's Statistics are saved here, and read instead of computed if they are here already, from
        the same weights and batches. A file that fits nothing is overwritten.
    progress
        Called with (steps done, steps in all) after each batch of each block.

    Yields
    ------
    (Block, dict)
        Statistics by layer name, in float32 whatever the model runs in. Layers that read the same tensor
        share one object. A layer that is never called has a count of 0. After the blocks comes one named
        "outside" for the layers outside them, if there are any; its Statistics hold modules that share their
        weight with an embedding too.

    Raises
    ------
    ValueError
        If batches is empty, or an input of a layer is not finite; the message names the layer.

    Notes
    -----
    What is done to a block after it was yielded does not change what later ones see: its outputs are computed
    already.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> seen = collect(model, describe(model), [torch.ones(5, 3)], forward=lambda model, batch: model(batch))
    >>> [(block.name, statistics[block.name].count) for block, statistics in seen]
    [('0', 5), ('2', 5)]
    """
    stored = list(batches)
    if not stored:
        raise ValueError("batches is empty: there is nothing to calibrate with")
    masks = [None if keep is None else _mask(keep(batch)) for batch in stored]
    if keep is not None and not any(bool(mask.any()) for mask in masks if mask is not None):
        raise ValueError("keep leaves no token in any batch; it must be true where a token counts")
    shelf = None
    if folder is not None:
        mark = fingerprint(model, family, sketch, stored, masks)
        shelf = Shelf(Path(folder), mark)
    run = _Run(model, family, stored, masks, forward, sketch, shelf, progress)
    return run.sequential() if family.sequential else run.whole()


def count_rows(
    model: nn.Module,
    family: Family,
    batches: Iterable[Batch],
    *,
    forward: Forward,
    keep: Keep | None = None,
) -> dict[str, np.ndarray]:
    """How often each row of each embedding table is looked up, int64 (rows,) by layer name.

    Arguments are those of `collect`; a sequential family is run up to its first block only.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2))
    >>> batch = torch.tensor([[0, 2, 2]])
    >>> count_rows(model, describe(model), [batch], forward=lambda model, batch: model(batch))["0"].tolist()
    [1, 0, 2, 0]
    """
    counts = {layer.name: np.zeros(layer.shape[0], dtype=np.int64) for layer in family.embeddings}
    mask: torch.Tensor | None = None

    def count(name: str, rows: torch.Tensor) -> None:
        if mask is not None and mask.shape == rows.shape:
            rows = rows[mask.to(rows.device)]
        counts[name] += np.bincount(rows.reshape(-1).cpu().numpy(), minlength=len(counts[name]))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: count(name, args[0] if args else kwargs["input"]),
            with_kwargs=True,
        )
        for name in counts
    ]
    try:
        with quiet(model):
            for batch in batches:
                mask = None if keep is None else _mask(keep(batch))
                if family.sequential:
                    inputs_of(model, family.blocks[0].name, forward, batch)
                else:
                    forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return counts


@dataclass
class _Run:
    model: nn.Module
    family: Family
    batches: Sequence[Batch]
    masks: Sequence[torch.Tensor | None]
    forward: Forward
    sketch: bool
    shelf: Shelf | None
    progress: Progress | None
    done: int = 0
    steps: int = 0

    def sequential(self) -> Iterator[tuple[Block, dict[str, Statistics]]]:
        """Block by block on stored hidden states."""
        blocks, outside = self.family.blocks, self._outside()
        parts = [*blocks, *outside]
        ready = [self.shelf is not None and self.shelf.has(index) for index in range(len(parts))]
        missing = [index for index, there in enumerate(ready) if not there]
        # Everything up to the last part that is missing has to run, to get its inputs.
        last = max(missing, default=-1)
        self.steps = len(self.batches) * (last + 2 if missing else 0)
        states = self._capture() if missing else []
        for index, block in enumerate(blocks):
            statistics = self._load(index) if ready[index] else None
            if index <= last:
                recorder = self._recorder(block) if statistics is None else None
                self._advance(block, states, recorder)
                if recorder is not None:
                    statistics = self._save(index, recorder.statistics())
            assert statistics is not None
            yield block, statistics
        for index, block in enumerate(outside, start=len(blocks)):
            if ready[index]:
                yield block, self._load(index)
            else:
                recorder = self._recorder(block)
                self._finish(states, recorder)
                yield block, self._save(index, recorder.statistics())

    def whole(self) -> Iterator[tuple[Block, dict[str, Statistics]]]:
        """The whole model for each pack of blocks."""
        parts = [*self.family.blocks, *self._outside()]
        ready = [self.shelf is not None and self.shelf.has(index) for index in range(len(parts))]
        packs = _packs([0 if there else self._nbytes(part) for part, there in zip(parts, ready, strict=True)])
        self.steps = len(self.batches) * sum(not all(ready[index] for index in pack) for pack in packs)
        for pack in packs:
            recorders = {index: self._recorder(parts[index]) for index in pack if not ready[index]}
            if recorders:
                self._watch(list(recorders.values()))
            for index in pack:
                statistics = (
                    self._load(index)
                    if ready[index]
                    else self._save(index, recorders.pop(index).statistics())
                )
                yield parts[index], statistics

    def _outside(self) -> list[Block]:
        extra = any(self._followers())
        return [Block(OUTSIDE, self.family.outside)] if self.family.outside or extra else []

    def _followers(self) -> list[str]:
        """Layers that read inputs but whose weight is listed under another name."""
        names = [name for group in self.family.tied for name in group[1:]]
        return [name for name in names if not isinstance(self.model.get_submodule(name), nn.Embedding)]

    def _recorder(self, block: Block) -> Recorder:
        names = [layer.name for layer in block.layers] + (self._followers() if block.name == OUTSIDE else [])
        return Recorder({name: self.model.get_submodule(name) for name in names}, sketch=self.sketch)

    def _nbytes(self, block: Block) -> int:
        return sum(4 * columns(self.model.get_submodule(layer.name)) ** 2 for layer in block.layers)

    def _load(self, index: int) -> dict[str, Statistics]:
        assert self.shelf is not None
        return self.shelf.load(index)

    def _save(self, index: int, statistics: dict[str, Statistics]) -> dict[str, Statistics]:
        if self.shelf is not None:
            self.shelf.save(index, statistics)
        return statistics

    def _step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.steps)

    def _capture(self) -> list[BlockInputs]:
        states = []
        with quiet(self.model):
            for batch in self.batches:
                states.append(inputs_of(self.model, self.family.blocks[0].name, self.forward, batch))
                self._step()
        return states

    def _advance(self, block: Block, states: list[BlockInputs], recorder: Recorder | None) -> None:
        """Runs a block on all batches, putting its outputs in place of its inputs."""
        module = self.model.get_submodule(block.name)
        with quiet(self.model), (recorder or Recorder({})).attached():
            for state, mask in zip(states, self.masks, strict=True):
                if recorder is not None:
                    recorder.mask = mask
                out = module(state.hidden.to(state.device), *state.args, **state.kwargs)
                state.in_tuple = isinstance(out, tuple)
                state.hidden = (out[0] if state.in_tuple else out).cpu()
                self._step()

    def _finish(self, states: list[BlockInputs], recorder: Recorder) -> None:
        """Runs what is outside the blocks: the model, with the last block's output for every block's."""
        modules = [self.model.get_submodule(block.name) for block in self.family.blocks]
        with quiet(self.model), recorder.attached():
            for batch, state, mask in zip(self.batches, states, self.masks, strict=True):
                recorder.mask = mask
                hidden = state.hidden.to(state.device)
                with answering(modules, (hidden,) if state.in_tuple else hidden):
                    self.forward(self.model, batch)
                self._step()

    def _watch(self, recorders: list[Recorder]) -> None:
        with quiet(self.model):
            for batch, mask in zip(self.batches, self.masks, strict=True):
                self._watch_batch(recorders, batch, mask)
                self._step()

    def _watch_batch(self, recorders: list[Recorder], batch: Batch, mask: torch.Tensor | None) -> None:
        with ExitStack() as stack:
            for recorder in recorders:
                recorder.mask = mask
                stack.enter_context(recorder.attached())
            self.forward(self.model, batch)


def _mask(given: Any) -> torch.Tensor:
    mask: torch.Tensor = torch.as_tensor(given).cpu()
    if mask.dim() != 2:
        raise ValueError(f"keep must return (batch, tokens), got shape {tuple(mask.shape)}")
    return mask != 0


def _packs(sizes: list[int]) -> list[list[int]]:
    """Consecutive indices whose sizes add up to at most PACK_BYTES; one that is larger stands alone."""
    packs: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not packs or size > room:
            packs.append([])
            room = PACK_BYTES
        packs[-1].append(index)
        room -= size
    return packs
