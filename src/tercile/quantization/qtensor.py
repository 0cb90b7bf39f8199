"""QTensor: codes, scales and their Scheme. What a solver returns, a kernel runs and an exporter writes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tercile.quantization import packing
from tercile.quantization.basis import into_basis, out_of_basis
from tercile.quantization.blocks import as_matrix
from tercile.quantization.grids import ColumnGrid
from tercile.quantization.scheme import Ranges, Scheme


@dataclass(frozen=True, eq=False)
class QTensor:
    """A tensor stored under a Scheme.

    Attributes
    ----------
    scheme, shape
        How it is stored, and the shape of the tensor that it stands for.
    words
        uint32 (rows, words a row), or (1, words) where rows differ in width: the packed codes.
    arrays
        Stored scales, super-scales and zero points, as the scheme named them.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme, ranges
    >>> scheme, x = Scheme.parse("int8-channel"), np.float32([[1.0, -0.5, 0.25]])
    >>> q = QTensor.quantize(x, scheme, ranges.min_max(x, scheme))
    >>> bool(np.abs(q.dequantize() - x).max() < 0.01), q.nbytes == scheme.nbytes(x.shape)
    (True, True)
    """

    scheme: Scheme
    shape: tuple[int, ...]
    words: np.ndarray
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def quantize(cls, x: np.ndarray, scheme: Scheme, ranges: Ranges) -> QTensor:
        """Rounds x to its nearest codes; where the scheme turns x, ranges are those of x turned."""
        x = np.asarray(x)
        matrix = x.reshape(as_matrix(x.shape))
        codes = scheme.encode(into_basis(matrix, scheme), ranges)
        return cls.from_codes(codes, x.shape, scheme, ranges)

    @classmethod
    def from_codes(cls, codes: np.ndarray, shape: tuple[int, ...], scheme: Scheme, ranges: Ranges) -> QTensor:
        """Packs codes, uint8 in the matrix shape of the tensor, that somebody else chose."""
        if codes.shape != as_matrix(shape):
            raise ValueError(f"codes have shape {codes.shape}; a tensor of shape {shape} has {as_matrix(shape)}")
        return cls(scheme, tuple(shape), packing.pack(codes, scheme.grid), dict(ranges.arrays))

    @property
    def codes(self) -> np.ndarray:
        """uint8 codes in the matrix shape of the tensor."""
        rows, columns = as_matrix(self.shape)
        return packing.unpack(self.words, columns, self.scheme.grid, rows)

    @property
    def ranges(self) -> Ranges:
        """Scales and offsets as float32."""
        return self.scheme.load_ranges(dict(self.arrays), self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes stored: `scheme.nbytes(shape)`."""
        return self.words.nbytes + sum(array.nbytes for array in self.arrays.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each element."""
        return 8 * self.nbytes / max(math.prod(self.shape), 1)

    def dequantize(self) -> np.ndarray:
        """The float32 tensor that is stored. Costs a pass over the codes, and the way back from the scheme's basis."""
        values = self.scheme.decode(self.codes, self.ranges)
        return out_of_basis(values, self.scheme).reshape(self.shape)

    def to_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays for a safetensors file, under `name.codes`, `name.scale` and so on."""
        return {f"{name}.codes": self.words} | {f"{name}.{key}": value for key, value in self.arrays.items()}

    @classmethod
    def from_arrays(
        cls, name: str, scheme: Scheme, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> QTensor:
        """The tensor that `to_arrays` wrote, checked against its scheme and shape.

        Raises
        ------
        ValueError
            If an array is missing, or has another shape or type than the scheme stores: the file is damaged or was
            written for another tensor.
        """
        if not all(isinstance(size, numbers.Integral) and size > 0 for size in shape):
            raise ValueError(f"shape of {name} must hold whole numbers above 0, got {tuple(shape)}")
        matrix = as_matrix(shape)
        words = arrays.get(f"{name}.codes")
        # No grid takes less than a quarter of a bit: a shape beyond that is refused before room is made for it.
        if words is not None and math.prod(shape) > 32 * words.nbytes:
            raise ValueError(f"{name}.codes is {words.dtype} {words.shape}, too little for shape {tuple(shape)}")
        expected = _layout(scheme, matrix)
        found = {}
        for key, (size, dtype) in expected.items():
            array = arrays.get(f"{name}.{key}")
            if array is None:
                raise ValueError(f"{name}.{key} is missing from the file; {scheme} stores {', '.join(expected)}")
            if array.shape != size or array.dtype != dtype:
                raise ValueError(
                    f"{name}.{key} is {array.dtype} {array.shape}; "
                    f"{scheme} of shape {tuple(shape)} stores {dtype} {size}"
                )
            found[key] = np.ascontiguousarray(array)
        loaded = cls(scheme, tuple(map(int, shape)), found.pop("codes"), found)
        try:
            _ = loaded.ranges  # refuses what decodes to NaN or infinity
        except ValueError as error:
            raise ValueError(f"{name}: {error}; the file is damaged") from None
        if not _written_by_pack(loaded):
            raise ValueError(f"{name}.codes holds words that {scheme} never writes; the file is damaged")
        if not scheme.grid.valid.all() and not scheme.grid.valid[loaded.codes].all():
            raise ValueError(f"{name}.codes holds codes that stand for no number; the file is damaged")
        return loaded


def _written_by_pack(q: QTensor) -> bool:
    """Whether the words hold only codes of the grid, and zeros where they hold none."""
    (_, columns), grid = as_matrix(q.shape), q.scheme.grid
    if isinstance(grid, ColumnGrid):
        used = int(grid.row_bits(as_matrix(q.shape)[0]).sum(dtype=np.int64)) * columns % 32
    elif grid.codes_per_word is None:
        used = columns * int(grid.bits) % 32
    else:  # packing again gives the same words, unless one holds more than digits
        return np.array_equal(packing.pack(q.codes, grid), q.words)
    return not used or not (q.words[:, -1] >> np.uint32(used)).any()


def _layout(scheme: Scheme, matrix: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array that the scheme stores, found by storing one's worth of ranges."""
    blocks = scheme.blocks.count(matrix)
    one = np.ones(blocks, dtype=np.float32)
    arrays = scheme.inner.ranges(one, -one if scheme.asymmetric else None).arrays
    layout: dict[str, tuple[tuple[int, ...], np.dtype]] = {k: (v.shape, v.dtype) for k, v in arrays.items()}
    return {"codes": (packing.words_shape(matrix, scheme.grid), np.dtype(np.uint32))} | layout
