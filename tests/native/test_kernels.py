"""Every set of kernels gives the bits of the plain one, and the environment's settings are read and checked."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tercile import _native
from tercile.quantization import grids

# What every kernel set must agree on: odd shapes, tails of vectors and of tiles, every way to round. Prints one hash.
PROBLEMS = """
import hashlib, itertools
import numpy as np
from tercile import _native
from tercile.quantization import Scheme, grids, ranges
from tercile.quantization.hadamard import rotate, rotate_back
from tercile.quantization.solvers import coordinate_descent, gptq, round_to_nearest
from tercile.quantization.statistics import Statistics

rng, seen = np.random.default_rng(0), hashlib.sha256()
names = ["int4", "uint3", "int1", "nf4", "fp8-e4m3", "fp4-e2m1", "ternary", "pot5", "cb[-2,0.1,0.7,30]"]
for grid in map(grids.parse, names):
    for count in [0, 1, 7, 8, 15, 16, 17, 31, 33, 1000, 70001]:
        x = (rng.standard_t(2, size=count) * 3).astype(np.float32)
        seen.update(grid.encode(x).tobytes())
for spelling in ["int4-g7-asym", "int3-t3x5", "nf4-g16-bf16", "ternary-channel", "fp8-e5m2-g64-f32", "int2-g5-asym-k6",
                 "fp4-e2m1-g16-e8m0", "int8-tensor", "cb[-2,0.1,0.7,30]-g31"]:
    scheme = Scheme.parse(spelling)
    for rows, columns in [(1, 1), (1, 17), (63, 31), (64, 64), (65, 33), (130, 5), (3, 129)]:
        statistics = Statistics(columns)
        statistics.update(rng.normal(size=(2 * columns, columns)) @ rng.normal(size=(columns, columns)))
        weight = rng.normal(size=(rows, columns)).astype(np.float32)
        for solve, estimate in itertools.product([gptq, round_to_nearest], [ranges.mse, ranges.min_max]):
            stored = solve(weight, statistics, scheme, estimate)
            seen.update(stored.words.tobytes())
            seen.update(coordinate_descent(weight, stored, statistics, sweeps=1).words.tobytes())
            for key in sorted(stored.arrays):
                seen.update(stored.arrays[key].tobytes())
    x = rng.standard_t(2, size=(9, 37)).astype(np.float32)
    for candidates in (1, 15, 16, 17, 40):
        scale = rng.normal(size=(9, candidates)).astype(np.float32)
        offset, errors = rng.normal(size=scale.shape).astype(np.float32), np.empty_like(scale)
        for weight in (np.empty((0, 0), np.float32), rng.exponential(size=x.shape).astype(np.float32)):
            _native.range_errors(x, weight, scale, offset, scheme.grid.native, errors)
            seen.update(errors.tobytes())
for columns in [1, 5, 8, 12, 24, 48, 70, 96, 128, 1000, 1536]:
    x = rng.normal(size=(3, columns)).astype(np.float32)
    seen.update(rotate(x).tobytes() + rotate_back(x).tobytes())
print(_native.kernels(), seen.hexdigest())
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_plain_kernels_are_always_there_and_first() -> None:
    assert _native.available_kernels()[0] == "plain"
    assert _native.kernels() in _native.available_kernels()


def test_every_set_of_kernels_and_number_of_threads_gives_the_same_bits() -> None:
    hashes = {}
    for kernels in _native.available_kernels():
        done = run(PROBLEMS, TERCILE_KERNELS=kernels, TERCILE_THREADS="1" if kernels == "plain" else "3")
        assert done.returncode == 0, done.stderr
        used, hashes[kernels] = done.stdout.split()
        assert used == kernels
    assert len(set(hashes.values())) == 1, hashes


def test_unknown_kernels_are_refused_with_those_that_run_here() -> None:
    code = "import numpy as np; from tercile.quantization.grids import parse; parse('int4').encode(np.zeros(3))"
    done = run(code, TERCILE_KERNELS="sse9")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "TERCILE_KERNELS is 'sse9', but this processor runs plain" in last and "unset it" in last


def test_a_wrong_number_of_threads_is_refused() -> None:
    code = "import numpy as np; from tercile.quantization.grids import parse; parse('int4').encode(np.zeros(3))"
    for wrong in ("0", "-2", "many"):
        done = run(code, TERCILE_THREADS=wrong)
        assert done.returncode != 0 and f"TERCILE_THREADS is '{wrong}'" in done.stderr
    assert run(code, TERCILE_THREADS="").returncode == 0


