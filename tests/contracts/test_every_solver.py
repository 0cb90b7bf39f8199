"""Every solver, found by walking the room's public names, keeps what a solver promises."""

from __future__ import annotations

import inspect
import itertools
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme, grids, ranges, solvers
from tercile.quantization.solvers import output_error, round_to_nearest
from tercile.quantization.statistics import Statistics

SOLVERS = {
    name: function
    for name in solvers.__all__
    if callable(function := getattr(solvers, name))
    and list(inspect.signature(function).parameters)[:3] == ["weight", "statistics", "scheme"]
    and inspect.signature(function).return_annotation == "QTensor"
}
every_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)

GRIDS = ["int1", "int2", "int4", "int8", "int3-asym", "int8-asym", "fp8-e4m3", "fp8-e5m2", "fp4-e2m1", "nf4", "pot3",
         "ternary", "sign", "normal6", "cb[-1,0,0.4,2]", "cb[0.5,1,3]"]  # fmt: skip
# And the first of every kind that has been added since.
KINDS = {name.rstrip("0123456789").split("-")[0].split("[")[0] for name in GRIDS} | {"uint", "fp6"}
for _name in grids.NAMED:
    if (_kind := _name.rstrip("0123456789").split("-")[0]) not in KINDS:
        GRIDS.append(_name)
        KINDS.add(_kind)
CUTS = ["tensor", "channel", "g7", "g64", "t3x5"]
FORMATS = ["f32", "f16", "bf16", "e8m0", "e4m3", "k6", "k4x3", "s3"]


def spelling(grid: str, cut: str, form: str) -> str:
    name, asym = grid.removesuffix("-asym"), "-asym" * grid.endswith("-asym")
    return f"{name}-{cut}{asym}-{form}"


EVERY_SCHEME = [spelling(*parts) for parts in itertools.product(GRIDS, CUTS, FORMATS)]
SOME_SCHEMES = ["int4-g7-asym", "int2-channel", "nf4-g64-bf16", "ternary-t3x5-k6", "fp8-e4m3-tensor-f32",
                "int3-g8-asym-k6"]  # fmt: skip


@cache
def problem(rows: int, columns: int, seed: int = 0, samples: int | None = None) -> tuple[np.ndarray, Statistics]:
    """Weights, and statistics of correlated inputs of very different size."""
    rng = np.random.default_rng([rows, columns, seed])
    mixing = rng.normal(size=(columns, columns)) * rng.exponential(size=columns) ** 2
    seen = Statistics(columns)
    seen.update(rng.normal(size=(samples or 3 * columns, columns)) @ mixing)
    return rng.normal(size=(rows, columns)).astype(np.float32), seen


def on_grid(stored: QTensor, scheme: Scheme) -> bool:
    made = stored.ranges
    decoded = stored.dequantize().reshape(stored.codes.shape)
    scale = np.broadcast_to(scheme.blocks.spread(made.scale, decoded.shape), decoded.shape)
    offset = np.broadcast_to(scheme.blocks.spread(made.offset, decoded.shape), decoded.shape)
    every = scale[..., None] * scheme.grid.levels + offset[..., None]
    return bool((every == decoded[..., None]).any(axis=-1).all())


def test_the_room_has_its_solvers() -> None:
    assert {"round_to_nearest", "gptq"} <= SOLVERS.keys()


@every_solver
def test_every_scheme_gives_finite_values_on_its_grid(solve) -> None:
    weight, seen = problem(8, 23)
    for name in EVERY_SCHEME:
        scheme = Scheme.parse(name)
        stored = solve(weight, seen, scheme)
        assert stored.scheme == scheme and stored.shape == weight.shape, name
        assert on_grid(stored, scheme), name
        assert stored.nbytes == scheme.nbytes(weight.shape), name


