"""Blocks: how a matrix is cut so that each piece shares one scale.

A tensor is seen as a matrix: its first axis is the rows, everything else is flattened into columns, as in a linear
layer's (outputs, inputs) or a convolution's (filters, channels * height * width). Every way to share a scale is then a
tile of that matrix, which may be as tall or as wide as the matrix itself; a last tile that does not fit is smaller.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """Tiles of `rows` x `columns`; None is the whole axis.

    Examples
    --------
    >>> group(64).count((384, 100))
    (384, 2)
    """

    spelling: str
    rows: int | None
    columns: int | None

    def count(self, matrix: tuple[int, int]) -> tuple[int, int]:
        """Blocks along each axis of a matrix of that shape."""
        rows, columns = matrix
        return (
            1 if self.rows is None else math.ceil(rows / self.rows),
            1 if self.columns is None else math.ceil(columns / self.columns),
        )

    def row_of(self, rows: int) -> np.ndarray:
        """Block row, int32, that each matrix row belongs to."""
        return np.arange(rows, dtype=np.int32) // (self.rows or max(rows, 1))

    def column_of(self, columns: int) -> np.ndarray:
        """Block column, int32, that each matrix column belongs to."""
        return np.arange(columns, dtype=np.int32) // (self.columns or max(columns, 1))

    def spread(self, parameters: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
        """One parameter a block, (block rows, block columns), as one an element; broadcasts where it can."""
        rows, columns = matrix
        tall = parameters if parameters.shape[0] in (1, rows) else parameters[self.row_of(rows)]
        return tall if parameters.shape[1] == 1 else tall[:, self.column_of(columns)]

    def pieces(self, x: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Cuts a matrix into stacks of equal blocks.

        Yields (block rows, block columns, values) where values is (number of blocks, elements of a block), row by row.
        There is one stack when the blocks fit, and up to four when last rows or columns are smaller.
        """
        rows, columns = x.shape
        tall, wide = self.rows or rows, self.columns or columns
        for r0, r1, height in _whole_and_rest(rows, tall):
            for c0, c1, width in _whole_and_rest(columns, wide):
                part = x[r0:r1, c0:c1].reshape((r1 - r0) // height, height, (c1 - c0) // width, width)
                values = np.ascontiguousarray(part.transpose(0, 2, 1, 3)).reshape(-1, height * width)
                yield slice(r0 // tall, math.ceil(r1 / tall)), slice(c0 // wide, math.ceil(c1 / wide)), values


def _whole_and_rest(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    whole = length // size * size
    if whole:
        yield 0, whole, size
    if whole < length:
        yield whole, length, length - whole


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix that a tensor of this shape is seen as; a vector is one row.

    Examples
    --------
    >>> as_matrix((16, 3, 5, 5)), as_matrix((7,))
    ((16, 75), (1, 7))
    """
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def tensor() -> Blocks:
    """One scale for everything."""
    return Blocks("tensor", None, None)


def channel() -> Blocks:
    """One scale a row: an output channel of a weight."""
    return Blocks("channel", 1, None)


def token() -> Blocks:
    """One scale a row: a token of an activation. The same tiles as `channel`, named for what they cut."""
    return Blocks("token", 1, None)


def group(size: int) -> Blocks:
    """One scale for each `size` neighbours in a row."""
    _check(size, "size")
    return Blocks(f"g{size}", 1, size)


def tile(rows: int, columns: int) -> Blocks:
    """One scale for each tile of rows x columns."""
    _check(rows, "rows")
    _check(columns, "columns")
    return Blocks(f"t{rows}x{columns}", rows, columns)


def parse(spelling: str) -> Blocks:
    """The blocks that a spelling names: tensor, channel, token, g<size> or t<rows>x<columns>.

    Examples
    --------
    >>> parse("t16x32").columns
    32
    """
    if not isinstance(spelling, str):
        raise TypeError(f"spelling must be a string such as 'g64', got {spelling!r}")
    whole = {"tensor": tensor, "channel": channel, "token": token}
    if spelling in whole:
        return whole[spelling]()
    if match := re.fullmatch(r"g([0-9]+)", spelling):
        return group(int(match[1]))
    if match := re.fullmatch(r"t([0-9]+)x([0-9]+)", spelling):
        return tile(int(match[1]), int(match[2]))
    raise ValueError(f"no blocks are called {spelling!r}; there are tensor, channel, token, g64, t16x16 and the like")


def _check(size: int, name: str) -> None:
    if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")
