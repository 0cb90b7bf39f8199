"""How far drawn pictures are from real ones: the distance between two Gaussians in a space of features."""

from __future__ import annotations

import numpy as np


def frechet_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians with the means and covariances of two samples (Heusel et al. 2017).

    Parameters
    ----------
    left, right
        Features, (n, features) and (m, features), of drawn and of real pictures.

    Returns
    -------
    |mean - mean|^2 + tr(C + D - 2 (C D)^(1/2)): 0 for samples of the same moments. Few samples make it larger: compare
    figures of the same n and m alone.

    Raises
    ------
    ValueError
        If shapes do not fit, a sample has fewer than two rows, or a feature is not finite.

    Notes
    -----
    Costs two eigenvalue problems of the number of features.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 2), 6)
    (0.0, 12.0)
    """
    samples = [np.asarray(sample, dtype=np.float64) for sample in (left, right)]
    for name, sample in zip(("left", "right"), samples, strict=True):
        if sample.ndim != 2 or len(sample) < 2:
            raise ValueError(f"{name} must be (n, features) with two rows at least, got shape {sample.shape}")
        if not np.isfinite(sample).all():
            raise ValueError(f"{name} holds values that are not finite")
    if samples[0].shape[1] != samples[1].shape[1]:
        raise ValueError(f"left has {samples[0].shape[1]} features, right {samples[1].shape[1]}")
    means = [sample.mean(axis=0) for sample in samples]
    first, second = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in samples)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # tr (C D)^(1/2) is that of the symmetric C^(1/2) D C^(1/2).
    crossed = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    distance = np.square(means[0] - means[1]).sum() + np.trace(first) + np.trace(second) - 2 * crossed
    return float(max(distance, 0.0))
