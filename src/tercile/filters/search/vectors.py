"""How vectors are kept: as float32, as float16, in 8 bits a dimension, or as product codes of a few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

_NONE = np.zeros(0, dtype=np.float32)
#: The numbers by which the kernels know how a row is stored.
FLOAT32, FLOAT16, INT8, TABLE = range(4)


class Asked(NamedTuple):
    """Queries as the kernels read them: padded with zeros to a multiple of 16, or tables of 256 numbers a byte."""

    queries: np.ndarray
    kind: int
    squared: bool
    scale: np.ndarray = _NONE
    offset: np.ndarray = _NONE


class Codec(Protocol):
    """One way to keep vectors.

    `check` refuses a dimension that it can't keep; `fit` learns what it must from a sample; `arrays` is what was
    learned, and `with_arrays` takes it back.
    """

    @property
    def name(self) -> str: ...

    def check(self, dimension: int) -> None: ...

    def fit(self, sample: np.ndarray) -> Codec: ...

    def encode(self, vectors: np.ndarray) -> np.ndarray: ...

    def decode(self, stored: np.ndarray) -> np.ndarray: ...

    def ask(self, queries: np.ndarray, squared: bool) -> Asked: ...

    def arrays(self) -> Mapping[str, np.ndarray]: ...

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> Codec: ...


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows of float32 with zeros behind them, to a multiple of 16.

    >>> padded(np.ones((2, 3), dtype=np.float32)).shape
    (2, 16)
    """
    wide = -(-rows.shape[-1] // 16) * 16
    if wide == rows.shape[-1]:
        return np.ascontiguousarray(rows, dtype=np.float32)
    out = np.zeros((*rows.shape[:-1], wide), dtype=np.float32)
    out[..., : rows.shape[-1]] = rows
    return out


@dataclass(frozen=True)
class Floats:
    """Vectors as they are, in 32 bits a number or rounded to 16."""

    bits: int = 32

    @property
    def name(self) -> str:
        """How it is spelled."""
        return f"float{self.bits}"

    def check(self, dimension: int) -> None:
        """Any dimension will do."""

    def fit(self, sample: np.ndarray) -> Floats:
        """Nothing to learn."""
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """float32 in, what is stored out; beyond 65,504 there is no float16."""
        if self.bits == 16 and vectors.size and np.abs(vectors).max() > 65_504:
            raise ValueError("vectors hold numbers beyond 65,504, which float16 can't; use storage='float32'")
        return np.ascontiguousarray(vectors, dtype=f"f{self.bits // 8}")

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Back to float32."""
        return np.ascontiguousarray(stored, dtype=np.float32)

    def ask(self, queries: np.ndarray, squared: bool) -> Asked:
        """Queries for the kernels."""
        return Asked(padded(queries), FLOAT32 if self.bits == 32 else FLOAT16, squared)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Nothing was learned."""
        return {}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> Floats:
        """The same."""
        return self


@dataclass(frozen=True)
class Int8:
    """Each dimension in 255 even steps between the least and the greatest value of a sample.

    >>> rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> codec = Int8().fit(rows)
    >>> bool(np.abs(codec.decode(codec.encode(rows)) - rows).max() <= codec.step.max() / 2 + 1e-6)
    True
    """

    low: np.ndarray = field(default_factory=lambda: _NONE)
    step: np.ndarray = field(default_factory=lambda: _NONE)

    @property
    def name(self) -> str:
        """How it is spelled."""
        return "int8"

    def check(self, dimension: int) -> None:
        """Any dimension will do."""

    def fit(self, sample: np.ndarray) -> Int8:
        """Takes the range of each dimension, a twentieth wider at both ends for what the sample lacks."""
        low, high = sample.min(axis=0), sample.max(axis=0)
        more = 0.05 * (high - low) if len(sample) < 50_000 else 0.0
        step = np.maximum((high - low + 2 * more) / 255, np.float32(1e-30))
        return Int8((low - more).astype(np.float32), step.astype(np.float32))

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The nearest step; beyond the range, its end."""
        return np.clip(np.rint((vectors - self.low) / self.step), 0, 255).astype(np.uint8)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Back to float32."""
        return self.low + self.step * stored.astype(np.float32)

    def ask(self, queries: np.ndarray, squared: bool) -> Asked:
        """Queries for the kernels, with the steps."""
        return Asked(padded(queries), INT8, squared, padded(self.step), padded(self.low))

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The ranges."""
        return {"low": self.low, "step": self.step}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> Int8:
        """With these ranges."""
        return Int8(np.asarray(arrays["low"]), np.asarray(arrays["step"]))


def codec_named(name: str) -> Codec:
    """The codec of a name, with nothing learned yet.

    Raises
    ------
    ValueError : no such name.

    >>> codec_named("int8").name, codec_named("pq16").name
    ('int8', 'pq16')
    """
    from tercile.filters.search.product_codes import product_codes

    known: dict[str, Codec] = {"float32": Floats(32), "float16": Floats(16), "int8": Int8()}
    codec = known.get(name) or product_codes(name) if isinstance(name, str) else None
    if codec is None:
        raise ValueError(
            f"storage must be one of {', '.join(known)}, or product codes of so many bytes such as pq16 or opq16, "
            f"got {name!r}"
        )
    return codec


def opened(name: str, arrays: Mapping[str, np.ndarray]) -> Codec:
    """The codec of a name with what it had learned."""
    return codec_named(name).with_arrays(arrays)
