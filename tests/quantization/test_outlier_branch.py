"""The branch keeps the layer's function, takes in outliers, and carries adapters without a bit of the rest changing."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import QTensor, Scheme
from tercile.quantization.ranges import min_max
from tercile.quantization.transforms import Branched, absorb

INT4, READ4, READ16 = Scheme.parse("int4-g32"), Scheme.parse("int4-g32-f32"), Scheme.parse("int8-g32-f32")


def read(x: np.ndarray) -> np.ndarray:
    return QTensor.quantize(x, READ4, min_max(x, READ4)).dequantize()


def layer(outputs: int = 48, inputs: int = 64, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A weight and inputs with a few large channels, as after a norm of a transformer."""
    rng = np.random.default_rng([outputs, inputs])
    x = rng.normal(size=(n, inputs)) @ (np.eye(inputs) + rng.normal(size=(inputs, inputs)) / 12)
    x[:, rng.permutation(inputs)[:3]] *= 30
    return rng.normal(size=(outputs, inputs)).astype(np.float32) / 8, x.astype(np.float32)


def error(made: Branched, w: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(made(x, read) - x @ w.T).mean())


def test_with_fine_rounding_the_function_is_kept() -> None:
    w, x = layer()
    made = absorb(w, x, Scheme.parse("int8-g8"), lambda x: x, rank=8)
    np.testing.assert_allclose(made(x, lambda x: x), x @ w.T, rtol=0, atol=0.02 * np.abs(x @ w.T).max())
    np.testing.assert_allclose(made.dequantize(), w, atol=0.02 * np.abs(w).max())
    np.testing.assert_allclose(made(x, lambda x: x), x @ made.dequantize().T, rtol=0, atol=1e-3 * np.abs(x @ w.T).max())


def test_the_branch_loses_less_than_smoothing_and_smoothing_less_than_nothing() -> None:
    w, x = layer()
    nothing, smoothed, branched = (
        error(absorb(w, x, INT4, read, rank=rank, alphas=alphas), w, x)
        for rank, alphas in ((0, (0.0,)), (0, (0.0, 0.5, 0.75)), (12, (0.0, 0.5, 0.75)))
    )
    assert branched < 0.7 * smoothed < 0.7 * nothing


def test_more_directions_lose_less_and_rounds_never_lose_more() -> None:
    w, x = layer()
    by_rank = [error(absorb(w, x, INT4, read, rank=rank), w, x) for rank in (0, 4, 16, 40)]
    assert by_rank == sorted(by_rank, reverse=True)
    once, thrice = (error(absorb(w, x, INT4, read, rank=8, rounds=n), w, x) for n in (1, 3))
    assert thrice <= once


def test_the_first_round_is_the_best_approximation_of_its_rank() -> None:
    w, x = layer()
    made = absorb(w, x, INT4, read, rank=5, alphas=(0.0,), rounds=1)
    u, s, v = np.linalg.svd(w)
    np.testing.assert_allclose(made.up.astype(float) @ made.down, (u[:, :5] * s[:5]) @ v[:5], atol=2e-3 * s[0])


def test_an_adapter_joins_without_quantizing_again_and_twice_and_goes_again() -> None:
    w, x = layer()
    made = absorb(w, x, INT4, read, rank=6)
    rng = np.random.default_rng(0)
    total, now = made(x, read), made
    for _ in range(2):
        up, down = rng.normal(size=(48, 4)) * 300, rng.normal(size=(4, 64)) * 1e-4
        now = now.with_adapter(up, down, strength=0.7)
        total = total + 0.7 * x @ (up @ down).T
    assert now.rest is made.rest and now.rank == 14
    np.testing.assert_allclose(now(x, read), total, rtol=0, atol=2e-3 * np.abs(total).max())
    assert np.array_equal(now.up[:, :6], made.up) and np.array_equal(now.down[:6], made.down)


def test_bytes_and_share_count_the_branch() -> None:
    w, x = layer()
    made = absorb(w, x, INT4, read, rank=8)
    assert made.nbytes == INT4.nbytes(w.shape) + 2 * 8 * (48 + 64) + 2 * 64
    assert made.branch_share == 8 * 112 / (48 * 64)


def test_zeros_and_dead_channels_stay_finite() -> None:
    w, x = layer()
    x[:, 5], w[:, 9] = 0, 0
    assert np.isfinite(absorb(w, x, INT4, read, rank=4)(x, read)).all()
    assert not absorb(w * 0, x, INT4, read, rank=4)(x, read).any()


def test_the_same_arguments_give_the_same_bits() -> None:
    w, x = layer()
    first, again = (absorb(w, x, INT4, read, rank=6) for _ in range(2))
    assert np.array_equal(first.up, again.up) and np.array_equal(first.rest.words, again.rest.words)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rank": 48}, "rank must be from 0 to 47"),
        ({"rank": -1}, "rank must be"),
        ({"alphas": (0.5, 2.0)}, "alphas must lie"),
        ({"rounds": 0}, "rounds be at least 1"),
        ({"inputs": np.ones((4, 3))}, r"inputs must be finite, \(n, 64\)"),
        ({"inputs": np.full((4, 64), np.nan)}, "inputs must be finite"),
        ({"weight": np.full((48, 64), np.inf)}, "weight holds"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    w, x = layer()
    with pytest.raises(ValueError, match=message):
        absorb(**({"weight": w, "inputs": x, "scheme": INT4, "round_inputs": read, "rank": 4} | change))
    made = absorb(w, x, INT4, read, rank=2)
    with pytest.raises(ValueError, match="up and down must be"):
        made.with_adapter(np.ones((48, 3)), np.ones((2, 64)))
    with pytest.raises(ValueError, match="beyond float16"):
        made.with_adapter(np.full((48, 1), 1e9), np.full((1, 64), 1e9))
