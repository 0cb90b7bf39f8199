"""QTensors in the pack-quantized layout of compressed-tensors, which Transformers and vLLM read."""

from __future__ import annotations

from typing import Any

import numpy as np

from tercile.quantization.qtensor import QTensor


def pack_quantized(q: QTensor) -> dict[str, np.ndarray]:
    """The arrays of a weight, by the end of their names.

    Parameters
    ----------
    q
        Of a scheme that the format "compressed-tensors" holds.

    Returns
    -------
    weight_packed int32, whose order of bits is our own; weight_scale float32 (rows, groups); weight_shape int64.
    """
    return {
        "weight_packed": q.words.view(np.int32),
        "weight_scale": q.ranges.scale,
        "weight_shape": np.array(q.shape, dtype=np.int64),
    }


def quantization_args(q: QTensor) -> dict[str, Any]:
    """What config.json says of a weight's scheme: the fields of compressed-tensors' QuantizationArgs."""
    group = q.scheme.blocks.columns
    return {
        "num_bits": int(q.scheme.grid.bits),
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if group is None else "group",
        "group_size": group,
        "dynamic": False,
    }
