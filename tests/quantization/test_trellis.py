"""Trellis grids: as near to normal values as they say, exact to store, and found by an exact search."""

from __future__ import annotations

import copy
import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest

from tercile import _native
from tercile.quantization import QTensor, Scheme, packing, ranges
from tercile.quantization.grids import Trellis, normal, parse
from tercile.quantization.grids.trellis import state_values
from tercile.quantization.solvers import coordinate_descent, gpfq, gptq, output_error, round_to_nearest
from tercile.quantization.statistics import Statistics

RATES = ["1", "1.5", "2", "2.25", "2.5", "3", "4", "5"]
SPELLINGS = [*(f"trellis{rate}" for rate in RATES), "trellis2.125", "trellis1.75m9"]
COLUMN_GRIDS = [*SPELLINGS, "pairs1", "pairs1.5", "pairs2.5", "pairs4"]


def problem(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, Statistics]:
    rng = np.random.default_rng([rows, columns, seed])
    seen = Statistics(columns)
    seen.update(
        rng.normal(size=(3 * columns, columns)) @ (rng.normal(size=(columns, columns)) * rng.exponential(size=columns))
    )
    return rng.normal(size=(rows, columns)).astype(np.float32), seen


@pytest.mark.parametrize(
    "rate, at_most", [("1", 0.29), ("1.5", 0.15), ("2", 0.0755), ("2.5", 0.039), ("3", 0.0197), ("4", 0.0053)]
)
def test_normal_values_lose_little_more_than_the_rate_distortion_bound(rate: str, at_most: float) -> None:
    x = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    scheme = Scheme.parse(f"trellis{rate}-tensor-f32")
    loss = float(((QTensor.quantize(x, scheme, ranges.mse(x, scheme)).dequantize() - x) ** 2).mean() / (x**2).mean())
    assert 4.0 ** -float(rate) < loss < at_most
    if rate in ("2", "3", "4"):
        plain = normal(2 ** int(rate))
        assert loss < 0.65 * float(((plain.decode(plain.encode(x)) - x) ** 2).mean())


def test_more_memory_loses_less() -> None:
    x = np.random.default_rng(1).normal(size=(256, 24)).astype(np.float32)
    losses = [((grid.decode(grid.encode(x)) - x) ** 2).mean() for grid in (Trellis(2, m) for m in (9, 11, 13))]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("rate", ["1", "1.5", "2", "2.5"])
