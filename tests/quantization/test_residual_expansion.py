"""An expansion converges as its bound says, covers the rows it should, and its ensemble is right to first order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tercile.quantization import Scheme
from tercile.quantization.transforms import expand

WEIGHT = (np.random.default_rng(0).standard_t(3, size=(24, 40)) * np.geomspace(1, 30, 24)[:, None]).astype(np.float32)


@pytest.mark.parametrize("grid", ["int8", "int4", "int3", "ternary"])
@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_no_error_exceeds_the_bound_and_some_come_near(grid: str, keep: float) -> None:
    scheme = Scheme.parse(f"{grid}-channel-f32")
    for order in range(1, 4 if grid == "int8" else 6):
        made = expand(WEIGHT, scheme, order, keep=keep)
        error = np.abs(made.dequantize() - WEIGHT).max(axis=1)
        rounding = 4e-7 * np.abs(WEIGHT).max(axis=1)
        assert (error <= made.bound() + rounding).all()
        if order == 1:
            assert (error >= 0.7 * made.bound()).all()


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_every_term_lowers_the_error_left(keep: float) -> None:
    made = expand(WEIGHT, Scheme.parse("int3-channel-f32"), 5, keep=keep)
    left = [float(np.square(made.dequantize(order) - WEIGHT).sum()) for order in range(1, 6)]
    assert all(after < 0.9 * before for before, after in itertools.pairwise(left))


def test_later_terms_cover_the_rows_with_most_error() -> None:
    made = expand(WEIGHT, Scheme.parse("int4-channel-f32"), 2, keep=0.25)
    error = np.square(made.dequantize(1) - WEIGHT).sum(axis=1)
    assert set(made.rows[1]) == set(np.argsort(-error)[:6])
    assert made.products == 1.25 and made.nbytes == made.terms[0].nbytes + made.terms[1].nbytes + 3


def test_convolutions_and_exact_rows_are_kept() -> None:
    weight = np.zeros((4, 3, 2, 2), dtype=np.float32)
    weight[1], weight[2, 0] = 3.0, 7.0
    made = expand(weight, Scheme.parse("int4-channel-f32"), 3)
    assert made.dequantize().shape == weight.shape and np.allclose(made.dequantize(), weight, atol=1e-6)


def test_the_mean_of_members_is_the_expansion_and_their_networks_agree_to_first_order() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=shape).astype(np.float32) / 6 for shape in ((32, 40), (10, 32)))
    x = rng.normal(size=(200, 40)).astype(np.float32)
    layers = [expand(w, Scheme.parse("int4-channel-f32"), 3) for w in (first, second)]
    for made in layers:
        np.testing.assert_allclose(np.mean(made.members(2), axis=0), made.dequantize(), atol=1e-6)

    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.tanh(x @ a.T) @ b.T

    whole = run(*(made.dequantize() for made in layers))
    alone = run(*(made.dequantize(1) for made in layers))
    together = np.mean([run(*pair) for pair in zip(*(made.members(2) for made in layers), strict=True)], axis=0)
    assert np.square(together - whole).mean() < 0.05 * np.square(alone - whole).mean()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"order": 0}, "order must be a whole number of at least 1, got 0"),
        ({"order": 2.0}, "order must be a whole number"),
        ({"keep": 0.0}, "keep must be above 0"),
        ({"keep": 1.5}, "keep must be above 0"),
        ({"weight": np.full((2, 2), np.nan)}, "weight holds"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(**({"weight": WEIGHT, "scheme": Scheme.parse("int4-channel"), "order": 2} | change))
    made = expand(WEIGHT, Scheme.parse("nf4-channel"), 2)
    with pytest.raises(ValueError, match="order must be from 1 to 2, got 3"):
        made.dequantize(3)
    with pytest.raises(ValueError, match="count must be from 1 to 1"):
        made.members(2)
    with pytest.raises(ValueError, match="the bound is for integers"):
        made.bound()