@every_solver
@pytest.mark.parametrize("number, size", enumerate([0.0, 1e-45, 1e-38, 1e-30, 1e-8, 1e4, 1e30, 1e37]))
@pytest.mark.parametrize("kind", ["random", "constant", "one"])
def test_weights_of_any_size_are_stored_finite_or_refused_by_name(solve, number: int, size: float, kind: str) -> None:
    normal, seen = problem(5, 23)
    shape = {"random": normal, "constant": np.ones((5, 23)), "one": np.eye(5, 23)}[kind]
    weight = (shape * size).astype(np.float32)
    largest = float(np.abs(weight).max())
    for name in EVERY_SCHEME[number % 4 :: 4]:  # all of them at small sizes, and all at large ones
        scheme = Scheme.parse(name)
        try:
            stored = solve(weight, seen, scheme).dequantize()
        except ValueError as error:
            narrow = scheme.scale_format.spelling in ("f16", "k6", "k4x3", "s3")
            assert (narrow and "does not fit" in str(error)) or "beyond float32" in str(error), (name, error)
            assert largest > 65504 * float(np.abs(scheme.grid.levels).max()) * (0.01 if narrow else 1e20), name
            continue
        assert np.isfinite(stored).all(), name
        # Nothing is made up: no value far beyond the weights themselves. (Powers of two start at 2^-126.)
        floor = 2.0**-118 if scheme.scale_format.spelling == "e8m0" else 3e-5
        assert np.abs(stored).max() <= 8 * largest + floor, name


@every_solver
@pytest.mark.parametrize("columns, samples", [(24, None), (24, 5), (65, None), (7, None), (1, None)])
def test_error_is_not_above_round_to_nearests(solve, columns: int, samples: int | None) -> None:
    for name in SOME_SCHEMES:
        scheme = Scheme.parse(name)
        ratios = []
        for seed in range(8):
            weight, seen = problem(16, columns, seed, samples)
            own, plain = (output_error(weight, s(weight, seen, scheme), seen) for s in (solve, round_to_nearest))
            # Greedy, so that a single layer of very few inputs may lose.
            assert own <= (1.05 if columns > 16 else 1.5) * plain + 1e-12, (name, seed)
            ratios.append(own / plain if plain > 0 else 1.0)
        assert np.mean(ratios) <= 1 + 1e-6, name


@every_solver
def test_the_same_input_gives_the_same_bits_on_one_and_on_three_threads(solve, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, seen = problem(200, 96)
    for name in SOME_SCHEMES:
        words = []
        for threads in ("1", "3", "3"):
            monkeypatch.setenv("TERCILE_THREADS", threads)
            words.append(solve(weight.copy(), seen, Scheme.parse(name)).words.tobytes())
        assert words[0] == words[1] == words[2], name


@every_solver
def test_the_weight_and_the_statistics_are_left_alone(solve) -> None:
    weight, seen = problem(6, 23)
    before, moment = weight.copy(), seen.second_moment.copy()
    solve(weight, seen, Scheme.parse("int4-g8"))
    assert np.array_equal(weight, before) and np.array_equal(seen.second_moment, moment)


@every_solver
@pytest.mark.parametrize("name", SOME_SCHEMES)
def test_zero_second_moments_give_round_to_nearest(solve, name: str) -> None:
    weight, _ = problem(6, 23)
    seen = Statistics(23)
    seen.update(np.zeros((4, 23)))
    plain = round_to_nearest(weight, None, Scheme.parse(name))
    for statistics in (seen, Statistics(23)):
        assert np.array_equal(solve(weight, statistics, Scheme.parse(name)).codes, plain.codes)


@every_solver
@pytest.mark.parametrize("name", SOME_SCHEMES)
def test_inputs_that_were_never_seen_are_rounded_to_nearest(solve, name: str) -> None:
    weight, _ = problem(9, 24)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 24)) @ rng.normal(size=(24, 24))
    dead = np.arange(24) % 5 == 2
    x[:, dead] = 0
    seen = Statistics(24)
    seen.update(x)
    scheme = Scheme.parse(name)
    stored = solve(weight, seen, scheme)
    nearest = QTensor.quantize(weight, scheme, stored.ranges)
    assert np.array_equal(stored.dequantize()[:, dead], nearest.dequantize()[:, dead])


