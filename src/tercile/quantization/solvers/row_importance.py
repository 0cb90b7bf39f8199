"""Solving where some rows of a weight matter more than others, as those of an embedding table do: some words are read a
thousand times as often.

Rows that are rounded each by itself do not care. A grid whose codes run down a column shares its bits among neighbours,
and spends them where they count most if errors are weighed. Multiplying a row and its scale by a number multiplies its
error by that number and leaves its codes as they are, so any solver can be asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tercile.quantization.basis import into_basis
from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.statistics import Statistics

#: Smallest weight of a row's error against the largest: beyond it scales would leave float16.
LEAST = 1e-6


def weigh_rows(
    solve: Callable[[np.ndarray, Statistics, Scheme], QTensor],
    weight: np.ndarray,
    statistics: Statistics,
    scheme: Scheme,
    importance: np.ndarray,
) -> QTensor:
    """A weight by some solver, the error of each row counted as often as it is important.

    Parameters
    ----------
    solve
        (weight, statistics, scheme) -> QTensor, such as `gptq`.
    weight
        Float tensor (rows, columns...).
    statistics
        As the solver takes them.
    scheme
        Its blocks lie within a row: `channel`, or groups.
    importance
        (rows,), finite, not negative, not all 0. Only ratios count; none counts less than a millionth of the largest.

    Raises
    ------
    ValueError
        If importance does not fit, or blocks span rows.

    Notes
    -----
    Costs what the solver costs. With trellis codes of 2 bits on MiniLM's word table, rows weighed by how often they are
    read and stored in another order (`-mix`), the model loses 0.0039 where it lost 0.0091.

    Examples
    --------
    >>> from tercile.quantization.solvers import gptq
    >>> rng = np.random.default_rng(0)
    >>> table, seen = rng.normal(size=(200, 16)).astype(np.float32), Statistics(16)
    >>> seen.update(rng.normal(size=(100, 16)))
    >>> scheme, reads = Scheme.parse("trellis2-channel-mix"), np.where(np.arange(200) < 20, 100.0, 1.0)
    >>> weighed = ((weigh_rows(gptq, table, seen, scheme, reads).dequantize() - table) ** 2).mean(axis=1)
    >>> alike = ((gptq(table, seen, scheme).dequantize() - table) ** 2).mean(axis=1)
    >>> bool(weighed[:20].mean() < 0.3 * alike[:20].mean())
    True
    """
    shape = np.shape(weight)
    matrix = np.asarray(weight, dtype=np.float32).reshape(as_matrix(shape))
    factors = np.asarray(importance, dtype=np.float64)
    if factors.shape != (len(matrix),) or not np.isfinite(factors).all() or factors.min() < 0 or not factors.any():
        raise ValueError(
            f"importance must be one finite number a row ({len(matrix)}), not negative and not all 0, "
            f"got shape {factors.shape}"
        )
    if scheme.blocks.rows != 1:
        raise ValueError(f"blocks of {scheme.spelling!r} span rows, which can't be weighed then; use channel or groups")
    root = np.sqrt(np.maximum(factors / factors.max(), LEAST)).astype(np.float32)
    solved = solve((matrix * root[:, None]).reshape(shape), statistics, scheme)
    stored = mse(into_basis(matrix, scheme), scheme.inner)
    return QTensor(scheme, tuple(shape), solved.words, dict(stored.arrays))
