"""Every grid that has a name, and random codebooks, keep what `Grid` promises."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

from tercile.quantization import grids

_rng = np.random.default_rng(20)
CODEBOOKS = [
    grids.codebook(np.unique(_rng.normal(size=count).astype(np.float32) * np.float32(size)))
    for count, size in [(2, 1), (3, 1e-20), (5, 1), (7, 1e20), (16, 3), (100, 1), (200, 1), (256, 1)]
]
LOPSIDED = [grids.codebook(v) for v in ([0, 1], [-1, 0], [1, 2, 4], [-3, -2, -1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])]
GRIDS = [grids.parse(name) for name in grids.NAMED] + CODEBOOKS + LOPSIDED
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.spelling[:24])


def test_every_public_function_that_makes_a_grid_is_named() -> None:
    made = {re.match(r"[a-z]+", grid.spelling)[0] for grid in GRIDS}
    # Trellis and pairs round whole columns: tests/quantization/test_trellis.py, test_pairs.py.
    functions = {name for name in grids.__all__ if callable(getattr(grids, name))}
    functions -= {"ColumnGrid", "Grid", "Pairs", "Trellis", "parse"}
    spelled = {"adaptive_logarithmic": "adalog", "logarithmic": "log", "logarithmic_sqrt": "logsqrt",
               "shifted_logarithmic": "shiftlog", "tangent": "tan", "codebook": "cb",
               "floating": "fp", "integer": "int", "normal": "normal", "normal_float": "nf",
               "power_of_two": "pot", "sign": "sign", "ternary": "ternary", "unsigned": "uint"}  # fmt: skip
    assert functions == spelled.keys(), "add the new grid to grids.NAMED and to this list"
    assert set(spelled.values()) <= made


@every_grid
def test_own_values_come_back(grid: grids.Grid) -> None:
    codes = grid.encode(grid.levels)
    assert grid.decode(codes).tolist() == grid.levels.tolist()
    assert codes.tolist() == grid.code_of_level.tolist()


@every_grid
def test_code_is_the_nearest_by_brute_force(grid: grids.Grid) -> None:
    levels = grid.levels.astype(np.float64)
    span = levels[-1] - levels[0]
    x = np.random.default_rng(1).uniform(levels[0] - 0.2 * span, levels[-1] + 0.2 * span, size=3001)
    x = np.concatenate([x, levels, (levels[1:] + levels[:-1]) / 2, [-1e38, 1e38, 1e-45, -1e-45]]).astype(np.float32)
    chosen = np.abs(x - grid.decode(grid.encode(x)).astype(np.float64))
    best = np.abs(x[:, None].astype(np.float64) - levels).min(axis=1)
    assert (chosen <= best + 4e-7 * np.maximum(np.abs(x), span)).all()
    far_from_tie = np.diff(np.partition(np.abs(x[:, None] - levels), 1, axis=1)[:, :2], axis=1)[:, 0] > 1e-5 * span
    assert np.array_equal(chosen[far_from_tie], best[far_from_tie])


@every_grid
def test_encoding_is_monotone(grid: grids.Grid) -> None:
    levels = grid.levels.astype(np.float64)
    x = np.linspace(levels[0] - 1e-3 * abs(levels[0]), levels[-1] * 1.1, 5003).astype(np.float32)
    assert (np.diff(grid.decode(grid.encode(np.sort(x)))) >= 0).all()


@every_grid
def test_spelling_names_the_same_grid(grid: grids.Grid) -> None:
    again = grids.parse(grid.spelling)
    assert again == grid and hash(again) == hash(grid) and again.spelling == grid.spelling
    assert np.array_equal(np.float32(again.table), np.float32(grid.table), equal_nan=True)


@every_grid
def test_copies_and_pickles_are_equal_after_use(grid: grids.Grid) -> None:
    grid.encode(np.float32([0.3]))
    for again in (copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert again == grid and again.encode(np.float32([0.3])) == grid.encode(np.float32([0.3]))


@every_grid
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_position(grid: grids.Grid, bad: float) -> None:
    with pytest.raises(ValueError, match=r"x\[1\].*finite"):
        grid.encode(np.float32([[0.0, bad]]))


@every_grid
def test_codes_outside_the_table_are_refused(grid: grids.Grid) -> None:
    with pytest.raises(ValueError, match="codes hold"):
        grid.decode(np.array([len(grid.table)]))
    with pytest.raises(ValueError, match="codes hold -1"):
        grid.decode(np.array([-1]))
    with pytest.raises(TypeError, match="whole numbers"):
        grid.decode(np.array([0.5]))


@every_grid
def test_every_code_is_found_among_the_levels(grid: grids.Grid) -> None:
    used = np.flatnonzero(grid.valid)
    assert np.array_equal(grid.levels[grid.level_of_code[used]], np.float32(grid.table)[used])


@every_grid
def test_shapes_are_kept_and_empty_is_fine(grid: grids.Grid) -> None:
    for shape in [(), (0,), (3, 0), (2, 3, 4)]:
        codes = grid.encode(np.full(shape, 0.4))
        assert codes.shape == shape and codes.dtype == np.uint8 and grid.decode(codes).shape == shape


@every_grid
def test_bits_are_what_the_codes_of_one_word_need(grid: grids.Grid) -> None:
    count = len(grid.table)
    per_word = grid.codes_per_word or int(32 / grid.bits)
    assert count**per_word <= 2**32
    assert grid.bits >= np.log2(count) - 1e-12 and grid.bits <= 8
