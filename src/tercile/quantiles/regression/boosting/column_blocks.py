"""A table in blocks of rows, every column sorted by itself: in memory, or in a file that is read run by run.

Sorting is paid for once; every tree then reads columns in order of their values (Chen and Guestrin 2016, section 4).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native

_MAGIC = b"TCOLBLK1"
_TRAILER = struct.Struct("<QQQI8s")  # where the index starts, blocks, features, checksum of the index, magic
#: Rows of a block whose derivatives and node numbers stay in a core's second-level cache.
BLOCK_ROWS = 16_384
_MOST_ROWS = 2**31 - 1


class ColumnBlocks:
    """A table that boosted trees learn from, with missing entries (NaN) left out.

    Made by `from_array`, `write` or `open`; a file is closed by `close` or at the end of a `with`.

    Examples
    --------
    >>> import numpy as np
    >>> ColumnBlocks.from_array([[1.0, np.nan], [3.0, 4.0], [2.0, np.nan]])
    ColumnBlocks(3 rows, 2 columns, 1 block in memory)
    """

    def __init__(
        self, heights: NDArray[np.uint32], counts: NDArray[np.uint32], memory: list[Any], file: BinaryIO | None
    ) -> None:
        starts = np.zeros(counts.size, dtype=np.uint64)
        if file is None:  # every block starts at 0 of an array of its own
            starts.reshape(counts.shape)[:, 1:] = 8 * np.cumsum(counts[:, :-1], axis=1, dtype=np.uint64)
        else:
            starts[1:] = 8 * np.cumsum(counts.reshape(-1)[:-1], dtype=np.uint64)
            starts += np.uint64(len(_MAGIC))
        self.rows = int(heights.sum(dtype=np.int64))
        self.features = int(counts.shape[1])
        self.blocks = int(heights.size)
        self._file = file
        descriptor = -1 if file is None else file.fileno()
        self._native = _native.ColumnBlocks(self.features, heights, counts.reshape(-1), starts, memory, descriptor)

    @classmethod
    def from_array(cls, table: ArrayLike, block_rows: int = BLOCK_ROWS) -> ColumnBlocks:
        """Blocks in memory, 8 bytes an entry.

        Parameters
        ----------
        table : (rows, columns), numbers; NaN is missing. Kept as float32.
        block_rows : rows of a block; exact search needs them all in one.

        Raises
        ------
        ValueError : not a table, without rows or columns, or with infinities.
        """
        heights, counts, memory = [], [], []
        for rows in _blocks_of(iter([table]), block_rows):
            data, count = _native.sorted_columns(rows)
            heights.append(len(rows))
            counts.append(count)
            memory.append(data)
        return cls(np.array(heights, dtype=np.uint32), np.array(counts, dtype=np.uint32), memory, None)

    @classmethod
    def write(cls, path: str | Path, batches: Iterable[ArrayLike], block_rows: int = BLOCK_ROWS) -> ColumnBlocks:
        """Sort a stream of batches of rows into a file, and open it.

        Parameters
        ----------
        path : where; an older file is replaced once the new one is whole.
        batches : tables of any number of rows and the same columns, in order. One block is in memory at a time.
        block_rows : rows of a block.

        Raises
        ------
        ValueError : no rows, tables that do not fit together, infinities; nothing is left at `path`.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        heights, counts = [], []
        try:
            with part.open("wb") as file:
                file.write(_MAGIC)
                for rows in _blocks_of(iter(batches), block_rows):
                    data, count = _native.sorted_columns(rows)
                    heights.append(len(rows))
                    counts.append(count)
                    file.write(memoryview(data))
                index = np.array(heights, dtype="<u4").tobytes() + np.array(counts, dtype="<u4").tobytes()
                start = file.tell()
                file.write(index)
                file.write(_TRAILER.pack(start, len(heights), len(counts[0]), zlib.crc32(index), _MAGIC))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> ColumnBlocks:
        """Open a file that `write` made.

        Raises
        ------
        ValueError : no such file, or it is truncated or damaged.
        """
        path = Path(path)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise ValueError(f"{path} is missing") from None
        try:
            heights, counts = _index(file)
            return cls(heights, counts, [], file)
        except ValueError as error:
            file.close()
            raise ValueError(f"{path} is no whole file of column blocks: {error}") from None

    @property
    def native(self) -> Any:
        """What the compiled tree learner reads.

        Raises
        ------
        ValueError : the file was closed.
        """
        if self._file is not None and self._file.closed:
            raise ValueError("the file of these column blocks was closed; open it again")
        return self._native

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> ColumnBlocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        place = "memory" if self._file is None else f"file {self._file.name!r}"
        blocks = f"{self.blocks} block{'' if self.blocks == 1 else 's'}"
        return f"ColumnBlocks({self.rows} rows, {self.features} columns, {blocks} in {place})"


