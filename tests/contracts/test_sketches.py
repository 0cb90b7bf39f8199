"""One list of checks for every sketch in tercile.quantiles.sketch, found by walking its public names."""

from __future__ import annotations

import inspect
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tercile.quantiles import sketch as room

FIXTURES = Path(__file__).parent / "sketches"
SKETCHES = [getattr(room, name) for name in room.__all__ if inspect.isclass(getattr(room, name))]
SIZE = 20_000
QUESTIONS = (0.001, 0.05, 0.3, 0.5, 0.9, 0.999)


class Single:
    """Any sketch, asked about one stream; one that keeps channels gets the stream in its first channel."""

    def __init__(self, kind: type, seed: int = 0, inner: object = None, **options: int) -> None:
        self.kind = kind
        self.wide = "channels" in inspect.signature(kind).parameters
        if self.wide:
            options["channels"] = 2
        self.inner = inner if inner is not None else kind(random_state=seed, **options)

    def update(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float32)
        self.inner.update(np.stack([values, -values], axis=1) if self.wide else values)

    def quantile(self, q: object) -> np.ndarray:
        found = np.asarray(self.inner.quantile(np.asarray(q)))
        return found[..., 0] if self.wide else found

    def rank(self, x: float) -> float:
        found = np.asarray(self.inner.rank(x))
        return float(found[0] if self.wide else found)

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


def rank_errors(sketch: Single, values: np.ndarray) -> np.ndarray:
    """For each question, by how much the true rank of a fixed point differs from the one told, as a share."""
    ordered = np.sort(values.astype(np.float32))
    points = ordered[[min(SIZE - 1, int(q * SIZE)) for q in QUESTIONS]]
    truth = np.searchsorted(ordered, points, side="right") / ordered.size
    return np.array([abs(sketch.rank(point) - t) for point, t in zip(points, truth)])


def test_the_room_has_sketches_to_check() -> None:
    assert len(SKETCHES) >= 2


