"""Batch-norm tuning: give each channel of a quantized layer's output the mean and spread it had in the float
network.

Hubara, Nahshan, Hanani, Banner and Soudry (2020), arXiv:2006.10518 ("para-normalization"): a
batch norm folded into a convolution promised outputs of a known mean and variance; quantization shifts them.
A fresh batch norm that puts them back is folded in again. It only scales rows and shifts the bias, so the
codes stay and nothing is stored in addition. Here the wanted mean and spread are the float network's,
measured: that holds without a batch norm too.
"""

from __future__ import annotations

import numpy as np

from tercile.quantization.qtensor import QTensor


def restore_statistics(
    quantized: QTensor,
    bias: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray],
    wanted: tuple[np.ndarray, np.ndarray],
) -> tuple[QTensor, np.ndarray]:
    """Scales and shifts each output channel from the mean and spread that were seen to those that are wanted.

    Parameters
    ----------
    quantized
        Weight (outputs, inputs...) of a layer, with a scale of its own for every row or part of one.
    bias
        float (outputs,).
    seen, wanted
        (mean, standard deviation) of each output, float (outputs,): of the quantized layer where it stands,
        and of the float layer, on the same examples. Channels without any spread in either are only shifted.

    Returns
    -------
    The same codes under new scales, and the new bias, float32.

    Raises
    ------
    ValueError
        If rows share a scale, or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> q = round_to_nearest(np.float32([[0.5, -1.0]]), None, Scheme.parse("ternary-channel-f32"))
    >>> one = lambda value: np.float32([value])
    >>> tuned, bias = restore_statistics(q, one(0), (one(1), one(2)), (one(3), one(4)))
    >>> bool(np.allclose(tuned.dequantize(), 2 * q.dequantize())), bias.tolist()
    (True, [1.0])
    """
    rows = quantized.codes.shape[0]
    if rows > 1 and quantized.scheme.blocks.rows != 1:
        raise ValueError(f"rows of {quantized.scheme} share a scale; use a scheme by channel or group")
    bias = np.asarray(bias, dtype=np.float64)
    (mean, spread), (wanted_mean, wanted_spread) = (
        tuple(np.asarray(one, dtype=np.float64) for one in pair) for pair in (seen, wanted)
    )
    for name, one in (
        ("bias", bias),
        ("seen", mean),
        ("seen", spread),
        ("wanted", wanted_mean),
        ("wanted", wanted_spread),
    ):
        if one.shape != (rows,) or not np.isfinite(one).all():
            raise ValueError(f"{name} must be {rows} finite numbers, got shape {one.shape}")
    # A channel that hardly moves has no spread to restore: the ratio would be noise.
    alive = np.minimum(spread, wanted_spread) > 1e-6 * max(float(wanted_spread.max()), 1e-30)
    ratio = np.where(alive, wanted_spread / np.where(alive, spread, 1), 1.0)
    before = quantized.ranges
    scheme, by_row = quantized.scheme, ratio[:, None].astype(np.float32)
    after = scheme.ranges(before.scale * by_row, before.offset * by_row if scheme.asymmetric else None)
    tuned = QTensor.from_codes(quantized.codes, quantized.shape, scheme, after)
    return tuned, ((bias - mean) * ratio + wanted_mean).astype(np.float32)
