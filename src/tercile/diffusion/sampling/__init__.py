"""Sampling: from noise to pictures with a model that predicts the noise."""

from tercile.diffusion.sampling.ddim import Denoise, ddim
from tercile.diffusion.sampling.frechet import frechet_distance

__all__ = ["Denoise", "ddim", "frechet_distance"]
