"""Grids of pairs: the published error of the best quantizers of pairs, codes found by brute force, lone rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import QTensor, Scheme, ranges
from tercile.quantization.grids import Pairs, Trellis, normal, parse
from tercile.quantization.grids.pairs import codewords
from tercile.quantization.runtime import PackedMatrix
from tercile.quantization.runtime.modules import use_packed
from tercile.quantization.solvers import round_to_nearest


@pytest.mark.parametrize(
    "rate, at_most", [("1", 0.3634), ("1.5", 0.206), ("2", 0.1095), ("2.5", 0.0595), ("3", 0.0319)]
)
def test_pairs_of_normal_values_lose_less_than_single_ones(rate: str, at_most: float) -> None:
    x = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    scheme = Scheme.parse(f"pairs{rate}-tensor-f32")
    loss = float(((QTensor.quantize(x, scheme, ranges.mse(x, scheme)).dequantize() - x) ** 2).mean() / (x**2).mean())
    trellis = Trellis(float(rate))
    assert float(((trellis.decode(trellis.encode(x)) - x) ** 2).mean()) < loss < at_most
    if float(rate) in (2.0, 3.0):
        plain = normal(2 ** int(rate))
        assert loss < 0.95 * float(((plain.decode(plain.encode(x)) - x) ** 2).mean())


@pytest.mark.parametrize("bits", range(2, 9))
def test_codewords_are_centres_of_what_is_nearest_to_them(bits: int) -> None:
    """Lloyd's condition, on values that had no part in making them; the mean of all is zero, no two are alike."""
    x = np.random.default_rng(bits).normal(size=(400_000 if bits > 5 else 100_000, 2))
    pairs = codewords(bits).astype(np.float64)
    nearest = ((x[:, None] - pairs[None]) ** 2).sum(2).argmin(1) if bits < 6 else _nearest(x, pairs)
    mass = np.bincount(nearest, minlength=len(pairs))
    centres = np.stack([np.bincount(nearest, x[:, axis], len(pairs)) / np.maximum(mass, 1) for axis in (0, 1)], axis=1)
    apart = np.linalg.norm(centres - pairs, axis=1)
    assert len(np.unique(pairs, axis=0)) == 1 << bits
    assert (apart * mass).sum() / mass.sum() < 0.02 + 0.25 / len(pairs) ** 0.5


def _nearest(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(pairs).query(x)[1])


@pytest.mark.parametrize("rate", ["1", "1.5", "2", "3.5", "4"])
@pytest.mark.parametrize("rows", [1, 2, 5, 255, 256, 257, 515])
def test_codes_are_those_of_the_nearest_codeword(rate: str, rows: int) -> None:
    grid, pairs = parse(f"pairs{rate}"), codewords(int(2 * float(rate)))
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    error = (grid.decode(grid.encode(x)) - x) ** 2
    whole = rows - rows % 2
    both = x[:whole].reshape(whole // 2, 2, 3).transpose(0, 2, 1)[..., None, :]
    best = ((both - pairs) ** 2).sum(-1).min(-1)
    np.testing.assert_allclose(error[:whole].reshape(whole // 2, 2, 3).sum(1), best, rtol=1e-4, atol=1e-6)
    if rows % 2:  # a lone row picks among the first values of every so many codewords
        alone = pairs[:: 1 << int(grid.row_bits(2)[1]), 0]
        np.testing.assert_allclose(error[-1], ((x[-1][:, None] - alone) ** 2).min(1), rtol=1e-4, atol=1e-6)


def test_what_no_kernel_computes_with_is_said() -> None:
    stored = round_to_nearest(np.eye(6, dtype=np.float32), None, Scheme.parse("pairs2-channel"))
    with pytest.raises(ValueError, match="no kernel computes with 'pairs2-channel'"):
        PackedMatrix.from_qtensor(stored)
    net = nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(ValueError, match=r"0.weight: no kernel computes with 'pairs2-channel'.*trellis"):
        use_packed(net, {"0.weight": stored})
    assert isinstance(net[0], nn.Linear) and torch.isfinite(net[0].weight).all()


@pytest.mark.parametrize("spelling", ["pairs0.5", "pairs2.25", "pairs5"])
def test_rates_out_of_range_are_refused(spelling: str) -> None:
    with pytest.raises(ValueError, match=r"multiple of 1/2 from 1 to 4"):
        parse(spelling)
    assert Pairs(2) == parse("pairs2")
