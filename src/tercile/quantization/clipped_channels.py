"""Channel ranges without their outliers: what the channels of a norm are brought to one range by.

Ranjan and Savakis (2024), "LRP-QViT", arXiv:2401.11243, clip each channel after a LayerNorm before its scale is found;
the scales are then merged into the norm and the layers that read it (`transforms.reparameterise_norms`). How they clip
could not be read; here it is at a quantile of each channel.
"""

from __future__ import annotations

import numpy as np

from tercile.quantization.statistics import Statistics


def clipped_channels(values: np.ndarray, level: float = 0.99) -> Statistics:
    """Statistics of rows whose channels are each held between their `1 - level` and `level` quantiles.

    Parameters
    ----------
    values
        float (n, channels): a sample of what a layer reads.
    level
        Above 0.5 and at most 1; 1 clips nothing.

    Raises
    ------
    ValueError
        If level is out of range, or values are no matrix with a row.

    Examples
    --------
    >>> rows = np.concatenate([np.random.default_rng(0).uniform(-1, 1, (999, 2)), [[50.0, 0.0]]])
    >>> bool(clipped_channels(rows).maximum_magnitude.max() <= 1)
    True
    """
    if not 0.5 < level <= 1:
        raise ValueError(f"level must be above 0.5 and at most 1, got {level}")
    rows = np.asarray(values, dtype=np.float32)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"values must be (n, channels) with n at least 1, got {rows.shape}")
    low, high = np.quantile(rows, 1 - level, axis=0), np.quantile(rows, level, axis=0)
    statistics = Statistics(rows.shape[1])
    statistics.update(np.clip(rows, low, high).astype(np.float32))
    return statistics
