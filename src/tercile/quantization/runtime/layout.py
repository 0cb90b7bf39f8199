"""Stored arrays as the kernels read them: in place where they can be, made anew once where not."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from tercile import _native
from tercile.quantization.blocks import as_matrix
from tercile.quantization.grids import ColumnGrid, Grid, Trellis
from tercile.quantization.grids.trellis import state_values
from tercile.quantization.packing import pack
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scales import Plain
from tercile.quantization.scheme import Scheme


@dataclass(frozen=True, eq=False)
class Layout:
    """A matrix for the kernels.

    Attributes
    ----------
    native
        Holds on to the arrays that it reads.
    extra_bytes
        Of what had to be made beside the stored arrays.
    """

    native: _native.PackedMatrix
    extra_bytes: int


@dataclass(frozen=True, eq=False)
class Values:
    """What codes stand for, as floats and as whole numbers: table is exactly or nearly unit * (whole - base).

    `whole` is None where the code itself is the whole number, and table = code - base.
    """

    table: np.ndarray
    whole: np.ndarray | None
    base: int
    unit: float


def why_no_kernel(scheme: Scheme) -> str | None:
    """What stands against computing with a scheme as it is stored, or None."""
    if isinstance(scheme.grid, ColumnGrid) and not isinstance(scheme.grid, Trellis):
        return f"no kernel computes with {scheme.spelling!r}; decode it with dequantize(), or store trellis codes"
    return None


def layout_of(q: QTensor, unfold: bool = False) -> Layout:
    """The kernels' view of a stored tensor.

    Parameters
    ----------
    q
        Of any scheme that a kernel computes with.
    unfold
        Whether the codes of a trellis become whole numbers of eight bits now, a byte a weight, rather than in every
        product. Other codes stay as they are stored.

    Raises
    ------
    ValueError
        If no kernel computes with its scheme.
    """
    if reason := why_no_kernel(q.scheme):
        raise ValueError(reason)
    if unfold and isinstance(q.scheme.grid, Trellis):
        return _unfolded(q, q.scheme.grid)
    (rows, columns), scheme = as_matrix(q.shape), q.scheme
    made: list[np.ndarray] = []
    row_bits, memory, height, bits = None, 0, 0, 0
    words = np.ascontiguousarray(q.words)
    if isinstance(scheme.grid, Trellis):
        values, memory = _of_states(scheme.grid.memory), scheme.grid.memory
        row_bits = scheme.grid.row_bits(rows)
        height = scheme.grid.height(rows)
    else:
        assert isinstance(scheme.grid, Grid)
        values, bits = _of_codes(scheme.grid), math.ceil(math.log2(len(scheme.grid.table)))
        if scheme.grid.codes_per_word is not None:
            words = np.zeros((rows, math.ceil(columns * bits / 32)), dtype=np.uint32)
            _native.pack_bits(q.codes, bits, words)
            made.append(words)
    scale, half, offset = None, None, None
    blocks = scheme.blocks.count((rows, columns))
    stored = q.arrays.get("scale")
    if isinstance(scheme.scale_format, Plain) and stored is not None and stored.dtype == np.float16:
        half = np.ascontiguousarray(stored).view(np.uint16).reshape(blocks)
    elif isinstance(scheme.scale_format, Plain) and stored is not None and stored.dtype == np.float32:
        scale = np.ascontiguousarray(stored).reshape(blocks)
    else:
        scale = np.ascontiguousarray(q.ranges.scale)
        made.append(scale)
    if scheme.asymmetric:
        offset = np.ascontiguousarray(q.ranges.offset)
        made.append(offset)
    native = _native.PackedMatrix(
        words,
        rows,
        columns,
        bits,
        values.table,
        values.whole,
        values.base,
        values.unit,
        values.whole is None,
        scale,
        half,
        offset,
        scheme.blocks.rows or rows,
        scheme.blocks.columns or columns,
        memory,
        row_bits,
        height,
    )
    return Layout(native, sum(array.nbytes for array in made) + native.nbytes)


def _unfolded(q: QTensor, grid: Trellis) -> Layout:
    """What products with rounded activations take the values of a trellis for, as whole numbers of eight bits."""
    values, eight = _of_states(grid.memory), replace(Scheme.parse("int8-tensor-f32"), blocks=q.scheme.blocks)
    codes = np.round(grid.decode(q.codes) / np.float32(values.unit)).astype(np.int16) + values.base
    ranges = eight.ranges(q.ranges.scale * np.float32(values.unit))
    made = QTensor(eight, codes.shape, pack(codes.astype(np.uint8), eight.scalar_grid), ranges.arrays)
    layout = layout_of(made)
    return Layout(layout.native, layout.extra_bytes + made.nbytes)


@functools.lru_cache(maxsize=64)
def _of_codes(grid: Grid) -> Values:
    """Of the codes of a scalar grid, 256 of each kind; those that are never used stand for 0."""
    levels = np.nan_to_num(np.asarray(grid.table, dtype=np.float32))
    table = np.zeros(256, dtype=np.float32)
    table[: len(levels)] = levels
    base = -int(levels[0]) if abs(levels[0]) <= 128 else 0
    if base >= 0 and np.array_equal(levels, np.arange(len(levels)) - np.float32(base)):
        return Values(table, None, base, 1.0)
    unit = _unit(levels)
    whole = np.full(256, 128, dtype=np.uint8)
    whole[: len(levels)] = np.round(levels / unit) + 128
    return Values(table, whole, 128, unit)


@functools.lru_cache(maxsize=8)
def _of_states(memory: int) -> Values:
    """Of the states of a trellis."""
    table = state_values(memory)
    unit = float(np.abs(table).max()) / 127
    whole = (np.round(table / unit) + 128).astype(np.uint8)
    return Values(table, whole, 128, unit)


def _unit(levels: np.ndarray) -> float:
    """The largest step that all levels are whole multiples of, if there is one that takes no more than 127 of them.

    Examples
    --------
    >>> _unit(np.float32([-1, 1])), _unit(np.float32([0, 0.5, 1.5, 6])), _unit(np.float32([0.3, 1])) == 1 / 127
    (1.0, 0.5, True)
    """
    largest, smallest = float(np.abs(levels).max()), float(np.abs(levels[levels != 0]).min())
    whole = levels / np.float32(smallest)
    return smallest if np.array_equal(whole, np.round(whole)) and largest <= 127 * smallest else largest / 127
