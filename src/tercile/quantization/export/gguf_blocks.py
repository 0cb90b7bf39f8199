"""QTensors as the block formats of ggml, bit for bit: what llama.cpp reads from a GGUF file.

Each of ggml's formats is one of our schemes written in another order; the table says which. Formats of 256 weights
keep 8 or 16 small scales under one or two float16: a super-scale of the same span.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tercile.quantization import packing
from tercile.quantization.blocks import as_matrix
from tercile.quantization.grids import unsigned
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme

#: ggml's name of the format that holds a scheme, and the weights of one of its blocks.
TYPES = {
    "int8-g32": ("Q8_0", 32),
    "int5-g32": ("Q5_0", 32),
    "int4-g32": ("Q4_0", 32),
    "fp4-e2m1-g32-e8m0": ("MXFP4", 32),
    "int6-g16-k7x16": ("Q6_K", 256),
    "int5-g32-asym-k6": ("Q5_K", 256),
    "int4-g32-asym-k6": ("Q4_K", 256),
    "int3-g16-k5x16": ("Q3_K", 256),
    "int2-g16-asym-k4x16": ("Q2_K", 256),
}


def block_type(scheme: Scheme, shape: tuple[int, ...]) -> str | None:
    """ggml's name of the format that a tensor of this scheme and shape is, or None.

    Examples
    --------
    >>> block_type(Scheme.parse("int4-g32-asym-k6"), (64, 512))
    'Q4_K'
    >>> block_type(Scheme.parse("int4-g32-asym-k6"), (64, 704)) is None  # 704 is no multiple of 256
    True
    """
    name, size = TYPES.get(scheme.spelling, (None, 1))
    return name if len(shape) == 2 and as_matrix(shape)[1] % size == 0 else None


def to_blocks(q: QTensor) -> tuple[str, np.ndarray]:
    """A tensor in ggml's layout.

    Parameters
    ----------
    q
        Of a scheme and shape that `block_type` knows.

    Returns
    -------
    ggml's name of the format, and uint8 (rows, bytes of a row).

    Raises
    ------
    ValueError
        If no block format holds it.

    Examples
    --------
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> name, rows = to_blocks(round_to_nearest(np.ones((2, 64), np.float32), None, Scheme.parse("int8-g32")))
    >>> name, rows.shape
    ('Q8_0', (2, 68))
    """
    name = block_type(q.scheme, q.shape)
    if name is None:
        raise ValueError(f"no block format of ggml holds {q.scheme.spelling} of shape {q.shape}")
    rows, columns = q.shape
    size = TYPES[q.scheme.spelling][1]
    codes = q.codes.reshape(-1, size)
    parts = _WRITERS[name](q, codes)
    blocks = np.concatenate([part.view(np.uint8).reshape(len(codes), -1) for part in parts], axis=1)
    return name, np.ascontiguousarray(blocks.reshape(rows, columns // size * blocks.shape[1]))


def _halves(codes: np.ndarray) -> np.ndarray:
    """4-bit codes of a block, the first half of it in the low bits and the second in the high ones."""
    half = codes.shape[-1] // 2
    return codes[..., :half] | (codes[..., half:] << 4)


def _fifth_bits(codes: np.ndarray) -> np.ndarray:
    return np.packbits(codes >> 4, axis=-1, bitorder="little")


def _q8_0(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    return [q.arrays["scale"].reshape(-1, 1), (codes.astype(np.int16) - 128).astype(np.int8)]


def _q5_0(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    return [q.arrays["scale"].reshape(-1, 1), _fifth_bits(codes), _halves(codes & 15)]


# The codes of E2M1 are its bit patterns, in ggml as here.
def _q4_0(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    return [q.arrays["scale"].reshape(-1, 1), _halves(codes)]


def _small_scales(q: QTensor, prefix: str, bits: int, count: int) -> np.ndarray:
    """Codes of the scales under a super-scale, (blocks, count)."""
    groups = int(np.prod(q.scheme.blocks.count(as_matrix(q.shape))))
    return packing.unpack(q.arrays[f"{prefix}scale"], groups, unsigned(bits)).reshape(-1, count)


def _super(q: QTensor, prefix: str = "") -> np.ndarray:
    return q.arrays[f"{prefix}super"].reshape(-1, 1)


def _six_bit_pairs(q: QTensor) -> np.ndarray:
    """The 12 bytes of 8 scales and 8 minima of 6 bits: four of each whole, the others' parts around them."""
    scale, low = _small_scales(q, "", 6, 8), _small_scales(q, "offset_", 6, 8)
    first = scale[:, :4] | ((scale[:, 4:] >> 4) << 6)
    second = low[:, :4] | ((low[:, 4:] >> 4) << 6)
    third = (scale[:, 4:] & 15) | ((low[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def _nibbles_of_64(codes: np.ndarray) -> np.ndarray:
    """Low 4 bits in runs of 64 weights: the first 32 in the low half of 32 bytes, the next in the high half."""
    return _halves((codes & 15).reshape(len(codes), 4, 64))


def _q4_k(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    return [_super(q), _super(q, "offset_"), _six_bit_pairs(q), _nibbles_of_64(codes)]


def _q5_k(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    # Byte i holds the fifth bits of weights i, 32 + i, 64 + i, ...
    high = np.packbits((codes >> 4).reshape(len(codes), 8, 32), axis=1, bitorder="little")
    return [_super(q), _super(q, "offset_"), _six_bit_pairs(q), high, _nibbles_of_64(codes)]


def _quarters(codes: np.ndarray, width: int) -> np.ndarray:
    """2-bit codes in runs of 4 * width weights: byte i of a run holds weights i, i + width, i + 2 width, ..."""
    parts = codes.reshape(len(codes), -1, 4, width)
    return parts[:, :, 0] | (parts[:, :, 1] << 2) | (parts[:, :, 2] << 4) | (parts[:, :, 3] << 6)


def _q2_k(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    scales = _small_scales(q, "", 4, 16) | (_small_scales(q, "offset_", 4, 16) << 4)
    return [scales, _quarters(codes, 32), _super(q), _super(q, "offset_")]


def _q3_k(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    # A weight is its two low bits, less 4 unless its third bit is set: our code 4 + value has the same bits.
    high = np.packbits((codes >> 2).reshape(len(codes), 8, 32), axis=1, bitorder="little")
    scale = _small_scales(q, "", 5, 16) + 32
    low = (scale[:, :8] & 15) | ((scale[:, 8:] & 15) << 4)
    top = (scale >> 4).reshape(len(scale), 4, 4)
    packed = top[:, 0] | (top[:, 1] << 2) | (top[:, 2] << 4) | (top[:, 3] << 6)
    return [high, _quarters(codes & 3, 32), low, packed, _super(q)]


def _q6_k(q: QTensor, codes: np.ndarray) -> list[np.ndarray]:
    # Runs of 128: the first 64 in the low nibbles of 64 bytes, the next 64 in the high ones.
    return [_halves((codes & 15).reshape(len(codes), 2, 128)), _quarters(codes >> 4, 32), _small_scales(q, "", 7, 16),
            _super(q)]  # fmt: skip


_WRITERS: dict[str, Callable[[QTensor, np.ndarray], list[np.ndarray]]] = {
    "Q8_0": _q8_0,
    "Q5_0": _q5_0,
    "Q4_0": _q4_0,
    "MXFP4": _q4_0,
    "Q6_K": _q6_k,
    "Q5_K": _q5_k,
    "Q4_K": _q4_k,
    "Q3_K": _q3_k,
    "Q2_K": _q2_k,
}