@every_solver
def test_one_repeated_input_is_a_second_moment_of_rank_one(solve) -> None:
    weight, _ = problem(6, 23)
    seen = Statistics(23)
    seen.update(np.repeat(np.random.default_rng(0).normal(size=(1, 23)), 10, axis=0))
    for name in SOME_SCHEMES:
        scheme = Scheme.parse(name)
        plain = output_error(weight, round_to_nearest(weight, seen, scheme), seen)
        assert output_error(weight, solve(weight, seen, scheme), seen) <= plain * (1 + 1e-6)


@every_solver
@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e30])
def test_second_moments_of_any_size_give_the_same_codes(solve, factor: float) -> None:
    weight, _ = problem(6, 23)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 23)) @ rng.normal(size=(23, 23))
    ordinary, scaled = Statistics(23), Statistics(23)
    ordinary.update(x)
    scaled.update(x * np.sqrt(factor))
    scheme = Scheme.parse("int4-g8-asym")
    same = solve(weight, ordinary, scheme).codes == solve(weight, scaled, scheme).codes
    assert same.mean() > 0.95  # rounding of the factor may tip a tie


@every_solver
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2, 3, 3), (65, 5), (64, 5), (63, 129), (23,)])
def test_odd_shapes(solve, shape: tuple[int, ...]) -> None:
    columns = shape[0] if len(shape) == 1 else int(np.prod(shape[1:]))
    weight, seen = problem(shape[0] if len(shape) > 1 else 1, columns)
    for name in SOME_SCHEMES:
        scheme = Scheme.parse(name)
        stored = solve(weight.reshape(shape), seen, scheme)
        assert stored.dequantize().shape == shape and on_grid(stored, scheme)


@every_solver
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8])
def test_weights_of_every_type_are_read_as_float32(solve, dtype) -> None:
    weight, seen = problem(6, 23)
    weight = (weight * 3).astype(dtype)
    scheme = Scheme.parse("int4-g8-asym")
    assert np.array_equal(solve(weight, seen, scheme).words, solve(weight.astype(np.float32), seen, scheme).words)


@every_solver
def test_memory_order_does_not_matter(solve) -> None:
    weight, seen = problem(6, 23)
    scheme = Scheme.parse("int4-g8-asym")
    words = solve(weight, seen, scheme).words
    for same in (np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2]):
        assert np.array_equal(solve(same, seen, scheme).words, words)


@every_solver
@pytest.mark.parametrize("estimate", [ranges.min_max, ranges.quantile, ranges.mse])
def test_ranges_are_the_estimators(solve, estimate) -> None:
    weight, seen = problem(6, 23)
    scheme = Scheme.parse("int4-g8-asym")
    got = []

    def spy(values, scheme, importance=None):
        assert np.array_equal(values, weight) and importance.shape == (23,) and (importance >= 0).all()
        got.append(estimate(values, scheme, importance))
        return got[-1]

    assert np.array_equal(solve(weight, seen, scheme, ranges=spy).ranges.scale, got[0].scale) and len(got) == 1


@every_solver
@pytest.mark.parametrize(
    "weight, error, message",
    [
        (np.zeros((0, 23)), ValueError, "weight is empty"),
        (np.full((2, 23), np.nan), ValueError, "46 values that are NaN"),
        (np.full((2, 23), 1e300), ValueError, "infinite in float32"),
        (np.ones((2, 22)), ValueError, "statistics are of 23 inputs, but weight has 22 columns"),
        (np.ones((2, 23), complex), TypeError, "complex128"),
        (np.full((2, 23), "a"), TypeError, "real numbers"),
    ],
)
def test_bad_weights_are_refused(solve, weight: np.ndarray, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        solve(weight, problem(2, 23)[1], Scheme.parse("int4-g8"))
