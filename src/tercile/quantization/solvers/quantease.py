"""QuantEase: coordinate descent on the layer's output error from the weight itself, with no inverse and no factor.

Behdin, Acharya, Gupta, Song, Zhu, Keerthi and Mazumder (2023), "QuantEase: Optimization-based Quantization for Language
Models", arXiv:2309.01885.
"""

from __future__ import annotations

import numpy as np

from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.coordinate_descent import descended
from tercile.quantization.solvers.gptq import check_damping
from tercile.quantization.solvers.round_to_nearest import check_channels, checked_weight
from tercile.quantization.statistics import Statistics


def quantease(
    weight: np.ndarray,
    statistics: Statistics,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    sweeps: int = 12,
    damping: float = 0.01,
) -> QTensor:
    """Minimises the layer's output error tr((W - Q) H (W - Q)') one weight at a time, for any scalar scheme.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    statistics
        Of the layer's inputs, with second moment H.
    scheme, ranges
        How to store it, and what estimates the scales; the mean square of each input is its importance.
    sweeps
        How often every weight is looked at. In the second of every three sweeps, the last excepted, weights move
        without being rounded, which leads out of poor minima, as the authors' program does.
    damping
        Share of the mean diagonal of H added to its diagonal, as in `gptq`.

    Returns
    -------
    QTensor on the scheme's grid; the same for the same input, on any number of threads.

    Raises
    ------
    ValueError
        If weight is empty or not finite, statistics do not fit it, or a number is out of range.

    Notes
    -----
    A weight goes to the level nearest to w + sum over the other inputs of e_q H_pq / H_pp, e being w minus what stands
    there now; at first that is w itself, so the first sweep is greedy path following, see `gpfq`. Memory is H and the
    weight. A sweep costs outputs * inputs^2, twice the column loop of `gptq`: with 12 sweeps and a weight with many
    more outputs than inputs this takes more than 10 times as long as `gptq`.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import output_error, round_to_nearest
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(8, 32)), rng.normal(size=(200, 32)) @ rng.normal(size=(32, 32))
    >>> seen, scheme = Statistics(32), Scheme.parse("int3-g16")
    >>> seen.update(x)
    >>> plain = output_error(w, round_to_nearest(w, seen, scheme), seen)
    >>> bool(output_error(w, quantease(w, seen, scheme), seen) < 0.7 * plain)
    True
    """
    matrix = checked_weight(weight)
    check_channels(statistics, matrix)
    check_damping(damping)
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    importance = statistics.mean_square
    chosen = ranges(matrix, scheme, importance if importance.any() else None)
    codes = descended(
        matrix, None, statistics.second_moment, scheme, chosen, sweeps=sweeps, damping=damping, relaxed=True
    )
    return QTensor.from_codes(codes, np.shape(weight), scheme, chosen)
