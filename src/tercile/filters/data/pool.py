"""The units of a stream, kept on disk: only what is chosen in the end comes back into memory."""

from __future__ import annotations

import json
import os
import tempfile
from array import array

import numpy as np

from tercile.filters.data.example import Example


class Pool:
    """An unnamed temporary file of Examples, addressed by number; 8 bytes of memory each.

    The file lies in the folder that TMPDIR names and is gone when the pool is closed, or the process dies.

    >>> with Pool() as pool:
    ...     number = pool.add(Example("text", 1, "a.txt:1"))
    ...     pool[number] == Example("text", 1, "a.txt:1")
    True
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="tercile-")  # noqa: SIM115  (closed by __exit__)
        self._starts = array("q")
        self._end = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, example: Example) -> int:
        """Store one example; returns its number."""
        self._starts.append(self._end)
        self._write(example)
        return len(self._starts) - 1

    def replace(self, number: int, example: Example) -> None:
        """Let another example take this number."""
        self._starts[number] = self._end
        self._write(example)

    def __getitem__(self, number: int) -> Example:
        self._file.flush()
        descriptor, start = self._file.fileno(), self._starts[number]
        head_size, size = np.frombuffer(os.pread(descriptor, 16, start), "<i8")
        head = json.loads(os.pread(descriptor, int(head_size), start + 16))
        data = bytearray()
        while len(data) < size:  # one read gives 2 GiB at most
            data += os.pread(descriptor, int(size) - len(data), start + 16 + int(head_size) + len(data))
        if head["array"] is None:
            content: str | np.ndarray = data.decode("utf-8")
        else:
            dtype, shape = head["array"]
            content = np.frombuffer(data, np.dtype(dtype)).reshape(shape)
        return Example(content, head["label"], head["origin"], head["metadata"])

    def _write(self, example: Example) -> None:
        content = example.content
        if isinstance(content, str):
            layout, data = None, content.encode("utf-8")
        else:
            layout, data = [content.dtype.str, content.shape], np.ascontiguousarray(content).tobytes()
        head = json.dumps(
            {
                "array": layout,
                "label": example.label,
                "origin": example.origin,
                "metadata": dict(example.metadata),
            }
        ).encode()
        record = np.array([len(head), len(data)], "<i8").tobytes() + head + data
        try:
            self._file.write(record)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise OSError(
                error.errno, f"{error.strerror}: units wait in {folder}; let TMPDIR name a larger folder"
            ) from error
        self._end += len(record)
