"""Processes: how noise is added, step by step."""

from tercile.diffusion.processes.gaussian import GaussianProcess, cosine

__all__ = ["GaussianProcess", "cosine"]
