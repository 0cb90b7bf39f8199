"""Noise shaping: quantizers whose errors cancel over neighbours, and random features stored by them."""

from tercile.quantization.noise_shaping.condensation import (
    Condensation,
    distributed_condensation,
    sigma_delta_condensation,
)
from tercile.quantization.noise_shaping.fourier_features import FourierFeatures, gaussian_features
from tercile.quantization.noise_shaping.quantizers import alphabet, distributed, memoryless, sigma_delta

__all__ = [
    "Condensation",
    "FourierFeatures",
    "alphabet",
    "distributed",
    "distributed_condensation",
    "gaussian_features",
    "memoryless",
    "sigma_delta",
    "sigma_delta_condensation",
]