def encoded(levels: np.ndarray, x: float) -> int:
    out = np.empty(1, np.uint8)
    _native.nearest(np.float32([x]), _native.GridLevels(levels), out)
    return int(out[0])


@pytest.mark.parametrize("levels", [[0, 1, 2, 3], [0, 1, 3]])
def test_numbers_that_are_not_finite_never_leave_the_grid(levels: list[float]) -> None:
    table = np.float32(levels)
    assert encoded(table, np.inf) == len(levels) - 1 and encoded(table, -np.inf) == 0
    assert encoded(table, np.nan) in range(len(levels))


def test_range_errors_against_numpy_in_float64() -> None:
    rng = np.random.default_rng(0)
    for name in ("int4", "uint4", "nf4", "fp8-e4m3", "cb[-1,0,5]"):
        grid = grids.parse(name)
        x, scale = rng.normal(size=(5, 50)).astype(np.float32), rng.normal(size=(5, 33)).astype(np.float32)
        offset = rng.normal(size=scale.shape).astype(np.float32)
        weight = rng.exponential(size=x.shape).astype(np.float32)
        scale[:, 5] = 0
        errors = np.empty_like(scale)
        _native.range_errors(x, weight, scale, offset, grid.native, errors)
        every = scale[..., None].astype(np.float64) * grid.levels + offset[..., None]
        nearest = np.abs(x[:, None, :, None] - every[:, :, None, :]).min(axis=-1) ** 2
        expected = (nearest * weight[:, None, :]).sum(axis=-1) / np.abs(x).max(axis=1, keepdims=True) ** 2
        assert np.allclose(errors, expected, rtol=1e-4)


def test_arrays_that_do_not_fit_are_refused_before_anything_is_read() -> None:
    f, u, grid = np.zeros((4, 6), np.float32), np.zeros((4, 6), np.uint8), grids.integer(4).native
    groups, one = np.zeros(4, np.int32), np.zeros((1, 6), np.float32)
    square = np.eye(4, dtype=np.float32)
    calls = {
        "factor": lambda: _native.solve_columns(f, f, one, one, groups, grid, u),
        "groups, rows": lambda: _native.solve_columns(f, square, one[:, :5].copy(), one, groups, grid, u),
        "out of range": lambda: _native.solve_columns(f, square, one, one, groups + 1, grid, u),
        "negative": lambda: _native.solve_columns(f, square, one, one, groups - 1, grid, u),
        "shape of weight": lambda: _native.solve_columns(f, square, one, one, groups, grid, u[:3]),
        "as long as": lambda: _native.nearest(f[0], grid, u[0, :5]),
        "candidates": lambda: _native.range_errors(f, f, f, f[:, :3].copy(), grid, f.copy()),
        "shape of x": lambda: _native.range_errors(f, f[:, :3].copy(), f, f, grid, f.copy()),
        "do not fit": lambda: _native.pack_bits(u, 8, np.zeros((4, 1), np.uint32)),
        "rows do not fit": lambda: _native.unpack_bits(np.zeros((3, 2), np.uint32), 8, u),
        "bits must": lambda: _native.pack_bits(u, 9, np.zeros((4, 2), np.uint32)),
        "digits do not fit": lambda: _native.unpack_digits(np.zeros((4, 1), np.uint32), 3, 5, u),
        "base must": lambda: _native.pack_digits(u, 1, 5, np.zeros((4, 2), np.uint32)),
    }
    for what, call in calls.items():
        with pytest.raises(ValueError):
            call()
            pytest.fail(f"{what} was not refused")


def test_outputs_of_another_type_are_refused_and_not_silently_copied() -> None:
    with pytest.raises(TypeError):
        _native.nearest(np.zeros(3, np.float32), grids.integer(4).native, np.zeros(3, np.int32))
    with pytest.raises(TypeError):
        _native.pack_bits(np.zeros((1, 8), np.uint8), 4, np.zeros((1, 1), np.int64))


@pytest.mark.parametrize("levels", [[1.0], [1, 0], [1, 1], [0, np.nan], list(range(257))])
def test_levels_must_be_sorted_distinct_and_few(levels: list[float]) -> None:
    with pytest.raises(ValueError):
        _native.GridLevels(np.float32(levels))
