"""Pre-calibration: without any data, set apart the few weights that a range fitted to all of them would serve badly.

Ghaffari, Younesian, Chen, Partovi Nia and Asgharian (2025), "Rethinking Post-Training Quantization: Introducing a
Statistical Pre-Calibration Approach", arXiv:2501.09107, keep the distribution of quantized weights close to that of
the original ones, in Kullback-Leibler divergence, by an adaptive LASSO on the weights with pseudo-activations that
tells two classes of weights apart; calibration may follow. Only the paper's opening could be read: that the inputs
of the LASSO are taken as orthogonal, which gives it a closed form, that the salient class is stored in float16, and
how its share is chosen, are ours.
"""

from __future__ import annotations

import numpy as np

from tercile.quantization.outliers import OutlierTensor
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges.estimators import RangeEstimator, _checked, mse
from tercile.quantization.scheme import Scheme

#: Shares of salient weights that are tried; none costs nothing.
SHARES = (0.0, 0.0025, 0.005, 0.01)
#: Divergence, in nats, that a further hundredth of salient weights has to take away to be worth its bits.
WORTH = 0.002
#: Bins of the histograms, over the range of the original weights.
BINS, SAMPLE = 128, 20_000


def adaptive_lasso(weight: np.ndarray, penalty: float) -> np.ndarray:
    """argmin over v of sum (w - v)^2 / 2 + penalty * sum |v| / |w|: sign(w) max(|w| - penalty / |w|, 0).

    A weight is shrunk the less the larger it is; those with w^2 <= penalty vanish, the others are the salient ones.

    Examples
    --------
    >>> adaptive_lasso(np.array([0.5, -1.0, 4.0]), 1.0).tolist()
    [0.0, -0.0, 3.75]
    """
    if not 0 <= penalty < np.inf:
        raise ValueError(f"penalty must be at least 0 and finite, got {penalty}")
    w = np.asarray(weight, dtype=np.float64)
    size = np.abs(w)
    shrunk = size - np.divide(penalty, size, out=np.full_like(size, np.inf if penalty else 0.0), where=size > 0)
    found: np.ndarray = np.sign(w) * np.maximum(shrunk, 0)
    return found


def divergence(weight: np.ndarray, stored: QTensor | OutlierTensor) -> float:
    """Kullback-Leibler divergence, in nats, of the stored weights' distribution from the original's.

    Histograms over the original's range; a code stands for a cell and not for a point, so that each stored value is
    spread over a step of its own block, but for what is stored in float16. At most `SAMPLE` weights are looked at.

    Examples
    --------
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> w = np.random.default_rng(0).normal(size=(4, 2500))
    >>> found = [divergence(w, round_to_nearest(w, None, Scheme.parse(f"int{bits}-channel"))) for bits in (8, 4, 2)]
    >>> found == sorted(found)
    True
    """
    dense = stored.dense if isinstance(stored, OutlierTensor) else stored
    levels, shape = dense.scheme.grid.levels, dense.codes.shape
    gap = float(levels[-1] - levels[0]) / (len(levels) - 1)
    width = np.broadcast_to(np.abs(dense.scheme.blocks.spread(dense.ranges.scale, shape)) * gap, shape).copy()
    if isinstance(stored, OutlierTensor):
        width[stored.sparse != 0] = 0
    w, q = (np.asarray(one, dtype=np.float64).reshape(-1) for one in (weight, stored.dequantize()))
    if w.shape != q.shape or not w.size:
        raise ValueError(f"weight and stored must be of one size above 0, got {np.shape(weight)} and {stored.shape}")
    at = slice(None, None, -(-w.size // SAMPLE))
    w, q, half = w[at], q[at], np.maximum(width.reshape(-1)[at] / 2, 1e-12)
    edges = np.linspace(w.min(), w.max(), BINS + 1)
    if edges[0] == edges[-1]:
        return 0.0
    p = np.histogram(w, edges)[0].astype(np.float64)
    below = np.array([np.clip((edge - q + half) / (2 * half), 0, 1).sum() for edge in edges[1:-1]])
    r = np.diff(np.concatenate([[0.0], below, [float(len(q))]]))  # what lies outside falls into the last bins
    p, r = p + 0.5, r + 0.5  # an empty bin is not impossible
    p, r = p / p.sum(), r / r.sum()
    return float((p * np.log(p / r)).sum())


def pre_calibrate(
    weight: np.ndarray, scheme: Scheme, ranges: RangeEstimator = mse, *, share: float | None = None
) -> OutlierTensor:
    """Quantizes a weight without data: the salient class in float16, the rest in ranges of its own.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    scheme, ranges
        How the rest is stored, and what finds its scales.
    share
        Of salient weights, 0 to 0.1; by default the one of `SHARES` with the least divergence, a hundredth of salient
        weights counted as `WORTH` nats.

    Raises
    ------
    ValueError
        If weight is empty or not finite, or share is out of range.

    Examples
    --------
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> w, scheme = np.random.default_rng(0).standard_t(3, size=(8, 512)), Scheme.parse("int4-channel")
    >>> errors = [np.square(w - q.dequantize()).sum() for q in (pre_calibrate(w, scheme, share=0.01),
    ...     round_to_nearest(w, None, scheme))]
    >>> bool(errors[0] < 0.6 * errors[1])
    True
    """
    matrix = _checked(weight)
    if share is not None and not 0 <= share <= 0.1:
        raise ValueError(f"share of salient weights must be 0 to 0.1, got {share}")
    best, least = None, np.inf
    for tried in SHARES if share is None else (share,):
        apart = salient(matrix, tried)
        rest = np.where(apart, 0, matrix)
        dense = QTensor.quantize(rest, scheme, ranges(rest, scheme))
        dense = QTensor(scheme, tuple(np.shape(weight)), dense.words, dense.arrays)
        values = dense.dequantize().reshape(matrix.shape)
        both = OutlierTensor.from_matrix(dense, np.where(apart, matrix - values, 0))
        cost = divergence(matrix, both) + WORTH * 100 * tried
        if cost < least:
            best, least = both, cost
    assert best is not None
    return best


def salient(weight: np.ndarray, share: float) -> np.ndarray:
    """Where the adaptive LASSO leaves something, bool, with the penalty that leaves that share."""
    count = round(share * weight.size)
    if not count:
        return np.zeros(weight.shape, dtype=bool)
    penalty = float(np.partition(np.square(weight, dtype=np.float64).reshape(-1), -count)[-count])
    found: np.ndarray = adaptive_lasso(weight, penalty * (1 - 1e-9)) != 0
    return found
