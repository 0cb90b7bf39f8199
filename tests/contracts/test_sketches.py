"""One list of checks for every sketch in tercile.quantiles.sketch, found by walking its public names.

Streams are of floats. A sketch that keeps channels gets them in its first channel; one of integers or strings gets
each float as an integer or a string that sorts as the float does, and its answers are read back.
"""

from __future__ import annotations

import inspect
import math
import pickle
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tercile.quantiles import sketch as room

FIXTURES = Path(__file__).parent / "sketches"
SKETCHES = [
    found
    for name in room.__all__
    if inspect.isclass(found := getattr(room, name)) and not getattr(found, "_is_protocol", False)
]
SIZE = 20_000
QUESTIONS = (0.001, 0.05, 0.3, 0.5, 0.9, 0.999)
# What merging must agree on, and another value for it.
PARAMETERS = {"k": 64, "accuracy": 0.05, "compression": 50, "eps": 0.05}
# Sketches whose rank error falls with k, and is small at the default.
IN_RANK = [kind for kind in SKETCHES if {"k", "eps"} & set(inspect.signature(kind).parameters)]


def as_integers(values: np.ndarray) -> np.ndarray:
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.int64)
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)


def as_floats(integers: np.ndarray) -> np.ndarray:
    bits = np.asarray(integers, dtype=np.int64)
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits).view(np.float64)


class Single:
    """Any sketch, asked about one stream of floats."""

    def __init__(self, kind: type, seed: object = 0, inner: object = None, **options: float) -> None:
        self.kind = kind
        known = inspect.signature(kind).parameters
        self.wide, self.name = "channels" in known, kind.__name__
        if self.wide:
            options["channels"] = 2
        if "random_state" in known:
            options["random_state"] = seed
        self.inner = inner if inner is not None else kind(**options)

    def put(self, values: object) -> object:
        values = np.asarray(values, dtype=np.float32)
        if self.name == "KLLIntegers":
            return as_integers(values)
        if self.name == "KLLStrings":
            made = [f"{value + 2**63:020d}" for value in as_integers(values).reshape(-1).tolist()]
            return made if values.ndim else made[0]
        return values

    def take(self, found: object) -> np.ndarray:
        if self.name == "KLLIntegers":
            return as_floats(np.asarray(found))
        if self.name == "KLLStrings":
            integers = [int(text) - 2**63 for text in np.asarray(found, dtype=object).reshape(-1)]
            return as_floats(np.array(integers)).reshape(np.shape(found))
        return np.asarray(found)[..., 0] if self.wide else np.asarray(found)

    def update(self, values: object) -> None:
        made = self.put(values)
        self.inner.update(np.stack([made, -made], axis=1) if self.wide else made)

    def quantile(self, q: object) -> np.ndarray:
        return self.take(self.inner.quantile(np.asarray(q)))

    def quantile_bounds(self, q: float, **options: float) -> tuple[float, float]:
        low, high = self.inner.quantile_bounds(q, **options)
        return float(self.take(low)), float(self.take(high))

    def rank(self, x: float) -> float:
        found = np.asarray(self.inner.rank(self.put(x)))
        return float(found[0] if self.wide else found)

    def rank_bounds(self, x: float, **options: float) -> tuple[float, float]:
        low, high = map(np.asarray, self.inner.rank_bounds(self.put(x), **options))
        return (float(low[0]), float(high[0])) if self.wide else (float(low), float(high))

    def __or__(self, other: Single) -> Single:
        return Single(self.kind, inner=self.inner | other.inner)


