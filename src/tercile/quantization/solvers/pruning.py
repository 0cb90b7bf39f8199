"""Pruning by the objective of the solvers: the few weights that keep a layer's outputs best, all others zero."""

from __future__ import annotations

import numpy as np

from tercile.quantization.solvers.gptq import check_damping
from tercile.quantization.solvers.round_to_nearest import check_channels, checked_weight
from tercile.quantization.solvers.sparse_fit import UNSTRUCTURED, fitted, largest_eigenvalue, largest_entries
from tercile.quantization.statistics import Statistics


def prune(
    weight: np.ndarray, statistics: Statistics, kept: float, *, rounds: int = 60, damping: float = 0.01
) -> np.ndarray:
    """Minimises tr((W - P) H (W - P)') over matrices P with a given share of entries that are not zero.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    statistics
        Of the layer's inputs, with second moment H.
    kept
        Share of the weights that stay, above 0 to 1, anywhere in the matrix.
    rounds
        Steps of iterative hard thresholding.
    damping
        Share of the mean diagonal of H added to its diagonal.

    Returns
    -------
    float32 in the shape of weight.

    Raises
    ------
    ValueError
        If weight is empty or not finite, statistics do not fit it, or kept or rounds is out of range.

    Notes
    -----
    Starts from the weight, steps down the gradient, each input by its own second moment, and keeps the entries that
    matter most, fewer from step to step until seven tenths of the steps are done. What stands in the last places is
    fitted exactly. If the weights that are largest times the size of their input (Sun et al. 2023, "A Simple and
    Effective Pruning Approach for Large Language Models"), fitted alike, do better, they are returned. Costs
    rounds * outputs * inputs^2, and (kept * inputs)^3 / 3 for each output.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(8, 32)), rng.normal(size=(200, 32)) @ rng.normal(size=(32, 32))
    >>> seen = Statistics(32)
    >>> seen.update(x)
    >>> largest = np.where(np.abs(w) >= np.quantile(np.abs(w), 0.5), w, 0)
    >>> errors = [float(np.square(x @ (w - p).T).sum()) for p in (prune(w, seen, 0.5), largest)]
    >>> errors[0] < 0.4 * errors[1]
    True
    """
    matrix = checked_weight(weight)
    check_channels(statistics, matrix)
    check_damping(damping)
    if not 0 < kept <= 1:
        raise ValueError(f"kept must be above 0 and at most 1, got {kept}")
    if rounds < 0:
        raise ValueError(f"rounds must be at least 0, got {rounds}")
    hessian = statistics.second_moment
    diagonal = np.diagonal(hessian)
    unit = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    damped = (hessian / np.float32(unit)) + np.float32(damping) * np.eye(len(hessian), dtype=np.float32)
    sizes = np.sqrt(np.diagonal(damped))
    step = 1 / (largest_eigenvalue(damped / sizes / sizes[:, None]) * sizes**2)
    sparse, start = matrix, largest_entries(matrix, sizes, kept, UNSTRUCTURED)
    for turn in range(rounds):
        share = kept ** min(1.0, (turn + 1) / (0.7 * rounds))
        sparse = largest_entries(sparse + ((matrix - sparse) @ damped) * step, sizes, share, UNSTRUCTURED)
    found = [fitted(matrix, places != 0, damped) for places in (start, sparse)]
    errors = [np.einsum("ij,ij->", (matrix - one) @ damped, matrix - one) for one in found]
    best: np.ndarray = found[int(np.argmin(errors))].reshape(np.shape(weight))
    return best
