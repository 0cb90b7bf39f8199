"""Packing against a reference made of Python strings and integers."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import packing
from tercile.quantization.grids import codebook, integer, ternary

WIDTHS = [0, 1, 2, 3, 7, 10, 19, 20, 21, 31, 32, 33, 63, 64, 65, 100]
BASES = [3, 5, 6, 7, 9, 11, 15, 17, 31, 100, 129, 200, 255]


def as_bits(row: list[int], bits: int) -> list[int]:
    """Words of a row by writing every code as a string of digits, the last code first."""
    text = "".join(format(code, f"0{bits}b") for code in reversed(row))
    text = text.zfill(-(-len(text) // 32) * 32)
    return [int(text[i : i + 32], 2) for i in range(len(text) - 32, -1, -32)]


def as_digits(row: list[int], base: int, per_word: int) -> list[int]:
    pieces = [row[i : i + per_word] for i in range(0, len(row), per_word)]
    return [sum(code * base**place for place, code in enumerate(piece)) for piece in pieces]


def grid_of(base: int):
    return codebook(range(base))


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_whole_bits_are_one_stream_a_row(bits: int, columns: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, size=(5, columns), dtype=np.uint8)
    words = packing.pack(codes, integer(bits))
    assert words.tolist() == [as_bits(row, bits) for row in codes.tolist()]
    assert words.shape == (5, -(-columns * bits // 32))
    assert np.array_equal(packing.unpack(words, columns, integer(bits)), codes)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("base", BASES)
def test_other_counts_are_digits_of_a_word(base: int, columns: int) -> None:
    grid = grid_of(base)
    codes = np.random.default_rng(base).integers(0, base, size=(4, columns), dtype=np.uint8)
    codes[:1] = base - 1  # the largest word there can be
    words = packing.pack(codes, grid)
    assert words.tolist() == [as_digits(row, base, grid.codes_per_word) for row in codes.tolist()]
    assert np.array_equal(packing.unpack(words, columns, grid), codes)


@pytest.mark.parametrize("base", BASES)
def test_a_word_holds_as_many_digits_as_fit(base: int) -> None:
    per_word = grid_of(base).codes_per_word
    assert base**per_word <= 2**32 < base ** (per_word + 1)


def test_no_word_is_wasted() -> None:
    for grid in [integer(b) for b in range(1, 9)] + [ternary(), grid_of(5)]:
        for columns in range(200):
            assert packing.words_per_row(columns, grid) * 32 < columns * grid.bits + 32


def test_many_long_rows_go_through_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 8, size=(300, 1001), dtype=np.uint8)
    monkeypatch.setenv("TERCILE_THREADS", "1")
    one = packing.pack(codes, integer(3))
    monkeypatch.setenv("TERCILE_THREADS", "3")
    assert np.array_equal(packing.pack(codes, integer(3)), one)
    assert np.array_equal(packing.unpack(one, 1001, integer(3)), codes)


def test_slices_and_other_integer_types_are_packed_as_what_they_hold() -> None:
    codes = np.arange(64).reshape(4, 16) % 16
    assert np.array_equal(
        packing.pack(codes[::2, ::-1], integer(4)), packing.pack(codes[::2, ::-1].astype(np.uint8).copy(), integer(4))
    )


@pytest.mark.parametrize(
    "codes, error, message",
    [
        (np.uint8([1, 2]), ValueError, r"two dimensions.*\(2,\)"),
        (np.uint8([[16]]), ValueError, r"codes hold 16; grid 'int4' has codes 0 to 15"),
        (np.array([[256]]), ValueError, r"codes hold 256"),
        (np.array([[-1]]), ValueError, r"codes hold -1"),
        (np.array([[1.0]]), TypeError, r"float64"),
    ],
)
def test_bad_codes_are_refused(codes: np.ndarray, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        packing.pack(codes, integer(4))


def test_bad_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"9 codes of 'int4' take 2 a row"):
        packing.unpack(np.zeros((1, 1), np.uint32), 9, integer(4))
    with pytest.raises(TypeError, match="int64"):
        packing.unpack(np.zeros((1, 1), np.int64), 8, integer(4))
