"""Losses of a candidate against the original, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tercile.compression.batches import Batch, cut
from tercile.compression.source import Source
from tercile.compression.tasks import Task
from tercile.filters.data.example import Example

# The original's outputs are kept up to this size, so that it runs once however many candidates are scored.
KEPT_BYTES = 256 * 2**20
Tick = Callable[[int, int], None]


class Scorer:
    """Scores candidates on one set of examples.

    Parameters
    ----------
    source
        The original; its module is never changed.
    task
        What is compared.
    examples
        The units, in an order that has nothing to do with their losses.
    """

    def __init__(self, source: Source, task: Task, examples: Sequence[Example]) -> None:
        self.source = source
        self.task = task
        self.units = len(examples)
        self.batches = cut(examples, source)
        self._outputs: dict[int, Any] = {}
        self._kept = 0

    def losses(self, candidate: torch.nn.Module, tick: Tick | None = None) -> np.ndarray:
        """Loss of every example, in the examples' order: bool where the task's losses are, else float64 in [0, 1].

        Raises
        ------
        ValueError
            If a loss is NaN, outside [0, 1], or there is not one for each example.
        """
        values: np.ndarray | None = None
        done = 0
        with torch.inference_mode():
            for number, batch in enumerate(self.batches):
                found = _checked(self.task, self._original(number), self.task.outputs(candidate, batch), batch)
                if values is None:
                    values = np.zeros(self.units, dtype=found.dtype)
                values[batch.at] = found
                done += len(batch.at)
                if tick is not None:
                    tick(done, self.units)
        assert values is not None, "a Scorer has at least one example"
        return values

    def _original(self, number: int) -> Any:
        if number in self._outputs:
            return self._outputs[number]
        out = self.task.outputs(self.source.module, self.batches[number])
        size = out.numel() * out.element_size() if isinstance(out, torch.Tensor) else KEPT_BYTES
        if self._kept + size <= KEPT_BYTES:
            self._outputs[number] = out
            self._kept += size
        return out


def _checked(task: Task, original: Any, small: Any, batch: Batch) -> np.ndarray:
    if isinstance(original, torch.Tensor) and isinstance(small, torch.Tensor) and original.shape != small.shape:
        raise ValueError(
            f"the original says {tuple(original.shape)} for a batch and the small model {tuple(small.shape)}; "
            "is it a model of the same task and vocabulary?"
        )
    found = task.losses(original, small, batch)
    array = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    if array.shape != (len(batch.at),):
        raise ValueError(
            f"loss {task.loss!r} returned shape {array.shape} for {len(batch.at)} examples; return one number each"
        )
    if array.dtype == np.bool_:
        return array
    array = array.astype(np.float64)
    bad = ~((array >= 0) & (array <= 1))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"loss {task.loss!r} gave {array[at]} for {batch.examples[at].origin or 'an example'}; "
            "losses must lie in [0, 1]"
        )
    return array
