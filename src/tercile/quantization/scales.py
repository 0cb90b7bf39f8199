"""How scales are stored: each format rounds float32 scales to what it can hold, and says what that costs.

A format turns a (block rows, block columns) float32 array into named arrays for a file (`store`) and back (`load`).
What is stored is what the solver saw: `load(store(s))` is the scale that codes are chosen for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

from tercile.quantization.grids import unsigned
from tercile.quantization.packing import pack, unpack, words_per_row

Arrays = dict[str, np.ndarray]


class ScaleFormat(Protocol):
    """What a Scheme asks of the format of its scales."""

    @property
    def spelling(self) -> str:
        """Name in a scheme's spelling."""

    @property
    def signed(self) -> bool:
        """Whether it can hold negative scales."""

    @property
    def elementwise(self) -> bool:
        """Whether a scale is rounded without regard to its neighbours."""

    def nbytes(self, blocks: tuple[int, int]) -> int:
        """Bytes stored for that many blocks."""

    def store(self, scale: np.ndarray) -> Arrays:
        """Stored arrays, keyed by what they are (`scale`, `super`)."""

    def load(self, arrays: Arrays, blocks: tuple[int, int]) -> np.ndarray:
        """float32 scales (block rows, block columns)."""


@dataclass(frozen=True)
class Plain:
    """Scales as numbers of an ordinary type: float32, float16 or bfloat16."""

    spelling: str
    dtype: np.dtype
    signed: bool = True
    elementwise: bool = True

    def nbytes(self, blocks: tuple[int, int]) -> int:
        return blocks[0] * blocks[1] * self.dtype.itemsize

    def store(self, scale: np.ndarray) -> Arrays:
        largest = float(ml_dtypes.finfo(self.dtype).max)
        if scale.size and float(np.abs(scale).max()) > largest:
            raise ValueError(
                f"a scale of {float(np.abs(scale).max()):.4g} does not fit {self.spelling} (largest {largest:.4g}); "
                "use a scheme with bf16 or f32 scales"
            )
        return {"scale": scale.astype(self.dtype)}

    def load(self, arrays: Arrays, blocks: tuple[int, int]) -> np.ndarray:
        return arrays["scale"].astype(np.float32).reshape(blocks)


@dataclass(frozen=True)
class PowerOfTwo:
    """Scales as one exponent byte (E8M0 of the microscaling formats): 2^(byte - 127), rounded to the nearest power.

    A scale of 0 becomes 2^-126, which decodes a block of zeros to zeros all the same if the grid has a zero. Rounding
    down may clip values that the wanted scale would not.
    """

    spelling: str = "e8m0"
    signed: bool = False
    elementwise: bool = True

    def nbytes(self, blocks: tuple[int, int]) -> int:
        return blocks[0] * blocks[1]

    def store(self, scale: np.ndarray) -> Arrays:
        _refuse_negative(scale, self.spelling)
        exponent = np.round(np.log2(np.maximum(scale, np.float32(2.0**-126))))
        return {"scale": np.clip(exponent + 127, 1, 254).astype(np.uint8)}

    def load(self, arrays: Arrays, blocks: tuple[int, int]) -> np.ndarray:
        return np.ldexp(np.float32(1), arrays["scale"].astype(np.int32) - 127).astype(np.float32).reshape(blocks)


@dataclass(frozen=True)
class Float8:
    """Scales as E4M3 bytes under one float32 power of two for the tensor, which puts the largest near 448."""

    spelling: str = "e4m3"
    signed: bool = False
    elementwise: bool = False

    def nbytes(self, blocks: tuple[int, int]) -> int:
        return blocks[0] * blocks[1] + 4

    def store(self, scale: np.ndarray) -> Arrays:
        _refuse_negative(scale, self.spelling)
        largest = float(scale.max(initial=0))
        unit = np.float32(2.0 ** np.clip(np.ceil(np.log2(largest / 448)), -126, 127)) if largest > 0 else np.float32(1)
        return {"scale": (scale / unit).astype(ml_dtypes.float8_e4m3fn).view(np.uint8), "super": unit.reshape(1)}

    def load(self, arrays: Arrays, blocks: tuple[int, int]) -> np.ndarray:
        return (arrays["scale"].view(ml_dtypes.float8_e4m3fn).astype(np.float32) * arrays["super"]).reshape(blocks)


