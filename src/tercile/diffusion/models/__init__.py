"""Models that predict the noise in a picture."""

from tercile.diffusion.models.dit import DiT, Shape

__all__ = ["DiT", "Shape"]
