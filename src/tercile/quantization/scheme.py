"""A Scheme says how a tensor is stored: a grid, the blocks that share a scale, and how the scales are kept.

Its spelling is what users type and files carry:

    <grid>-<blocks>[-asym][-<scale format>][-rot][-mix]

    int4-g128   int4-g32-asym   fp4-e2m1-g16-e4m3   nf4-g64   int8-token   trellis2.25-channel-rot

The scale format is f16 unless it is written. `asym` gives an integer grid a zero point. `rot` stores the matrix with
its columns rotated, `mix` with its rows in another order (see `basis`); both are taken back when it is read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from tercile.quantization import blocks as block_kinds
from tercile.quantization import grids, packing, scales
from tercile.quantization.blocks import Blocks, as_matrix
from tercile.quantization.grids import ColumnGrid, Grid
from tercile.quantization.scales import Arrays, ScaleFormat, SuperScale

_FAR = float(np.finfo(np.float32).max)
_GRID = r"cb\[[^\]]*\]|fp\d-e\dm\d|trellis[\d.]+(?:m\d+)?|pairs[\d.]+|[a-z]+\d*(?:[aqs]\d+)?(?:b\d+)?"
_SPELLED = rf"({_GRID})-([a-z]\w*)(-asym)?(?:-(?!(?:rot|mix)\b)(\w+))?(-rot)?(-mix)?"


@dataclass(frozen=True, eq=False)
class Ranges:
    """What each block's codes mean: value = scale * grid value + offset.

    Attributes
    ----------
    scale, offset
        float32 (block rows, block columns), exactly as `arrays` decodes to them.
    arrays
        What is stored, by name.
    """

    scale: np.ndarray
    offset: np.ndarray
    arrays: Arrays


@dataclass(frozen=True)
class Scheme:
    """Grid + blocks + scale format, with or without a zero point.

    Examples
    --------
    >>> scheme = Scheme.parse("int4-g128")
    >>> scheme.bits_per_weight((4096, 4096)), scheme.spelling
    (4.125, 'int4-g128')
    >>> Scheme.parse("int4-g32-asym-k6").bits_per_weight((4096, 4096))
    4.5
    """

    grid: Grid | ColumnGrid
    blocks: Blocks
    scale_format: ScaleFormat = scales.NAMED["f16"]
    asymmetric: bool = False
    rotated: bool = False
    mixed: bool = False

    def __post_init__(self) -> None:
        if self.asymmetric and not re.fullmatch(r"uint\d", self.grid.spelling):
            raise ValueError(f"only integer grids take a zero point, got {self.grid.spelling!r}; leave out -asym")
        if not self.asymmetric and self.grid.spelling.startswith("uint"):
            raise ValueError(f"{self.grid.spelling!r} needs a zero point; write {self.grid.spelling[1:]}-...-asym")

    @classmethod
    def parse(cls, spelling: str) -> Scheme:
        """The scheme that a spelling names.

        Raises
        ------
        ValueError
            If a part of the spelling is not known; the message says which, and what there is.
        """
        if not isinstance(spelling, str):
            raise TypeError(f"spelling of a scheme must be a string such as 'int4-g128', got {spelling!r}")
        match = re.fullmatch(_SPELLED, spelling)
        if not match:
            raise ValueError(f"{spelling!r} is no scheme; write <grid>-<blocks>[-asym][-<scales>], such as int4-g128")
        grid, blocks, asym, scale_format, rot, mix = match.groups()
        return cls(
            grids.parse(re.sub(r"^int", "uint", grid) if asym else grid),
            block_kinds.parse(blocks),
            scales.parse(scale_format or "f16"),
            asym is not None,
            rot is not None,
            mix is not None,
        )

    @property
    def spelling(self) -> str:
        """The short name; `Scheme.parse` reads it back."""
        parts = [re.sub(r"^uint", "int", self.grid.spelling), self.blocks.spelling]
        if self.asymmetric:
            parts.append("asym")
        if self.scale_format.spelling != "f16":
            parts.append(self.scale_format.spelling)
        if self.rotated:
            parts.append("rot")
        if self.mixed:
            parts.append("mix")
        return "-".join(parts)

    def __str__(self) -> str:
        return self.spelling

    @property
    def scalar_grid(self) -> Grid:
        """The grid, for what rounds one value by itself.

        Raises
        ------
        ValueError
            If values are rounded in sequences.
        """
        if not isinstance(self.grid, Grid):
            raise ValueError(f"{self.spelling!r} rounds sequences; what rounds single values needs a grid such as int4")
        return self.grid

    @property
    def turned(self) -> bool:
        """Whether the matrix is stored in another basis than its own."""
        return self.rotated or self.mixed

    @property
    def inner(self) -> Scheme:
        """The scheme of the matrix as it is stored, in that basis."""
        return replace(self, rotated=False, mixed=False)

    @property
    def whole_offsets(self) -> bool:
        """Whether offsets are stored as zero points, a whole number of scales; under a super-scale they are not."""
        return self.asymmetric and not isinstance(self.scale_format, SuperScale)

    def ranges(self, scale: np.ndarray, offset: np.ndarray | None = None) -> Ranges:
        """Rounds wanted scales and offsets to what the scheme can store.

        Parameters
        ----------
        scale, offset
            float (block rows, block columns); offset only for asymmetric schemes, and then never positive.

        Raises
        ------
        ValueError
            If a scale does not fit the format (float16 overflow) or is not finite, if the largest value that it stands
            for would overflow float32, if an offset is missing, not finite or positive, or if the scheme turns
            what it stores: ranges are those of the turned matrix, under `inner`.
        """
        scale = np.asarray(scale, dtype=np.float32)
        if self.turned:
            raise ValueError(
                f"{self.spelling!r} stores a weight in another basis, which this solver or estimator can't make; "
                "use gptq or round_to_nearest, or the scheme without -rot and -mix"
            )
        if scale.ndim != 2:
            raise ValueError(f"scale must be (block rows, block columns), got shape {scale.shape}")
        if not np.isfinite(scale).all():
            raise ValueError(
                "scale holds NaN or infinity: the values that it was estimated from do too, or need one beyond float32"
            )
        if self.asymmetric:
            offset = self._checked_offset(offset, scale.shape)
        return self._checked(self._rounded(scale, offset))

    def _rounded(self, scale: np.ndarray, offset: np.ndarray | None) -> Ranges:
        arrays = self.scale_format.store(scale)
        stored = self.scale_format.load(arrays, scale.shape)
        if not self.asymmetric:
            return Ranges(stored, np.zeros_like(stored), arrays)
        assert offset is not None
        if isinstance(self.scale_format, SuperScale):
            minimum = self.scale_format.store(-offset)
            arrays |= {f"offset_{name}": value for name, value in minimum.items()}
            return Ranges(stored, -self.scale_format.load(minimum, scale.shape), arrays)
        top = len(self.scalar_grid.table) - 1
        zero = np.clip(np.round(np.divide(-offset, stored, out=np.zeros_like(stored), where=stored != 0)), 0, top)
        arrays["zero"] = packing.pack(zero.astype(np.uint8).reshape(1, -1), self.grid)
        return Ranges(stored, -stored * zero.astype(np.float32), arrays)

    def _checked_offset(self, offset: np.ndarray | None, blocks: tuple[int, ...]) -> np.ndarray:
        if offset is None:
            raise ValueError(f"offset is missing: {self.spelling} has a zero point")
        offset = np.asarray(offset, dtype=np.float32)
        if offset.shape != blocks:
            raise ValueError(f"offset has shape {offset.shape}, scale {blocks}; there is one of each a block")
        if not np.isfinite(offset).all() or (offset > 0).any():
            raise ValueError("offset must be finite and not positive: zero has to lie within the range")
        return np.minimum(offset, np.float32(0))

    def _checked(self, ranges: Ranges) -> Ranges:
        with np.errstate(over="ignore", invalid="ignore"):
            largest = np.abs(ranges.scale) * np.float32(np.abs(self.grid.levels).max()) + np.abs(ranges.offset)
        if not np.isfinite(largest).all():
            raise ValueError(f"scales of {self.spelling} decode to NaN or beyond float32; make the values smaller")
        return ranges

    def load_ranges(self, arrays: Arrays, shape: tuple[int, ...]) -> Ranges:
        """The ranges that `ranges` stored, for a tensor of that shape.

        Raises
        ------
        ValueError
            If one is not finite: the arrays are damaged.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # found and refused
            return self._checked(self._loaded(arrays, shape))

    def _loaded(self, arrays: Arrays, shape: tuple[int, ...]) -> Ranges:
        blocks = self.blocks.count(as_matrix(shape))
        scale = self.scale_format.load(arrays, blocks)
        if not self.asymmetric:
            return Ranges(scale, np.zeros_like(scale), arrays)
        if isinstance(self.scale_format, SuperScale):
            prefix = "offset_"
            stored = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            return Ranges(scale, -self.scale_format.load(stored, blocks), arrays)
        zero = packing.unpack(arrays["zero"], blocks[0] * blocks[1], self.grid).astype(np.float32).reshape(blocks)
        return Ranges(scale, -scale * zero, arrays)

    def encode(self, matrix: np.ndarray, ranges: Ranges) -> np.ndarray:
        """Nearest code, uint8, of each element of a matrix under the given ranges."""
        scale = self.blocks.spread(ranges.scale, matrix.shape)
        offset = self.blocks.spread(ranges.offset, matrix.shape)
        matrix = np.asarray(matrix, dtype=np.float32)
        if not np.isfinite(matrix).all():
            raise ValueError("matrix holds NaN or infinity; only finite numbers can be encoded")
        with np.errstate(over="ignore"):
            x = matrix - offset
            # A block of zeros has scale 0; whatever its codes, it decodes to its offset.
            x = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
        return self.grid.encode(np.clip(x, -_FAR, _FAR, out=x))  # what overflows lies beyond the grid's end

    def decode(self, codes: np.ndarray, ranges: Ranges) -> np.ndarray:
        """float32 matrix that codes and ranges stand for."""
        values = self.grid.decode(codes)  # a copy
        values *= self.blocks.spread(ranges.scale, codes.shape)
        if self.asymmetric:
            values += self.blocks.spread(ranges.offset, codes.shape)
        return values

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a tensor of that shape takes: codes, scales, super-scales and zero points."""
        matrix = as_matrix(shape)
        blocks = self.blocks.count(matrix)
        total = 4 * math.prod(packing.words_shape(matrix, self.grid)) + self.scale_format.nbytes(blocks)
        if self.asymmetric and isinstance(self.scale_format, SuperScale):
            total += self.scale_format.nbytes(blocks)
        elif self.asymmetric:
            total += 4 * packing.words_per_row(blocks[0] * blocks[1], self.scalar_grid)
        return total

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """Bits stored for each element, everything counted."""
        return 8 * self.nbytes(shape) / max(math.prod(shape), 1)
