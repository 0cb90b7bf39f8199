"""Diffusion: models that predict noise, the processes that add it, and samplers that take it away."""