def test_the_search_finds_the_best_of_all_sequences(rate: str) -> None:
    grid, x = Trellis(Fraction(rate), 9), np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    choices = [range(1 << bits) for bits in grid.row_bits(6)]
    every = np.array(list(itertools.product(*choices)), dtype=np.uint8).T
    best = ((grid.decode(np.ascontiguousarray(every))[:, :, None] - x[:, None]) ** 2).sum(axis=0).min(axis=0)
    np.testing.assert_allclose(((grid.decode(grid.encode(x)) - x) ** 2).sum(axis=0), best, rtol=1e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_decoding_reads_the_last_bits_of_the_stream(spelling: str) -> None:
    grid = parse(spelling)
    codes = np.array([np.random.default_rng(r).integers(0, 1 << b, size=5) for r, b in enumerate(grid.row_bits(300))])
    values, table, state = grid.decode(codes.astype(np.uint8)), state_values(grid.memory), [0] * 5
    for r, bits in enumerate(grid.row_bits(300)):
        if r == 150:  # 300 rows are two strips
            state = [0] * 5
        state = [((s << int(bits)) | int(c)) % 2**grid.memory for s, c in zip(state, codes[r], strict=True)]
        assert values[r].tolist() == table[state].tolist()


@pytest.mark.parametrize("spelling", COLUMN_GRIDS)
def test_spelling_names_the_same_grid_and_its_copies(spelling: str) -> None:
    grid = parse(spelling)
    grid.encode(np.zeros((2, 2)))
    for again in (parse(grid.spelling), copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert again == grid and hash(again) == hash(grid) and again.spelling == spelling
    assert Scheme.parse(f"{spelling}-channel-rot").spelling == f"{spelling}-channel-rot"


@pytest.mark.parametrize("spelling", ["trellis0.5", "trellis2.3", "trellis6", "trellis2m8", "trellis2m17"])
def test_rates_and_memories_out_of_range_are_refused_by_name(spelling: str) -> None:
    with pytest.raises(ValueError, match="of a trellis must be"):
        parse(spelling)


@pytest.mark.parametrize("spelling", COLUMN_GRIDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (256, 3), (257, 4), (700, 2), (16, 64)])
def test_packing_wastes_no_bit_and_comes_back(spelling: str, shape: tuple[int, int]) -> None:
    grid = parse(spelling)
    codes = grid.encode(np.random.default_rng(0).normal(size=shape))
    words = packing.pack(codes, grid)
    bits = int(grid.row_bits(shape[0]).sum()) * shape[1]
    assert words.size == -(-bits // 32)
    assert np.array_equal(packing.unpack(words, shape[1], grid, shape[0]), codes)
    stream = "".join(f"{int(word):032b}"[::-1] for word in words[0])
    written = "".join(
        f"{int(c):0{b}b}"[::-1] for row, b in zip(codes, grid.row_bits(shape[0]), strict=True) for c in row
    )
    assert stream == written.ljust(len(stream), "0")


@pytest.mark.parametrize(
    "spelling", ["trellis2-channel", "trellis2.25-g16", "trellis3-channel-k6-rot", "trellis1.5-t5x8-bf16-rot",
                 "pairs2-channel", "pairs2.5-g16-rot"]
)
@pytest.mark.parametrize("shape", [(24, 40), (5, 3, 2, 2), (23,), (1, 1)])
def test_tensors_come_back_from_their_arrays(spelling: str, shape: tuple[int, ...]) -> None:
    scheme, x = Scheme.parse(spelling), np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stored = round_to_nearest(x, None, scheme)
    again = QTensor.from_arrays("w", scheme, shape, stored.to_arrays("w"))
    assert np.array_equal(again.dequantize(), stored.dequantize()) and again.dequantize().shape == shape
    assert stored.nbytes == scheme.nbytes(shape)


def test_damaged_words_are_refused() -> None:
    scheme, x = Scheme.parse("trellis2.5-channel"), np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    arrays = round_to_nearest(x, None, scheme).to_arrays("w")
    for wrong in (arrays["w.codes"][:, :-1], arrays["w.codes"] | np.uint32(1 << 31)):
        with pytest.raises(ValueError, match=r"w\.codes"):
            QTensor.from_arrays("w", scheme, x.shape, arrays | {"w.codes": wrong})


def test_codes_with_more_bits_than_their_row_are_refused() -> None:
    with pytest.raises(ValueError, match="more bits than its row"):
        Trellis(2).decode(np.full((2, 2), 4, dtype=np.uint8))
    with pytest.raises(TypeError, match="whole numbers"):
        Trellis(2).decode(np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match=r"x\[0, 1\] is nan"):
        Trellis(2).encode(np.float32([[0, np.nan]]))
    with pytest.raises(ValueError, match="two dimensions"):
        Trellis(2).encode(np.zeros(3))


@pytest.mark.parametrize(
    "spelling",
    ["trellis2-channel", "trellis2.5-g16", "trellis2-channel-rot", "int3-channel-rot", "int3-g16-asym-k6-rot",
     "pairs2-channel", "pairs2.5-g16-rot"],
)
def test_gptq_beats_rounding_and_descent_beats_gptq(spelling: str) -> None:
    scheme, ratios = Scheme.parse(spelling), []
    for seed in range(4):
        weight, seen = problem(64, 48, seed)
        plain, first = round_to_nearest(weight, seen, scheme), gptq(weight, seen, scheme)
        again = coordinate_descent(weight, first, seen)
        errors = [output_error(weight, q, seen) for q in (plain, first, again)]
        assert errors[2] < 1.02 * errors[1] < errors[0]  # descent lowers the damped error
        ratios.append(errors[1] / errors[0])
    assert np.mean(ratios) < 0.7


def test_one_column_at_a_time_is_the_loop_written_in_numpy() -> None:
    weight, seen = problem(40, 12)
    scheme = Scheme.parse("trellis2-channel-f32")
    stored = gptq(weight, seen, scheme)
    hessian = seen.second_moment.astype(np.float64)
    hessian += 0.01 * np.diagonal(hessian).mean() * np.eye(12)
    order = np.argsort(np.diagonal(seen.second_moment))  # the least first: columns are taken from the last on
    factor = np.linalg.cholesky(hessian[np.ix_(order, order)]).T
    scale, error, got = stored.ranges.scale[:, 0], np.zeros((40, 12)), stored.dequantize()
    values = np.float32(weight[:, order])
    for p in range(11, -1, -1):
        target = values[:, p] + error[:, p + 1 :] @ factor[p, p + 1 :] / factor[p, p]
        cost = ((target - got[:, order[p]]) ** 2).sum()
        # Nothing that a random change of one code gives is better: the column is the best sequence for its target.
        codes, rng = stored.codes[:, order[p]].copy(), np.random.default_rng(p)
        for _ in range(60):
            other = codes.copy()
            other[rng.integers(40)] = rng.integers(4)
            tried = scheme.grid.decode(other[:, None])[:, 0] * scale
            assert ((target - tried) ** 2).sum() >= cost * (1 - 1e-4)
        error[:, p] = values[:, p] - got[:, order[p]]


@pytest.mark.parametrize("spelling", ["trellis2-channel", "trellis2.25-channel-rot", "pairs2.5-channel-rot"])
def test_threads_do_not_change_a_bit(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, seen = problem(300, 20)
    words = []
    for threads in ("1", "3"):
        monkeypatch.setenv("TERCILE_THREADS", threads)
        words.append(coordinate_descent(weight, gptq(weight, seen, Scheme.parse(spelling)), seen).words.tobytes())
    assert words[0] == words[1]


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4, 1e30])
@pytest.mark.parametrize("spelling", ["trellis2-channel-f32", "trellis2.5-g8-f32-rot", "pairs2-channel-f32"])
def test_weights_of_any_size_stay_finite(size: float, spelling: str) -> None:
    weight, seen = problem(9, 23)
    for shape in (weight, np.ones_like(weight), np.eye(9, 23, dtype=np.float32)):
        stored = gptq(shape * np.float32(size), seen, Scheme.parse(spelling)).dequantize()
        assert np.isfinite(stored).all() and np.abs(stored).max() <= 8 * size * max(1, np.abs(shape).max())


def test_outliers_do_not_hide_the_other_weights() -> None:
    x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    spiked = x.copy()
    spiked[100] = 3000
    grid = Trellis(2)
    apart = np.abs(np.arange(256) - 100) > 12
    loss = ((grid.decode(grid.encode(spiked)) - x)[apart] ** 2).mean()
    assert loss < 1.1 * ((grid.decode(grid.encode(x)) - x)[apart] ** 2).mean()


def test_all_kernels_choose_the_same_codes() -> None:
    import os
    import subprocess
    import sys

    script = (
        "names = ('trellis1', 'trellis2.5', 'trellis3.5', 'trellis5');"
        "import numpy as np, hashlib; from tercile.quantization.grids import parse;"
        "x = np.random.default_rng(0).normal(size=(200, 5));"
        "print([hashlib.sha256(parse(s).encode(x).tobytes()).hexdigest() for s in names])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"TERCILE_KERNELS": name}, check=True, capture_output=True
        ).stdout
        for name in _native.available_kernels()
    }
    assert len(found) == 1


def test_what_cannot_round_sequences_or_rotate_says_so() -> None:
    weight, seen = problem(8, 12)
    with pytest.raises(ValueError, match="rounds sequences"):
        ranges.golden_section(weight, Scheme.parse("trellis2-channel"))
    with pytest.raises(ValueError, match="in another basis"):
        ranges.mse(weight, Scheme.parse("int4-channel-rot"))
    with pytest.raises(ValueError, match="in another basis"):
        gpfq(weight, seen, Scheme.parse("int4-channel-rot"))