@pytest.mark.parametrize("kind", SKETCHES)
def test_ranks_are_within_the_stated_bound_on_every_stream(kind: type) -> None:
    # Each question may fail once in a hundred: count the failures over many seeds and hold them to that.
    asked = missed = 0
    for seed in range(12):
        for values in streams(seed).values():
            sketch = Single(kind, seed=1000 + seed)
            for piece in np.array_split(values, [1, 10, 1000, 1001, 9000, 15_000]):
                sketch.update(piece)
            errors = rank_errors(sketch, values)
            asked += errors.size
            missed += int((errors > sketch.inner.error_bound + 1e-9).sum())
            assert 0 < sketch.inner.error_bound < 0.06
    # Six questions to one sketch share its luck: as few as a sixth may be independent.
    assert missed <= 6 * stats.binom.ppf(0.999, asked // 6, 0.01)


@pytest.mark.parametrize("kind", SKETCHES)
def test_quantiles_have_the_rank_asked_for(kind: type) -> None:
    for name, values in streams(3).items():
        sketch = Single(kind, seed=5)
        sketch.update(values)
        ordered = np.sort(values.astype(np.float32))
        found = sketch.quantile(QUESTIONS)
        low = np.searchsorted(ordered, found, side="left") / SIZE
        high = np.searchsorted(ordered, found, side="right") / SIZE
        slack = 1.5 * sketch.inner.error_bound + 1 / SIZE
        assert (low - slack <= QUESTIONS).all(), name
        assert (high + slack >= QUESTIONS).all(), name
        assert sketch.quantile(0.0) == ordered[0]
        assert sketch.quantile(1.0) == ordered[-1]
        assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("kind", SKETCHES)
def test_a_short_stream_is_answered_exactly(kind: type) -> None:
    values = np.random.default_rng(0).permutation(40) * 1.0
    sketch = Single(kind)
    sketch.update(values)
    assert sketch.inner.error_bound == 0.0
    assert sketch.quantile(np.arange(1, 41) / 40).tolist() == sorted(values)
    assert [sketch.rank(v) for v in (-1, 0, 19.5, 39, 40)] == [0.0, 1 / 40, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("kind", SKETCHES)
@pytest.mark.parametrize("tree", ["chain", "reversed chain", "balanced", "unequal"])
def test_merging_in_any_order_and_any_tree_keeps_the_bound_and_the_count(kind: type, tree: str) -> None:
    asked = missed = 0
    for seed in range(8):
        values = streams(seed)["heavy-tailed"]
        cuts = [3, 50, 60, 12_000, 12_001] if tree == "unequal" else list(range(1250, SIZE, 1250))
        parts = []
        for i, piece in enumerate(np.array_split(values, cuts)):
            parts.append(Single(kind, seed=100 * seed + i))
            parts[-1].update(piece)
        if tree == "reversed chain":
            parts.reverse()
        while len(parts) > 1:
            if tree == "balanced":
                parts = [
                    parts[i] | parts[i + 1] if i + 1 < len(parts) else parts[i]
                    for i in range(0, len(parts), 2)
                ]
            else:
                parts[:2] = [parts[0] | parts[1]]
        merged = parts[0]
        assert merged.inner.count == SIZE
        assert merged.quantile(0.0) == np.float32(values.min())
        assert merged.inner.error_bound < 0.08
        errors = rank_errors(merged, values)
        asked, missed = asked + errors.size, missed + int((errors > merged.inner.error_bound + 1e-9).sum())
    assert missed <= 6 * stats.binom.ppf(0.999, asked // 6, 0.01)


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
    assert rank_errors(twice, values).max() <= 2 * twice.inner.error_bound
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
    assert made(3) != made(4)


@pytest.mark.parametrize("kind", SKETCHES)
def test_bytes_of_the_first_version_still_open(kind: type) -> None:
    # Written once by version 1: 10,000 values 0, 7, 14, ... modulo 10,007.
    sketch = Single(kind, inner=kind.from_bytes((FIXTURES / f"{kind.__name__}-1.bin").read_bytes()))
    assert sketch.inner.count == 10_000
    assert abs(sketch.rank(5003.0) - 0.5) < sketch.inner.error_bound
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
def test_nan_and_silly_questions_are_refused_and_change_nothing(kind: type) -> None:
    sketch = Single(kind)
    with pytest.raises(ValueError, match="empty"):
        sketch.quantile(0.5)
    with pytest.raises(ValueError, match="empty"):
        sketch.rank(0.0)
    sketch.update(np.arange(100.0))
    before = sketch.inner.to_bytes()
    with pytest.raises(ValueError, match="NaN"):
        sketch.update(np.array([1.0] * 20 + [math.nan] + [2.0] * 20))
    with pytest.raises(TypeError, match="numbers"):
        sketch.inner.update(np.array([["a", "b"]]))
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="q must"):
            sketch.quantile(q)
    with pytest.raises(ValueError, match="x must not be NaN"):
        sketch.rank(math.nan)
    with pytest.raises(TypeError, match="can only merge"):
        sketch.inner.merge("a sketch")
    with pytest.raises(ValueError, match="same k, got"):
        sketch.inner.merge(Single(kind, k=64).inner)
    with pytest.raises(ValueError, match="k must be 8 to 65535, got 7"):
        Single(kind, k=7)
    with pytest.raises(TypeError, match="random_state must be an integer or None"):
        Single(kind, seed="seed")
    assert sketch.inner.to_bytes() == before


@pytest.mark.parametrize("kind", SKETCHES)
def test_infinities_are_values_like_others(kind: type) -> None:
    sketch = Single(kind)
    sketch.update(np.array([-math.inf, 0.0, 1.0, math.inf]))
    assert sketch.quantile([0.0, 0.5, 1.0]).tolist() == [-math.inf, 0.0, math.inf]