def streams(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    zigzag = np.empty(SIZE)
    zigzag[::2], zigzag[1::2] = np.arange(SIZE // 2), np.arange(SIZE, SIZE // 2, -1)
    return {
        "sorted": np.arange(SIZE) * 1.0,
        "reversed": np.arange(SIZE)[::-1] * 1.0,
        "random": rng.standard_normal(SIZE),
        "heavy-tailed": rng.standard_cauchy(SIZE),
        "constant": np.full(SIZE, 3.25),
        "few values": rng.integers(0, 3, SIZE) * 1.0,
        "from both ends": zigzag,
        "runs": np.tile(np.arange(SIZE // 100) * 1.0, 100),
        "grows": np.exp(np.linspace(0, 60, SIZE)),
    }


class Truth:
    """Exact answers about the stream as float32."""

    def __init__(self, values: np.ndarray) -> None:
        self.ordered = np.sort(values.astype(np.float32)).astype(np.float64)
        # A share a little below q, so that its rounding does not ask for the next value.
        self.points = self.ordered[[math.ceil(q * SIZE - 1e-6) - 1 for q in QUESTIONS]]
        self.ranks = np.searchsorted(self.ordered, self.points, side="right") / SIZE


def count_misses(sketch: Single, truth: Truth, confidence: float) -> tuple[int, int]:
    """Questions asked, and true answers outside of the bounds."""
    missed = 0
    for q, point, rank in zip(QUESTIONS, truth.points, truth.ranks):
        low, high = sketch.rank_bounds(point, confidence=confidence)
        assert 0.0 <= low <= sketch.rank(point) <= high <= 1.0
        missed += not low - 1e-9 <= rank <= high + 1e-9
        low, high = sketch.quantile_bounds(q, confidence=confidence)
        assert low <= high
        missed += not low <= point <= high
    return 2 * len(QUESTIONS), missed


def allowed(asked: int, rate: float) -> int:
    """Misses that a right sketch stays within; the questions to one sketch share its luck."""
    sketches = asked // (2 * len(QUESTIONS))
    return 2 * len(QUESTIONS) * int(stats.binom.ppf(0.999, sketches, rate))


def test_the_room_has_sketches_to_check() -> None:
    assert {"KLL", "KLLIntegers", "KLLStrings", "DDSketch", "TDigest", "Exact"} <= {k.__name__ for k in SKETCHES}


@pytest.mark.parametrize("kind", SKETCHES)
def test_it_has_all_that_the_protocol_asks_for(kind: type) -> None:
    assert isinstance(Single(kind).inner, room.Sketch)
    assert Single(kind).inner.error_bound == 0.0


@pytest.mark.parametrize("kind", SKETCHES)
def test_bounds_hold_the_true_rank_and_quantile_on_every_stream(kind: type) -> None:
    # 80% so that bounds which are too narrow by a third already show; each sketch is one draw of luck.
    asked = missed = 0
    for seed in range(3 if kind.__name__ == "KLLStrings" else 8):
        for values in streams(seed).values():
            sketch = Single(kind, seed=1000 + seed)
            for piece in np.array_split(values, [1, 10, 1000, 1001, 9000, 15_000]):
                sketch.update(piece)
            new, wrong = count_misses(sketch, Truth(values), confidence=0.8)
            asked, missed = asked + new, missed + wrong
            if kind in IN_RANK:
                assert sketch.inner.error_bound < 0.06
    assert missed <= allowed(asked, 0.2)


@pytest.mark.parametrize("kind", SKETCHES)
def test_ranks_are_within_the_stated_bound(kind: type) -> None:
    asked = missed = 0
    for seed in range(2 if kind.__name__ == "KLLStrings" else 6):
        for values in streams(100 + seed).values():
            sketch, truth = Single(kind, seed=2000 + seed), Truth(values)
            sketch.update(values)
            bound = sketch.inner.error_bound
            errors = [abs(sketch.rank(point) - rank) for point, rank in zip(truth.points, truth.ranks)]
            asked, missed = asked + len(errors), missed + sum(error > bound + 1e-9 for error in errors)
    # Each question may fail once in a hundred; six questions to one sketch share its luck.
    assert missed <= 6 * stats.binom.ppf(0.999, asked // 6, 0.01)


@pytest.mark.parametrize("kind", SKETCHES)
def test_bounds_are_no_wider_than_what_the_sketch_promises(kind: type) -> None:
    for name, values in streams(7).items():
        sketch, truth = Single(kind, seed=3), Truth(values)
        sketch.update(values)
        for q, point in zip(QUESTIONS, truth.points):
            low, high = sketch.rank_bounds(point)
            assert high - low <= 2 * sketch.inner.error_bound + 1e-9, name
            if hasattr(sketch.inner, "accuracy"):
                low, high = sketch.quantile_bounds(q)
                assert high - low <= 2.0001 * sketch.inner.accuracy * max(abs(low), abs(high)), name


@pytest.mark.parametrize("kind", SKETCHES)
def test_quantiles_have_the_rank_asked_for_or_the_value(kind: type) -> None:
    for name, values in streams(3).items():
        sketch, truth = Single(kind, seed=5), Truth(values)
        sketch.update(values)
        found = sketch.quantile(QUESTIONS)
        if hasattr(sketch.inner, "accuracy"):
            assert (abs(found - truth.points) <= sketch.inner.accuracy * 1.0001 * abs(truth.points)).all(), name
        else:
            slack = (1.5 if kind in IN_RANK else 1.0) * sketch.inner.error_bound + 1 / SIZE
            assert (np.searchsorted(truth.ordered, found, side="left") / SIZE - slack <= QUESTIONS).all(), name
            assert (np.searchsorted(truth.ordered, found, side="right") / SIZE + slack >= QUESTIONS).all(), name
        assert sketch.quantile(0.0) == truth.ordered[0]
        assert sketch.quantile(1.0) == truth.ordered[-1]
        assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("kind", [kind for kind in SKETCHES if kind.__name__ != "DDSketch"])
def test_a_short_stream_is_answered_exactly(kind: type) -> None:
    values = np.random.default_rng(0).permutation(40) * 1.0
    sketch = Single(kind)
    sketch.update(values)
    assert sketch.inner.error_bound == 0.0
    assert sketch.quantile(np.arange(1, 41) / 40).tolist() == sorted(values)
    assert [sketch.rank(v) for v in (-1, 0, 19.5, 39, 40)] == [0.0, 1 / 40, 0.5, 1.0, 1.0]
    assert sketch.rank_bounds(19.5) == (0.5, 0.5)
    assert sketch.quantile_bounds(0.5) == (19.0, 19.0)


@pytest.mark.parametrize("kind", SKETCHES)
@pytest.mark.parametrize("tree", ["chain", "reversed chain", "balanced", "unequal", "random"])
def test_merging_in_any_order_and_any_tree_keeps_the_bounds_and_the_count(kind: type, tree: str) -> None:
    asked = missed = 0
    for seed in range(2 if kind.__name__ == "KLLStrings" else 6):
        values = streams(seed)["heavy-tailed"]
        cuts = [3, 50, 60, 12_000, 12_001] if tree == "unequal" else list(range(1250, SIZE, 1250))
        parts = []
        for i, piece in enumerate(np.array_split(values, cuts)):
            parts.append(Single(kind, seed=100 * seed + i))
            parts[-1].update(piece)
        if tree == "reversed chain":
            parts.reverse()
        rng = np.random.default_rng(seed)
        while len(parts) > 1:
            if tree == "balanced":
                parts = [parts[i] | parts[i + 1] if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
            elif tree == "random":
                one = parts.pop(int(rng.integers(len(parts))))
                at = int(rng.integers(len(parts)))
                parts[at] = parts[at] | one
            else:
                parts[:2] = [parts[0] | parts[1]]
        merged = parts[0]
        assert merged.inner.count == SIZE
        assert merged.quantile(0.0) == np.float32(values.min())
        if kind in IN_RANK:
            assert merged.inner.error_bound < 0.08
        new, wrong = count_misses(merged, Truth(values), confidence=0.8)
        asked, missed = asked + new, missed + wrong
    assert missed <= allowed(asked, 0.2)


@pytest.mark.parametrize("kind", SKETCHES)
def test_merging_leaves_the_other_alone_and_works_with_an_empty_one_and_with_itself(kind: type) -> None:
    values = streams(0)["random"]
    one, empty = Single(kind, seed=1), Single(kind, seed=2)
    one.update(values)
    before = one.inner.to_bytes()
    assert (empty | one).inner.count == SIZE
    assert (one | empty).quantile(0.5) == one.quantile(0.5)
    twice = one | one
    assert twice.inner.count == 2 * SIZE
    truth = Truth(values)
    for point, rank in zip(truth.points, truth.ranks):
        assert abs(twice.rank(point) - rank) <= 2 * twice.inner.error_bound
    assert one.inner.to_bytes() == before


@pytest.mark.parametrize("kind", SKETCHES)
def test_bytes_and_pickles_give_back_the_same_sketch_that_goes_on_the_same_way(kind: type) -> None:
    values = streams(4)["random"]
    for size in (0, 1, 40, 5_000, SIZE):
        sketch = Single(kind, seed=7)
        if size:
            sketch.update(values[:size])
        data = sketch.inner.to_bytes()
        for again in (kind.from_bytes(data), pickle.loads(pickle.dumps(sketch.inner))):
            other = Single(kind, inner=again)
            assert again.to_bytes() == data
            assert again.count == size
            kept = Single(kind, inner=kind.from_bytes(data))
            kept.update(values)
            other.update(values)
            assert kept.inner.to_bytes() == again.to_bytes()


@pytest.mark.parametrize("kind", SKETCHES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(kind: type) -> None:
    def made(seed: int) -> bytes:
        sketch = Single(kind, seed=seed)
        sketch.update(streams(0)["random"])
        return sketch.inner.to_bytes()

    assert made(3) == made(3)
    if "random_state" in inspect.signature(kind).parameters:
        assert made(3) != made(4)


@pytest.mark.parametrize("kind", SKETCHES)
def test_bytes_of_the_first_version_still_open(kind: type) -> None:
    # Written once by version 1: 10,000 values 0, 7, 14, ... modulo 10,007.
    sketch = Single(kind, inner=kind.from_bytes((FIXTURES / f"{kind.__name__}-1.bin").read_bytes()))
    assert sketch.inner.count == 10_000
    low, high = sketch.rank_bounds(5003.0)
    assert low - 0.001 <= 0.5 <= high + 0.001
    assert sketch.quantile(0.0) == 0.0


@pytest.mark.parametrize("kind", SKETCHES)
def test_truncated_and_damaged_bytes_are_refused(kind: type) -> None:
    sketch = Single(kind, seed=7)
    sketch.update(streams(4)["random"][:3000])
    data = sketch.inner.to_bytes()
    for cut in sorted({0, 1, 4, 8, 9, 20, 60, len(data) // 2, len(data) - 8, len(data) - 1}):
        with pytest.raises(ValueError, match=r"cut off|truncated|damaged"):
            kind.from_bytes(data[:cut])
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        kind.from_bytes(data + b"\0")
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 300):
        broken = bytearray(data)
        broken[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError):
            kind.from_bytes(bytes(broken))
    newer = bytearray(data)
    newer[4] = 200
    with pytest.raises(ValueError, match="version 200"):
        kind.from_bytes(bytes(newer))


@pytest.mark.parametrize("kind", SKETCHES)
def test_hostile_bytes_with_a_right_checksum_are_refused_or_a_sketch_in_order(kind: type) -> None:
    # 1,500 changes, most of them where sizes, counts and ends are; whatever is let in must work like any other.
    sketch = Single(kind, seed=7)
    sketch.update(streams(4)["random"][:2000])
    data = sketch.inner.to_bytes()
    rng, refused = np.random.default_rng(1), 0
    for i in range(1500):
        body = bytearray(data[9:])
        for position in rng.integers(0, min(len(body), 140 if i % 3 else len(body)), int(rng.integers(1, 5))):
            body[position] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        if i % 5 == 0:
            body = body[: int(rng.integers(len(body)))]
        try:
            opened = kind.from_bytes(data[:5] + struct.pack("<I", zlib.crc32(bytes(body))) + bytes(body))
        except ValueError:
            refused += 1
            continue
        other = Single(kind, inner=opened)
        if opened.count:
            low, high = opened.quantile([0.0, 1.0])
            assert np.all(low <= high)
        other.update([1.0, 2.0])
        assert kind.from_bytes(opened.to_bytes()).to_bytes() == opened.to_bytes()
        (opened | opened).quantile(QUESTIONS)
    assert refused > 300


@pytest.mark.parametrize("kind", SKETCHES)
def test_nan_and_silly_questions_are_refused_and_change_nothing(kind: type) -> None:
    sketch = Single(kind)
    with pytest.raises(ValueError, match="empty"):
        sketch.quantile(0.5)
    with pytest.raises(ValueError, match="empty"):
        sketch.rank(0.0)
    with pytest.raises(ValueError, match="empty"):
        sketch.quantile_bounds(0.5)
    sketch.update(np.arange(100.0))
    before = sketch.inner.to_bytes()
    if kind.__name__ not in ("KLLIntegers", "KLLStrings"):
        with pytest.raises(ValueError, match="NaN"):
            sketch.update(np.array([1.0] * 20 + [math.nan] + [2.0] * 20))
        with pytest.raises(ValueError, match="x must not be NaN"):
            sketch.rank(math.nan)
    with pytest.raises(TypeError, match=r"numbers|integers|strings"):
        sketch.inner.update(np.array([[b"a", b"b"]]))
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="q must"):
            sketch.quantile(q)
    if "confidence" in inspect.signature(kind.rank_bounds).parameters:
        for confidence in (0.0, 1.0, 95, math.nan):
            with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
                sketch.rank_bounds(1.0, confidence=confidence)
    with pytest.raises(TypeError, match="can only merge"):
        sketch.inner.merge("a sketch")
    known = inspect.signature(kind).parameters
    for name in PARAMETERS.keys() & known.keys():
        with pytest.raises(ValueError, match=rf"same {name}\b.*, got"):
            sketch.inner.merge(Single(kind, **{name: PARAMETERS[name]}).inner)
        with pytest.raises(ValueError, match=rf"{name} must be .* got -7"):
            Single(kind, **{name: -7})
        with pytest.raises(TypeError, match=f"{name} must be"):
            Single(kind, **{name: "much"})
    if "random_state" in known:
        with pytest.raises(TypeError, match="random_state must be an integer or None"):
            Single(kind, seed="seed")
    assert sketch.inner.to_bytes() == before


@pytest.mark.parametrize("kind", [kind for kind in SKETCHES if not Single(kind).wide])
def test_weights_count_like_so_many_copies_and_bad_ones_are_refused_whole(kind: type) -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal(3000).astype(np.float32), rng.integers(1, 50, 3000)
    copies = Truth(np.repeat(values, weights))
    size = int(weights.sum())
    missed = 0
    for seed in range(10):
        sketch = Single(kind, seed=seed)
        sketch.inner.update(sketch.put(values), weights)
        total = sketch.inner.weight if hasattr(sketch.inner, "weight") else sketch.inner.count
        assert total == size
        for share in (0.1, 0.5, 0.9):
            point = copies.ordered[int(share * size)]
            rank = np.searchsorted(copies.ordered, point, side="right") / size
            low, high = sketch.rank_bounds(point)
            missed += not low - 1e-9 <= rank <= high + 1e-9
    assert missed <= 3 * stats.binom.ppf(0.999, 10, 0.01)

    sketch = Single(kind)
    for weights, error, message in [
        ([1, -4, 2], ValueError, "weights must be positive|weights must not be negative"),
        ([1, 2], ValueError, "weights must have the shape of values|weights must be as long|weights must"),
        (["a", "b", "c"], TypeError, "weights must be"),
        ([2**53, 2**53, 1], ValueError, "weights|count"),
        ([1.0, math.nan, 1.0], (ValueError, TypeError), "weights must"),
        ([1.0, math.inf, 1.0], (ValueError, TypeError), "weights must"),
    ]:
        with pytest.raises(error, match=message):
            sketch.inner.update(sketch.put([1.0, 2.0, 3.0]), weights)
    assert sketch.inner.count == 0


@pytest.mark.parametrize("kind", [kind for kind in SKETCHES if kind.__name__ != "KLLStrings"])
def test_infinities_are_values_like_others(kind: type) -> None:
    sketch = Single(kind)
    sketch.update(np.array([-math.inf, 0.0, 1.0, math.inf]))
    assert sketch.quantile([0.0, 0.5, 1.0]).tolist() == [-math.inf, 0.0, math.inf]


@pytest.mark.parametrize(
    "kind", [kind for kind in SKETCHES if kind.__name__ in ("KLL", "KLLIntegers", "DDSketch", "TDigest")]
)
def test_a_second_thread_is_turned_away_and_spoils_nothing(kind: type) -> None:
    values = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    sketch = Single(kind)
    made = sketch.put(values)
    put_in = [0, 0, 0]

    def work(thread: int) -> None:
        for _ in range(20):
            try:
                sketch.inner.update(made)
                put_in[thread] += 1
            except RuntimeError as error:
                assert "in use by another thread; give each thread its own" in str(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(put_in) >= 1
    assert sketch.inner.count == sum(put_in) * values.size
    assert kind.from_bytes(sketch.inner.to_bytes()).count == sketch.inner.count
