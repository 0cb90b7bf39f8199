"""Outlier-aware QuantEase: a few weights, found by the same objective, keep full precision beside the quantized ones.

Behdin, Acharya, Gupta, Song, Zhu, Keerthi and Mazumder (2023), arXiv:2309.01885, minimise
tr((W - Q - S) H (W - Q - S)') over Q on the grid and S with few entries, by turns: coordinate descent on Q, and a step
of iterative hard thresholding on S.
"""

from __future__ import annotations

import numpy as np

from tercile.quantization.outliers import OutlierTensor
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.coordinate_descent import descended
from tercile.quantization.solvers.gptq import check_damping, gptq
from tercile.quantization.solvers.round_to_nearest import check_channels, checked_weight
from tercile.quantization.solvers.sparse_fit import (
    STRUCTURED,
    UNSTRUCTURED,
    fitted,
    largest_eigenvalue,
    largest_entries,
)
from tercile.quantization.statistics import Statistics


def quantease_outliers(
    weight: np.ndarray,
    statistics: Statistics,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    share: float = 0.01,
    kind: str = UNSTRUCTURED,
    rounds: int = 8,
    damping: float = 0.01,
) -> OutlierTensor:
    """Quantizes a weight except for a share of it that is kept in float16, chosen to make the layer's error least.

    Parameters
    ----------
    weight, statistics, scheme, ranges, damping
        As for `quantease`. The scales are found without the outliers of largest magnitude, so they serve the others.
    share
        Part of the weights that is kept, 0 to 0.5.
    kind
        "weights", anywhere; or "inputs", whole columns.
    rounds
        Turns of three sweeps of coordinate descent and one step on the outliers.

    Returns
    -------
    OutlierTensor; the same for the same input, on any number of threads.

    Raises
    ------
    ValueError
        If weight is empty or not finite, statistics do not fit it, or share, kind or rounds is out of range.

    Notes
    -----
    The first codes are those of `gptq`. A step on S goes down the gradient, each input by its own second moment, as far
    as the largest eigenvalue of H scaled to a diagonal of ones allows, and keeps the entries that matter most by that
    diagonal. The paper starts from the weight, steps alike for all inputs, and does not do what comes last here: what
    stands in the places found is fitted exactly, row by row. Costs rounds * 5 * outputs * inputs^2, beyond 10 times
    `gptq`.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import output_error, quantease
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.standard_t(2, size=(16, 64)), rng.normal(size=(300, 64)) @ rng.normal(size=(64, 64))
    >>> seen, scheme = Statistics(64), Scheme.parse("int3-channel")
    >>> seen.update(x)
    >>> small = quantease_outliers(w, seen, scheme, share=0.02)
    >>> change = w - small.dequantize()
    >>> bool(np.sum(change @ seen.second_moment * change) < 0.3 * output_error(w, quantease(w, seen, scheme), seen))
    True
    """
    matrix = checked_weight(weight)
    check_channels(statistics, matrix)
    check_damping(damping)
    if not 0 <= share <= 0.5:
        raise ValueError(f"share of outliers must be 0 to 0.5, got {share}")
    if kind not in (UNSTRUCTURED, STRUCTURED):
        raise ValueError(f"kind must be 'weights' or 'inputs', got {kind!r}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    hessian = statistics.second_moment
    diagonal = np.diagonal(hessian)
    unit = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    damped = (hessian / np.float32(unit)) + np.float32(damping) * np.eye(len(hessian), dtype=np.float32)
    sizes = np.sqrt(np.diagonal(damped))
    step = 1 / (largest_eigenvalue(damped / sizes / sizes[:, None]) * sizes**2)

    sparse = largest_entries(matrix, np.ones_like(sizes), share, kind)
    first = gptq(matrix - sparse, statistics, scheme, ranges, damping=damping)
    codes, chosen = first.codes, first.ranges
    for turn in range(rounds):
        last = turn + 1 == rounds
        codes = descended(matrix - sparse, codes, hessian, scheme, chosen, sweeps=3, damping=damping, relaxed=not last)
        if not last:
            left = matrix - scheme.decode(codes, chosen) - sparse
            sparse = largest_entries(sparse + (left @ damped) * step, sizes, share, kind)
    sparse = fitted(matrix - scheme.decode(codes, chosen), sparse != 0, damped)
    return OutlierTensor.from_matrix(QTensor.from_codes(codes, np.shape(weight), scheme, chosen), sparse)
