"""Queries of many readers, embedded together: those that come while a batch is worked on make up the next one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tercile.page.search.encoder import Encoder

#: Queries that are embedded at once, and vectors that are remembered. Larger batches embed little faster, and all of
#: their readers are answered one after the other while nothing is embedded.
TOGETHER, REMEMBERED = 16, 8192


class Batcher:
    """Embeds single texts for many waiting readers.

    No one waits for a batch to fill: it is whatever came in while the last one was embedded. What was asked before is
    remembered, and the same text asked twice at once is embedded once.

    Parameters
    ----------
    encoder
        Runs in a thread of its own, one batch at a time.
    told
        Called with the size of each batch.

    Examples
    --------
    >>> class Length:
    ...     def encode(self, texts):
    ...         return np.float32([[len(text)] for text in texts])
    >>> async def ask():
    ...     batcher = Batcher(Length())
    ...     return [float(one[0]) for one in await asyncio.gather(*map(batcher.encode, ["a", "bb", "a"]))]
    >>> asyncio.run(ask())
    [1.0, 2.0, 1.0]
    """

    def __init__(self, encoder: Encoder, told: Callable[[int], None] | None = None) -> None:
        self._encoder = encoder
        self._told = told or (lambda size: None)
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._pending: dict[str, asyncio.Future[NDArray[np.float32]]] = {}
        self._queue: deque[str] = deque()
        self._task: asyncio.Task[None] | None = None

    async def encode(self, text: str) -> NDArray[np.float32]:
        """The vector of a text, float32 (width,)."""
        found = self._known.get(text)
        if found is not None:
            self._known.move_to_end(text)
            return found
        future = self._pending.get(text)
        if future is None:
            future = self._pending[text] = asyncio.get_running_loop().create_future()
            self._queue.append(text)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._work())
        # One reader who goes away takes nothing from the others that wait for the same text.
        return await asyncio.shield(future)

    async def encode_all(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts that nobody waits for one by one, such as documents; they are not remembered."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._encoder.encode, list(texts))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(TOGETHER, len(self._queue)))]
            self._told(len(batch))
            try:
                rows = await loop.run_in_executor(self._thread, self._encoder.encode, batch)
            except Exception as error:  # whatever the encoder raises is each reader's answer, and the next batch runs
                for text in batch:
                    future = self._pending.pop(text)
                    future.set_exception(error)
                    future.exception()  # a reader who left does not make it "never retrieved"
                continue
            for text, row in zip(batch, rows):
                self._known[text] = row
                self._pending.pop(text).set_result(row)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
