"""Round to nearest: the solver that every other is compared with, and the error they are compared by."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers.turned import solve_turned
from tercile.quantization.statistics import Statistics


def round_to_nearest(
    weight: np.ndarray, statistics: Statistics | None, scheme: Scheme, ranges: RangeEstimator = mse
) -> QTensor:
    """Rounds every weight by itself.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    statistics
        If given, the mean square of each input is the importance that `ranges` gets.
    scheme, ranges
        How to store it, and how to find the scales.

    Raises
    ------
    ValueError
        If weight is empty or not finite, or statistics do not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> round_to_nearest(np.float32([[0.5, -1.0]]), None, Scheme.parse("ternary-channel")).codes.tolist()
    [[2, 0]]
    """
    matrix = checked_weight(weight)
    if scheme.turned:
        if statistics is not None:
            check_channels(statistics, matrix)
        return solve_turned(round_to_nearest, weight, statistics, scheme, ranges)
    importance = None
    if statistics is not None:
        check_channels(statistics, matrix)
        importance = statistics.mean_square if statistics.mean_square.any() else None
    return QTensor.quantize(np.asarray(weight), scheme, ranges(matrix, scheme, importance))


def output_error(
    weight: np.ndarray, quantized: QTensor, statistics: Statistics, importance: np.ndarray | None = None
) -> float:
    """tr((W - Q) H (W - Q)') with H = X'X / n: mean squared change of the layer's output, summed over outputs.

    With an importance of each output (outputs,) the squares count as often. Costs outputs * inputs^2.
    """
    change = _change(weight, quantized, statistics)
    if importance is not None:
        change = change * np.sqrt(np.asarray(importance, dtype=np.float32))[:, None]
    unit = float(np.abs(change).max()) or 1.0  # squares of large weights would overflow float32
    change = (change / np.float32(unit)).astype(np.float32)
    return unit * unit * float(np.einsum("ij,ij->", change @ statistics.second_moment, change, dtype=np.float64))


def bias_correction(weight: np.ndarray, quantized: QTensor, statistics: Statistics) -> np.ndarray:
    """What to add to the layer's bias so that its mean output stays: (W - Q) E[x], float32 (outputs,).

    Nagel et al. (2019), "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, with the
    measured mean of the inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> w, seen = np.float32([[0.9, -1.0]]), Statistics(2)
    >>> seen.update(np.float32([[1.0, 0.0], [3.0, 0.0]]))
    >>> q = round_to_nearest(w, None, Scheme.parse("ternary-channel-f32"))
    >>> bool(np.isclose((w - q.dequantize()) @ [2, 0], bias_correction(w, q, seen)))
    True
    """
    return np.asarray(_change(weight, quantized, statistics) @ statistics.mean, dtype=np.float32)


def _change(weight: np.ndarray, quantized: QTensor, statistics: Statistics) -> np.ndarray:
    """W - Q as a float32 matrix."""
    matrix = checked_weight(weight)
    check_channels(statistics, matrix)
    check_shape(quantized, weight)
    change: np.ndarray = matrix - quantized.dequantize().reshape(matrix.shape)
    return change


def check_shape(quantized: QTensor, weight: np.ndarray) -> None:
    """Raises ValueError unless the two have the same shape as matrices."""
    if as_matrix(quantized.shape) != as_matrix(np.shape(weight)):
        raise ValueError(f"quantized has shape {quantized.shape}, weight {np.shape(weight)}; they must match")


def check_channels(statistics: Statistics, matrix: np.ndarray) -> None:
    """Raises ValueError unless the statistics are of as many inputs as the matrix has columns."""
    if statistics.channels != matrix.shape[1]:
        raise ValueError(
            f"statistics are of {statistics.channels} inputs, but weight has {matrix.shape[1]} columns; "
            "gather them on this layer's own inputs"
        )


def checked_weight(weight: np.ndarray) -> np.ndarray:
    """The weight as a float32 matrix.

    Raises
    ------
    TypeError
        If it holds no real numbers.
    ValueError
        If it is empty or not finite.
    """
    weight = np.asarray(weight)
    if weight.dtype.kind not in "fiu" and weight.dtype != ml_dtypes.bfloat16:
        raise TypeError(f"weight is {weight.dtype}; it must hold real numbers, such as float32")
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(weight, dtype=np.float32).reshape(as_matrix(weight.shape))
    if matrix.size == 0:
        raise ValueError(f"weight is empty (shape {weight.shape}); there is nothing to quantize")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).sum())
        raise ValueError(f"weight holds {bad} values that are NaN or infinite in float32; mend the model first")
    return matrix
