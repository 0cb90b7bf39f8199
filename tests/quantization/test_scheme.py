"""Schemes: the spelling goes both ways, every bit is counted, and what cannot be stored is refused."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercile.quantization import QTensor, Scheme, blocks, grids, ranges, scales

FORMATS = [*scales.NAMED, "k6", "k4x16", "k3x5"]
SYMMETRIC = [name for name in grids.NAMED if not name.startswith("uint")] + ["cb[-1,-0.25,0,0.5,2]", "fp3-e1m1"]
CUTS = ["tensor", "channel", "token", "g1", "g32", "g100", "t16x16", "t3x5"]

grid_spellings = st.one_of(
    st.sampled_from(SYMMETRIC),
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=20, unique=True).map(
        lambda values: grids.codebook(values).spelling
    ),
)
block_spellings = st.one_of(
    st.sampled_from(["tensor", "channel", "token"]),
    st.integers(1, 10**6).map(lambda size: f"g{size}"),
    st.tuples(st.integers(1, 999), st.integers(1, 999)).map(lambda size: f"t{size[0]}x{size[1]}"),
)


@given(grid_spellings, block_spellings, st.sampled_from(FORMATS))
def test_symmetric_spellings_go_both_ways(grid: str, cut: str, form: str) -> None:
    spelling = f"{grid}-{cut}" + ("" if form == "f16" else f"-{form}")
    scheme = Scheme.parse(spelling)
    assert scheme.spelling == spelling == str(scheme)
    assert Scheme.parse(scheme.spelling) == scheme and hash(Scheme.parse(spelling)) == hash(scheme)
    assert scheme == Scheme(grids.parse(grid), blocks.parse(cut), scales.parse(form))


@given(st.integers(1, 8), block_spellings, st.sampled_from(FORMATS))
def test_asymmetric_spellings_go_both_ways(bits: int, cut: str, form: str) -> None:
    spelling = f"int{bits}-{cut}-asym" + ("" if form == "f16" else f"-{form}")
    scheme = Scheme.parse(spelling)
    assert scheme.spelling == spelling and scheme.grid == grids.unsigned(bits) and scheme.asymmetric


@pytest.mark.parametrize("grid", SYMMETRIC + [f"int{b}-asym" for b in range(1, 9)])
def test_bits_per_weight_is_what_a_tensor_stores(grid: str) -> None:
    rng = np.random.default_rng(0)
    name, asym = grid.removesuffix("-asym"), "-asym" * grid.endswith("-asym")
    for number, (cut, form) in enumerate(itertools.product(CUTS, FORMATS)):
        shape = [(5, 37), (1, 64), (17,), (3, 2, 3, 3)][number % 4]
        scheme = Scheme.parse(f"{name}-{cut}{asym}-{form}")
        x = rng.normal(size=shape).astype(np.float32)
        stored = QTensor.quantize(x, scheme, ranges.min_max(x, scheme))
        assert stored.nbytes == scheme.nbytes(shape) == sum(a.nbytes for a in stored.to_arrays("x").values())
        assert stored.bits_per_weight == scheme.bits_per_weight(shape) == 8 * stored.nbytes / x.size
        assert np.isfinite(stored.dequantize()).all()


@pytest.mark.parametrize(
    "spelling, bits",
    [
        ("int4-g128", 4 + 16 / 128),
        ("int4-g32-asym", 4 + 16 / 32 + 4 / 32),
        ("int4-g32-asym-k6", 4 + 2 * 6 / 32 + 2 * 16 / 256),
        ("int3-g16-k6x16", 3 + 6 / 16 + 16 / 256),
        ("nf4-g64-f32", 4 + 32 / 64),
        ("fp4-e2m1-g16-e4m3", 4 + 8 / 16 + 32 / 4096**2),
        ("fp4-e2m1-g32-e8m0", 4 + 8 / 32),
        ("int8-channel", 8 + 16 / 4096),
        ("int8-tensor-f32", 8 + 32 / 4096**2),
        ("ternary-g64", 32 * 205 / 4096 + 16 / 64),
        ("int4-t16x16-bf16", 4 + 16 / 256),
    ],
)
def test_bits_counted_by_hand(spelling: str, bits: float) -> None:
    assert Scheme.parse(spelling).bits_per_weight((4096, 4096)) == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize(
    "spelling, message",
    [
        ("", "is no scheme; write"),
        ("int4", "is no scheme; write"),
        ("int4-g64-asym-f16-more", "is no scheme"),
        ("int9-g64", "1 to 8, got 9"),
        ("int12-g64", "no grid is called 'int12'"),
        ("foo4-g64", "there are int1"),
        ("int4-row", "no blocks are called 'row'; there are tensor"),
        ("int4-g64-f64", "no scale format is called 'f64'; there are f32"),
        ("int4-g0", "at least 1"),
        ("nf4-g64-asym", "only integer grids take a zero point, got 'nf4'"),
        ("uint4-g64", "needs a zero point; write int4-...-asym"),
        ("fp8-e4m2-g64", "make 7 bits"),
    ],
)
def test_a_wrong_spelling_says_which_part_and_what_there_is(spelling: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(spelling)


def test_a_spelling_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="must be a string"):
        Scheme.parse(None)


def ones(shape=(1, 1)):
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    "spelling, scale, offset, message",
    [
        ("int4-g64", ones() * np.nan, None, "scale holds NaN"),
        ("int4-g64", ones() * np.inf, None, "scale holds NaN or infinity"),
        ("int4-g64", ones((3,)), None, r"block rows, block columns\), got shape \(3,\)"),
        ("int4-g64", ones() * 1e6, None, "does not fit f16"),
        ("int4-g64-f32", ones() * 1e38, None, "beyond float32"),
        ("fp8-e5m2-g64-bf16", ones() * 1e34, None, "beyond float32"),
        ("int4-g64-asym", ones(), None, "offset is missing"),
        ("int4-g64-asym", ones(), ones() * np.nan, "offset must be finite"),
        ("int4-g64-asym", ones(), ones(), "not positive"),
        ("int4-g64-asym", ones(), -ones((1, 2)), r"offset has shape \(1, 2\), scale \(1, 1\)"),
    ],
)
def test_ranges_that_cannot_be_stored_are_refused(spelling: str, scale, offset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(spelling).ranges(scale, offset)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("asym", ["", "-asym"])
def test_ranges_are_what_their_stored_arrays_decode_to(form: str, asym: str) -> None:
    scheme = Scheme.parse(f"int4-g8{asym}-{form}")
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=(5, 4))).astype(np.float32)
    offset = -scale * rng.uniform(0, 15, size=scale.shape).astype(np.float32) if asym else None
    made = scheme.ranges(scale, offset)
    loaded = scheme.load_ranges(made.arrays, (5, 30))
    assert np.array_equal(made.scale, loaded.scale) and np.array_equal(made.offset, loaded.offset)


def test_encoding_chooses_the_nearest_stored_value() -> None:
    rng = np.random.default_rng(4)
    for spelling in ["int3-g8-asym", "nf4-t3x4-bf16", "int4-g5-asym-k6", "ternary-channel", "fp4-e2m1-g16-e8m0"]:
        scheme = Scheme.parse(spelling)
        x = rng.normal(size=(7, 21)).astype(np.float32)
        made = ranges.min_max(x, scheme)
        decoded = scheme.decode(scheme.encode(x, made), made)
        scale = np.broadcast_to(scheme.blocks.spread(made.scale, x.shape), x.shape)
        offset = np.broadcast_to(scheme.blocks.spread(made.offset, x.shape), x.shape)
        every = scale[..., None] * scheme.grid.levels + offset[..., None]
        assert np.allclose(np.abs(decoded - x), np.abs(every - x[..., None]).min(axis=-1), atol=1e-6)


def test_encoding_numbers_that_are_not_finite_is_refused() -> None:
    scheme = Scheme.parse("int4-g64-f32")
    made = scheme.ranges(ones())
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            scheme.encode(np.float32([[1, bad]]), made)


def test_a_scale_without_a_reciprocal_still_encodes() -> None:
    scheme = Scheme.parse("int4-channel-f32")
    x = np.float32([[-8e-40, 3e-40, 0, 7e-40]])
    made = ranges.min_max(x, scheme)
    assert np.allclose(scheme.decode(scheme.encode(x, made), made), x, rtol=1e-3, atol=1e-44)


def test_schemes_copy_after_use() -> None:
    scheme = Scheme.parse("fp8-e4m3-g64")
    scheme.grid.encode(np.float32([1]))
    assert copy.deepcopy(scheme) == scheme