def _blocks_of(batches: Iterator[ArrayLike], block_rows: int) -> Iterator[NDArray[np.float32]]:
    """The rows of all batches, cut anew into blocks; checks them on the way."""
    if isinstance(block_rows, bool) or not isinstance(block_rows, (int, np.integer)):
        raise TypeError(f"block_rows must be an integer, got {block_rows!r}")
    if not 1 <= block_rows <= _MOST_ROWS:
        raise ValueError(f"block_rows must be 1 to {_MOST_ROWS}, got {block_rows}")
    held: list[NDArray[np.float32]] = []
    waiting, features, seen = 0, None, 0
    for batch in batches:
        rows = np.asarray(batch)
        if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "biuf":
            raise ValueError(f"a batch must be a table of numbers, got {rows.dtype} of shape {rows.shape}")
        if features is not None and rows.shape[1] != features:
            raise ValueError(f"every batch must have the {features} columns of the first, got {rows.shape[1]}")
        features = rows.shape[1]
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, dtype=np.float32)
        infinite = np.isinf(rows).any(axis=1)
        if infinite.any():
            raise ValueError(f"the table must hold no infinities, got one in row {seen + int(infinite.argmax())}")
        seen += len(rows)
        if seen > _MOST_ROWS:
            raise ValueError(f"the table must have at most {_MOST_ROWS} rows")
        while waiting + len(rows) >= block_rows:
            take = block_rows - waiting
            yield np.concatenate([*held, rows[:take]]) if held else np.ascontiguousarray(rows[:take])
            held, waiting, rows = [], 0, rows[take:]
        if len(rows):
            held.append(rows)
            waiting += len(rows)
    if seen == 0:
        raise ValueError("the table must have at least one row")
    if held:
        yield np.concatenate(held)


def _index(file: BinaryIO) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    size = file.seek(0, os.SEEK_END)
    if size < len(_MAGIC) + _TRAILER.size:
        raise ValueError("it is too short")
    file.seek(size - _TRAILER.size)
    start, blocks, features, checksum, magic = _TRAILER.unpack(file.read(_TRAILER.size))
    file.seek(0)
    if magic != _MAGIC or file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("its marks are missing")
    if start + 4 * (blocks + blocks * features) + _TRAILER.size != size or blocks == 0 or features == 0:
        raise ValueError("its length does not fit")
    file.seek(start)
    index = file.read(size - _TRAILER.size - start)
    if zlib.crc32(index) != checksum:
        raise ValueError("the checksum of its index does not match")
    numbers = np.frombuffer(index, dtype="<u4").astype(np.uint32)
    heights, counts = numbers[:blocks], numbers[blocks:].reshape(blocks, features)
    if 8 * int(counts.sum(dtype=np.int64)) + len(_MAGIC) != start:
        raise ValueError("its index does not fit its length")
    if int(heights.sum(dtype=np.int64)) > _MOST_ROWS:
        raise ValueError("it has too many rows")
    return heights, counts
