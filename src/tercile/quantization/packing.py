"""Codes packed row by row into 32-bit words, with no gap but the tail of each row's last word."""

from __future__ import annotations

import math

import numpy as np

from tercile import _native
from tercile.quantization.grids import ColumnGrid, Grid


def words_per_row(columns: int, grid: Grid) -> int:
    """32-bit words that a row of `columns` codes takes.

    Examples
    --------
    >>> from tercile.quantization.grids import integer, ternary
    >>> words_per_row(64, integer(3)), words_per_row(64, ternary())
    (6, 4)
    """
    per_word = grid.codes_per_word
    return math.ceil(columns * int(grid.bits) / 32) if per_word is None else math.ceil(columns / per_word)


def words_shape(matrix: tuple[int, int], grid: Grid | ColumnGrid) -> tuple[int, int]:
    """Rows and width of the words that a matrix of codes takes; all are one row where rows differ in width.

    Examples
    --------
    >>> from tercile.quantization.grids import Trellis
    >>> words_shape((8, 64), Trellis(2.25))
    (1, 36)
    """
    rows, columns = matrix
    if isinstance(grid, ColumnGrid):
        return 1, math.ceil(int(grid.row_bits(rows).sum(dtype=np.int64)) * columns / 32)
    return rows, words_per_row(columns, grid)


def pack(codes: np.ndarray, grid: Grid | ColumnGrid) -> np.ndarray:
    """uint8 codes (rows, columns) as uint32 words, see `words_shape`.

    Raises
    ------
    ValueError
        If codes is not two-dimensional or holds a code that the grid has not.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization.grids import integer
    >>> pack(np.uint8([[1, 2, 3]]), integer(4)).tolist() == [[0x321]]
    True
    """
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(f"codes must have two dimensions (rows, columns), got shape {codes.shape}")
    codes = np.ascontiguousarray(grid.checked_codes(codes))
    words = np.zeros(words_shape(codes.shape, grid), dtype=np.uint32)
    if isinstance(grid, ColumnGrid):
        _native.pack_stream(codes, grid.row_bits(len(codes)), words[0])
    elif grid.codes_per_word is None:
        _native.pack_bits(codes, int(grid.bits), words)
    else:
        _native.pack_digits(codes, len(grid.table), grid.codes_per_word, words)
    return words


def unpack(words: np.ndarray, columns: int, grid: Grid | ColumnGrid, rows: int | None = None) -> np.ndarray:
    """The uint8 codes (rows, columns) that `pack` stored; rows has to be given where they differ in width.

    Raises
    ------
    ValueError
        If words has not the width that `columns` codes take.
    """
    words = np.asarray(words)
    if words.dtype != np.uint32:
        raise TypeError(f"words are {words.dtype}; they must be uint32")
    words = np.ascontiguousarray(words)
    if isinstance(grid, ColumnGrid):
        return _unpack_stream(words, columns, grid, rows)
    if words.ndim != 2 or words.shape[1] != words_per_row(columns, grid):
        needed = words_per_row(columns, grid)
        raise ValueError(f"words have shape {words.shape}; {columns} codes of {grid.spelling!r} take {needed} a row")
    codes = np.empty((words.shape[0], columns), dtype=np.uint8)
    if grid.codes_per_word is None:
        _native.unpack_bits(words, int(grid.bits), codes)
    else:
        _native.unpack_digits(words, len(grid.table), grid.codes_per_word, codes)
    return codes


def _unpack_stream(words: np.ndarray, columns: int, grid: ColumnGrid, rows: int | None) -> np.ndarray:
    if rows is None:
        raise ValueError(f"rows is missing: those of {grid.spelling!r} differ in width")
    needed = words_shape((rows, columns), grid)
    if words.shape != needed:
        many = f"({rows}, {columns}) codes of {grid.spelling!r}"
        raise ValueError(f"words have shape {words.shape}; {many} take {needed}")
    codes = np.empty((rows, columns), dtype=np.uint8)
    _native.unpack_stream(words[0], grid.row_bits(rows), codes)
    return codes
