"""What the formats of other programs can hold: which schemes, on tensors of which shape, exactly.

Nothing is quantized twice on the way out. A scheme that a format can't hold bit by bit is refused, with the nearest
ones that it can, and `tercile compress --for FORMAT` offers only these to begin with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tercile.quantization.blocks import as_matrix
from tercile.quantization.export.gguf_blocks import block_type
from tercile.quantization.scheme import Scheme


@dataclass(frozen=True)
class Format:
    """A format that models are exported to.

    Attributes
    ----------
    name
        As users type it.
    schemes, table_schemes
        On offer for linear layers and for embedding tables, from safest to smallest.
    holds
        (scheme, shape) -> whether a tensor of that shape under that scheme can be written without change.
    """

    name: str
    schemes: tuple[str, ...]
    table_schemes: tuple[str, ...]
    holds: Callable[[Scheme, tuple[int, ...]], bool]

    def offered(self, kind: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Spellings on offer for a layer of a kind and shape."""
        spellings = self.table_schemes if kind == "embedding" else self.schemes
        return tuple(spelling for spelling in spellings if self.holds(Scheme.parse(spelling), shape))

    def check(self, name: str, scheme: Scheme, shape: tuple[int, ...]) -> None:
        """Raises ValueError if a tensor can't be held; the message lists the nearest schemes that can."""
        if self.holds(scheme, shape):
            return
        bits = scheme.bits_per_weight(shape)
        fitting = [Scheme.parse(spelling) for spelling in self.offered("linear", shape)]
        fitting.sort(key=lambda other: abs(other.bits_per_weight(shape) - bits))
        nearest = ", ".join(other.spelling for other in fitting[:3])
        mend = (
            f"the nearest that it can are {nearest}: compress again with --for {self.name}"
            if nearest
            else "no scheme fits a tensor of this shape"
        )
        raise ValueError(f"{self.name} can't hold {name} {tuple(shape)} as {scheme.spelling}; {mend}")


def _integer_bits(scheme: Scheme) -> int | None:
    """Bits of an integer grid in two's complement or with a zero point; None for all other grids."""
    spelling = scheme.grid.spelling
    digits = spelling.removeprefix("uint").removeprefix("int")
    return int(digits) if spelling.startswith(("int", "uint")) and digits.isdigit() and digits != "1" else None


def _rows_or_whole_groups(scheme: Scheme, shape: tuple[int, ...]) -> bool:
    """One scale a row, or for groups that fill a row."""
    blocks = scheme.blocks
    return blocks.rows == 1 and (blocks.columns is None or as_matrix(shape)[1] % blocks.columns == 0)


def _plain_scales(scheme: Scheme) -> bool:
    return scheme.scale_format.spelling in ("f32", "f16", "bf16")


def _held_by_compressed_tensors(scheme: Scheme, shape: tuple[int, ...]) -> bool:
    """The pack-quantized layout: integers of 2 to 8 bits, a row or whole groups to a scale.

    Its packed zero points are defined, but Transformers 5.24 does not load them with compressed-tensors 0.20.
    """
    integer = _integer_bits(scheme) is not None and not scheme.asymmetric
    return len(shape) == 2 and integer and _plain_scales(scheme) and _rows_or_whole_groups(scheme, shape)


def _held_by_onnx(scheme: Scheme, shape: tuple[int, ...]) -> bool:
    """MatMulNBits: 2, 4 or 8 bits in groups of 16, 32, 64, 128 or 256; DequantizeLinear: 8 bits, a row to a scale."""
    bits, columns = _integer_bits(scheme), scheme.blocks.columns
    if bits is None or not _plain_scales(scheme) or not _rows_or_whole_groups(scheme, shape):
        return False
    if columns is None:
        return bits == 8 and not scheme.asymmetric
    return len(shape) == 2 and bits in (2, 4, 8) and columns in (16, 32, 64, 128, 256)


FORMATS = {
    "compressed-tensors": Format(
        "compressed-tensors",
        (
            "int8-channel", "int6-g128", "int5-g128", "int5-g64", "int4-g32", "int4-g64", "int4-g128", "int3-g32",
            "int3-g64", "int2-g16", "int2-g32",
        ),
        (),  # its loaders know packed linear layers only: tables stay as they are
        _held_by_compressed_tensors,
    ),
    "gguf": Format(
        "gguf",
        (
            "int8-g32", "int6-g16-k7x16", "int5-g32-asym-k6", "int5-g32", "int4-g32-asym-k6", "int4-g32",
            "int3-g16-k5x16", "int2-g16-asym-k4x16",
        ),
        ("int8-g32", "int6-g16-k7x16", "int5-g32", "int4-g32", "int3-g16-k5x16"),
        lambda scheme, shape: block_type(scheme, shape) is not None,
    ),
    "onnx": Format(
        "onnx",
        (
            "int8-channel", "int8-g128", "int4-g32-asym", "int4-g64-asym", "int4-g128-asym", "int2-g32-asym",
            "int2-g64-asym",
        ),
        ("int8-channel", "int4-g32-asym", "int4-g64-asym", "int4-g128-asym"),
        _held_by_onnx,
    ),
}  # fmt: skip


def find_format(name: str) -> Format:
    """The format of a name.

    Raises
    ------
    ValueError
        If there is none; the message lists them.
    """
    if name not in FORMATS:
        raise ValueError(f"no format is called {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