@dataclass(frozen=True)
class SuperScale:
    """Scales as `bits`-bit integers under a float16 for `span` neighbours, as in llama.cpp's k-quants.

    Neighbours are counted row after row through the whole tensor, so that a row of few blocks wastes nothing.
    """

    bits: int = 6
    span: int = 8
    signed: bool = False
    elementwise: bool = False

    def __post_init__(self) -> None:
        if self.bits not in range(1, 9) or self.span < 1:
            raise ValueError(f"no scale format is k{self.bits}x{self.span}; bits are 1 to 8 and the span is at least 1")

    @property
    def spelling(self) -> str:
        return f"k{self.bits}" if self.span == 8 else f"k{self.bits}x{self.span}"

    def nbytes(self, blocks: tuple[int, int]) -> int:
        count = blocks[0] * blocks[1]
        return 4 * words_per_row(count, unsigned(self.bits)) + 2 * -(-count // self.span)

    def store(self, scale: np.ndarray) -> Arrays:
        _refuse_negative(scale, self.spelling)
        flat = scale.reshape(-1)
        top = (1 << self.bits) - 1
        wanted = np.maximum.reduceat(flat, np.arange(0, flat.size, self.span)) / top
        if wanted.size and float(wanted.max()) > 65504:
            largest = float(scale.max())
            raise ValueError(f"a scale of {largest:.4g} does not fit {self.spelling}; use bf16 or f32 scales")
        unit = wanted.astype(np.float16)
        # Near float16's smallest numbers rounding down could cost half the range: there the next one up is taken.
        short = unit.astype(np.float32) * top < wanted * (top - 0.5)
        unit = np.where(short, np.nextafter(unit, np.float16(np.inf)), unit)
        spread = np.repeat(unit.astype(np.float32), self.span)[: flat.size]
        codes = np.where(spread > 0, np.round(flat / np.where(spread > 0, spread, 1)), 0)
        packed = pack(np.minimum(codes, top).astype(np.uint8)[None], unsigned(self.bits))
        return {"scale": packed, "super": unit}

    def load(self, arrays: Arrays, blocks: tuple[int, int]) -> np.ndarray:
        count = blocks[0] * blocks[1]
        codes = unpack(arrays["scale"], count, unsigned(self.bits))[0].astype(np.float32)
        return (codes * np.repeat(arrays["super"].astype(np.float32), self.span)[:count]).reshape(blocks)


@dataclass(frozen=True)
class Shifted:
    """Scales as the largest of `span` neighbours, float16, shifted down by 0 to 2^bits - 2; the last code stands for 0.

    What is scaled by different scales of one span differs by a shift only, so that a kernel brings all of it to one
    scale without a product: the second constraint of Wu, Yao, He (2023), "ZeroQuant-FP", arXiv:2307.09782; the first,
    powers of two throughout, is `PowerOfTwo`. Neighbours are counted row after row, as in `SuperScale`.
    """

    bits: int = 3
    span: int = 8
    signed: bool = False
    elementwise: bool = False

    def __post_init__(self) -> None:
        if self.bits not in range(1, 6) or self.span < 1:
            raise ValueError(f"no scale format is s{self.bits}x{self.span}; bits are 1 to 5 and the span is at least 1")

    @property
    def spelling(self) -> str:
        return f"s{self.bits}" if self.span == 8 else f"s{self.bits}x{self.span}"

    def nbytes(self, blocks: tuple[int, int]) -> int:
        count = blocks[0] * blocks[1]
        return 4 * words_per_row(count, unsigned(self.bits)) + 2 * -(-count // self.span)

    def store(self, scale: np.ndarray) -> Arrays:
        _refuse_negative(scale, self.spelling)
        flat = scale.reshape(-1)
        largest = np.maximum.reduceat(flat, np.arange(0, flat.size, self.span))
        if largest.size and float(largest.max()) > 65504:
            size = float(largest.max())
            raise ValueError(f"a scale of {size:.4g} does not fit {self.spelling}; use bf16 or f32 scales")
        top = largest.astype(np.float16)
        # One that would vanish is kept at float16's smallest number.
        top = np.where((top == 0) & (largest > 0), np.nextafter(np.float16(0), np.float16(1)), top)
        spread = np.repeat(top.astype(np.float32), self.span)[: flat.size]
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.log2(spread / flat)
        zero = (1 << self.bits) - 1
        shift = np.where(flat > 0, np.clip(np.round(np.where(flat > 0, shift, 0)), 0, zero - 1), zero)
        return {"scale": pack(shift.astype(np.uint8)[None], unsigned(self.bits)), "super": top}

    def load(self, arrays: Arrays, blocks: tuple[int, int]) -> np.ndarray:
        count = blocks[0] * blocks[1]
        shift = unpack(arrays["scale"], count, unsigned(self.bits))[0].astype(np.int32)
        spread = np.repeat(arrays["super"].astype(np.float32), self.span)[:count]
        scale = np.where(shift < (1 << self.bits) - 1, np.ldexp(spread, -shift), 0)
        return scale.astype(np.float32).reshape(blocks)


#: Formats without parameters, by spelling.
NAMED: dict[str, ScaleFormat] = {
    "f32": Plain("f32", np.dtype(np.float32)),
    "f16": Plain("f16", np.dtype(np.float16)),
    "bf16": Plain("bf16", np.dtype(ml_dtypes.bfloat16)),
    "e8m0": PowerOfTwo(),
    "e4m3": Float8(),
}


def parse(spelling: str) -> ScaleFormat:
    """The scale format that a spelling names.

    Examples
    --------
    >>> parse("k6").span
    8
    """
    if not isinstance(spelling, str):
        raise TypeError(f"spelling must be a string such as 'f16', got {spelling!r}")
    if spelling in NAMED:
        return NAMED[spelling]
    if match := re.fullmatch(r"k([0-9])(?:x([0-9]+))?", spelling):
        return SuperScale(int(match[1]), int(match[2] or 8))
    if match := re.fullmatch(r"s([0-9])(?:x([0-9]+))?", spelling):
        return Shifted(int(match[1]), int(match[2] or 8))
    named = ", ".join(NAMED)
    raise ValueError(f"no scale format is called {spelling!r}; there are {named}, k6, k4x16, s3, s3x16 and the like")


def _refuse_negative(scale: np.ndarray, spelling: str) -> None:
    if scale.size and float(scale.min()) < 0:
        raise ValueError(f"{spelling} scales cannot be negative, got {float(scale.min()):.4g}; use f16, bf16 or f32")
