"""The original and the small model side by side: time and memory on this machine, in one run."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.compression.batches import Batch, cut
from tercile.compression.reader import reader_of
from tercile.compression.source import Source
from tercile.compression.tasks import guess_task, outputs_of
from tercile.filters.data import Example

#: Tokens of the prompt that is read, and how many are written after it.
PROMPT, WRITTEN = 256, 64
BATCHES = (1, 32)


@dataclass(frozen=True)
class Timing:
    """How long a piece of work took on one side.

    Attributes
    ----------
    work, side
        Which work, and which model did it.
    seconds
        Of every repeat.
    count, unit
        How much of what one repeat does.
    """

    work: str
    side: str
    seconds: tuple[float, ...]
    count: int
    unit: str

    @property
    def rate(self) -> float:
        """Units a second, in the best of the repeats: the one that was least disturbed."""
        return self.count / min(self.seconds)

    @property
    def spread(self) -> float:
        """The middle repeat over the best one."""
        return statistics.median(self.seconds) / min(self.seconds)


def works_of(source: Source, examples: Sequence[Example]) -> dict[str, tuple[int, str, Callable[[Source], object]]]:
    """What there is to be timed, by name: how much of which unit it is, and the function of a model that does it.

    Raises
    ------
    ValueError
        If there are no examples, or they hold too little text.
    """
    if not examples:
        raise ValueError("there are no examples to run the models on; give --data")
    task = guess_task(source)
    if task == "language-model":
        ids = _prompt(source, examples)
        prompt = ids.shape[1]
        return {
            f"read {prompt} tokens": (prompt, "tokens", lambda one: _write(one.module, ids, 0)),
            f"write {WRITTEN} tokens": (WRITTEN, "tokens", _Writing(ids[:, : prompt // 8])),
        }
    outputs = outputs_of(source, task)
    made: dict[str, tuple[int, str, Callable[[Source], object]]] = {}
    for size in BATCHES:
        # Texts of like length, from the middle: an ordinary batch, little of it padding.
        ordered = sorted(examples, key=lambda e: len(e.content) if isinstance(e.content, str) else 0)
        start = max(0, (len(ordered) - size) // 2)
        batch = cut(ordered[start : start + size], source, most=size)[0]
        made[f"batch of {len(batch.examples)}"] = (len(batch.examples), "examples", _Running(outputs, batch))
    return made


@dataclass(frozen=True)
class _Running:
    outputs: Callable[[torch.nn.Module, Batch], Any]
    batch: Batch

    def __call__(self, source: Source) -> object:
        return self.outputs(source.module, self.batch)


@dataclass(frozen=True)
class _Writing:
    ids: torch.Tensor

    def __call__(self, source: Source) -> object:
        return _write(source.module, self.ids, WRITTEN)


def compare(
    sides: Mapping[str, Source],
    examples: Sequence[Example],
    *,
    repeats: int = 7,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> list[Timing]:
    """Times every model on the same inputs, turn by turn.

    Parameters
    ----------
    sides
        The models, by the names that they go by in the result; the first one's inputs are used for all.
    examples
        Content to make inputs of.
    repeats
        Turns; each does as much as takes a tenth of a second or more.

    Notes
    -----
    Uses as many threads as torch is set to. Before the first turn everything is run once, untimed.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    works = works_of(next(iter(sides.values())), examples)
    timings = []
    with torch.inference_mode():
        for done, (name, (count, unit, work)) in enumerate(works.items()):
            if progress is not None:
                progress("timing", done, len(works))
            first = {side: _seconds(work, source, 1) for side, source in sides.items()}
            times = {side: max(1, min(50, round(0.1 / max(taken, 1e-6)))) for side, taken in first.items()}
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(repeats):
                for side, source in sides.items():
                    seconds[side].append(_seconds(work, source, times[side]))
            timings += [Timing(name, side, tuple(taken), count, unit) for side, taken in seconds.items()]
    return timings


def _seconds(work: Callable[[Source], object], source: Source, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work(source)
    return (time.perf_counter() - start) / times


def peak_memory(opened: Callable[[], Source], examples: Sequence[Example]) -> int | None:
    """Bytes that opening a model and running its largest work adds to a process, at the peak; None if not on Linux.

    The model is opened in a fork of this process, which must not have run any model before (threads do not survive).
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = _kilobytes("VmRSS")
            source = opened()
            with torch.inference_mode():
                for _, _, work in works_of(source, examples).values():
                    work(source)
            os.write(write, str(1024 * (_kilobytes("VmHWM") - before)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return int(said) if said else None


def _kilobytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _prompt(source: Source, examples: Sequence[Example]) -> torch.Tensor:
    """The first tokens of the examples, one after another."""
    ids: list[int] = []
    longest = getattr(source.module.config, "max_position_embeddings", PROMPT)
    for example in examples:
        made: Any = source.prepare([example.content])
        ids += made["input_ids"][0].tolist()
        if len(ids) >= PROMPT:
            break
    ids = ids[: min(PROMPT, longest - 1)]
    if len(ids) < 8:
        raise ValueError("the examples hold too little text to time a language model on; give --data")
    return torch.tensor([ids])


def _write(module: torch.nn.Module, ids: torch.Tensor, count: int) -> np.ndarray:
    """Reads a prompt and writes the likeliest tokens after it; all logits of what is read are not asked for."""
    reader = reader_of(module)
    logits = reader.read(ids[0].tolist())
    for _ in range(count):
        logits = reader.read([int(logits.argmax())])
    return logits
