"""How well a layer can be quantized or pruned at all: bounds below every solver's error, for one output at a time.

Both problems are to minimise (w - v)'H(w - v), over v on a grid or with few entries; neither can be solved beyond some
twenty inputs. A diagonal D with D <= H gives bounds that can be computed: the idea of Park and Boyd (2018), "A
semidefinite programming method for integer convex quadratic minimization", which Kuzmin et al. (2023),
arXiv:2307.02973, use for quantization.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.linalg import solve_triangular

#: Supports that are enumerated at most.
MOST_SUPPORTS = 200_000


def diagonal_below(hessian: np.ndarray) -> np.ndarray:
    """The largest multiple of H's own diagonal with no eigenvalue of H - diag(D) below 0, float64 (inputs,).

    Examples
    --------
    >>> diagonal_below(np.array([[2.0, 1.0], [1.0, 2.0]])).round(6).tolist()
    [1.0, 1.0]
    """
    h = _checked(hessian)
    sizes = np.sqrt(np.where(np.diagonal(h) > 0, np.diagonal(h), 1.0))
    least = float(np.linalg.eigvalsh(h / sizes / sizes[:, None])[0])
    below: np.ndarray = max(least, 0.0) * np.diagonal(h)
    return below


def quantization_lower_bound(weight: np.ndarray, hessian: np.ndarray, levels: np.ndarray) -> float:
    """A number that (w - v)'H(w - v) is never below, v's entries being any of the levels.

    Parameters
    ----------
    weight
        float (inputs,).
    hessian
        float (inputs, inputs), symmetric with no eigenvalue below 0.
    levels
        float (inputs, count): what each entry may be, in ascending order.

    Notes
    -----
    No v_i lies between the neighbours a_i <= w_i <= b_i, so (v_i - a_i)(v_i - b_i) >= 0, and for any D >= 0 with
    H - diag(D) > 0

        min over v of (w - v)'H(w - v) - sum_i D_i (v_i - a_i)(v_i - b_i)
            = sum_i D_i (w_i - a_i)(b_i - w_i) - g'(H - D)^-1 g,      g_i = D_i (w_i - (a_i + b_i) / 2)

    is a bound, concave in D. Newton's method climbs it with a barrier of falling weight that keeps D and H - D
    positive. A weight beyond the outermost level counts with its distance to that. Costs some 60 * inputs^3.

    Examples
    --------
    >>> bound = quantization_lower_bound(np.array([0.4, 0.5]), np.eye(2), np.tile([0.0, 1.0], (2, 1)))
    >>> 0.40 < bound <= 0.4**2 + 0.5**2
    True
    """
    h, w = _checked(hessian), np.asarray(weight, dtype=np.float64)
    levels = np.asarray(levels, dtype=np.float64)
    if w.shape != (len(h),) or levels.ndim != 2 or len(levels) != len(h) or not np.isfinite(w).all():
        raise ValueError(
            f"weight {w.shape}, hessian {h.shape} and levels {levels.shape} must be (n,) finite, (n, n) and (n, count)"
        )
    below = np.where(levels <= w[:, None], levels, -np.inf).max(axis=1)
    above = np.where(levels >= w[:, None], levels, np.inf).min(axis=1)
    # Outside the levels the nearer end is the one neighbour; its mirror image makes the same condition for v beyond it.
    below, above = np.where(np.isinf(below), 2 * w - above, below), np.where(np.isinf(above), 2 * w - below, above)
    product, offset = (w - below) * (above - w), w - (below + above) / 2

    start = 0.5 * diagonal_below(h)
    if not (start > 0).all():
        return 0.0  # some input does not count, or H is singular: nothing below it
    return max(_climbed(h, product, offset, start), 0.0)


def _climbed(h: np.ndarray, product: np.ndarray, offset: np.ndarray, d: np.ndarray) -> float:
    """The largest bound met while climbing from D = d."""

    def bound(d: np.ndarray, barrier: float) -> tuple[float, float]:
        """With the barrier, and without; minus infinity where D or H - D is not positive."""
        if not (d > 0).all():
            return -math.inf, -math.inf
        try:
            lower = np.linalg.cholesky(h - np.diag(d))
        except np.linalg.LinAlgError:
            return -math.inf, -math.inf
        y = solve_triangular(lower, d * offset, lower=True)
        plain = float(d @ product - y @ y)
        return plain + barrier * float(2 * np.log(np.diagonal(lower)).sum() + np.log(d).sum()), plain

    best = bound(d, 0.0)[1]
    barrier = 0.1 * float(np.mean(d * product) + 1e-12 * np.mean(d))
    for _ in range(12):
        for _ in range(5):
            inverse = np.linalg.inv(h - np.diag(d))
            y = inverse @ (d * offset)
            away = offset + y
            gradient = product - 2 * offset * y - np.square(y) + barrier * (1 / d - np.diagonal(inverse))
            curvature = 2 * np.outer(away, away) * inverse + barrier * (np.square(inverse) + np.diag(d**-2))
            # Scaled to a diagonal of ones, with a little more of it: what is singular in floats still gives a step.
            sizes = np.sqrt(np.maximum(np.diagonal(curvature), 1e-300))
            ridge = curvature / sizes / sizes[:, None] + 1e-10 * np.eye(len(d))
            step = np.linalg.solve(ridge, gradient / sizes) / sizes
            now, length = bound(d, barrier)[0], 1.0
            while (found := bound(d + length * step, barrier))[0] < now and length > 1e-6:
                length /= 2
            if length <= 1e-6:
                break
            d, best = d + length * step, max(best, found[1])
        barrier /= 5
    return best


def pruning_lower_bound(weight: np.ndarray, hessian: np.ndarray, kept: int) -> float:
    """A number that (w - v)'H(w - v) is never below, v having at most `kept` entries that are not zero.

    The inputs that are pruned lose D_i w_i^2 at least, for D of `diagonal_below` and for the smallest eigenvalue alike.

    Examples
    --------
    >>> pruning_lower_bound(np.array([1.0, 2.0, 3.0]), np.eye(3), 1)
    5.0
    """
    h, w = _checked(hessian), np.asarray(weight, dtype=np.float64)
    _check_kept(kept, w, h)
    least = max(float(np.linalg.eigvalsh(h)[0]), 0.0)
    candidates = diagonal_below(h) * np.square(w), least * np.square(w)
    return max(float(np.sort(losses)[: len(w) - kept].sum()) for losses in candidates)


def pruning_optimum(weight: np.ndarray, hessian: np.ndarray, kept: int) -> float:
    """The least (w - v)'H(w - v) with at most `kept` entries that are not zero, by going through all choices.

    Raises
    ------
    ValueError
        If there are more than `MOST_SUPPORTS` choices.

    Examples
    --------
    >>> pruning_optimum(np.array([1.0, 2.0, 3.0]), np.eye(3), 1)
    5.0
    """
    h, w = _checked(hessian), np.asarray(weight, dtype=np.float64)
    _check_kept(kept, w, h)
    n = len(w)
    if math.comb(n, kept) > MOST_SUPPORTS:
        raise ValueError(f"{kept} of {n} can be chosen in more than {MOST_SUPPORTS} ways; take fewer inputs")
    if kept == n:
        return 0.0
    best = math.inf
    supports = itertools.combinations(range(n), n - kept)
    while chunk := list(itertools.islice(supports, 4096)):
        gone = np.array(chunk)
        # Of the pruned inputs P, the others being fitted: w_P' S w_P, S = H_PP - H_PK H_KK^-1 H_KP = ((H^-1)_PP)^-1.
        inside = np.linalg.pinv(h, hermitian=True)[gone[:, :, None], gone[:, None, :]]
        lost = np.einsum("ci,ci->c", w[gone], np.linalg.solve(inside, w[gone][..., None])[..., 0])
        best = min(best, float(lost.min()))
    return max(best, 0.0)


def _checked(hessian: np.ndarray) -> np.ndarray:
    h = np.asarray(hessian, dtype=np.float64)
    if h.ndim != 2 or h.shape[0] != h.shape[1] or not np.isfinite(h).all():
        raise ValueError(f"hessian must be (inputs, inputs) and finite, got {h.shape}")
    return h


def _check_kept(kept: int, w: np.ndarray, h: np.ndarray) -> None:
    if w.shape != (len(h),) or not np.isfinite(w).all():
        raise ValueError(f"weight must be ({len(h)},) and finite, got {w.shape}")
    if isinstance(kept, bool) or not 0 <= kept <= len(w):
        raise ValueError(f"kept must be from 0 to {len(w)}, got {kept}")
