"""Activations: rounds what layers and attention read, while a model runs."""

from tercile.quantization.activations.attach import Quantizer, attach, attached
from tercile.quantization.activations.calibrate import Seen, calibrate, observe
from tercile.quantization.activations.quantizers import Dynamic, Static, from_statistics, from_values
from tercile.quantization.activations.rounding import fake_quantize
from tercile.quantization.activations.sites import Site, sites
from tercile.quantization.activations.two_sided import TwoSided, fitted_sides, one_scale, polarity_gain, two_sided

__all__ = [
    "Dynamic",
    "Quantizer",
    "Seen",
    "Site",
    "Static",
    "TwoSided",
    "attach",
    "attached",
    "calibrate",
    "fake_quantize",
    "fitted_sides",
    "from_statistics",
    "from_values",
    "observe",
    "one_scale",
    "polarity_gain",
    "sites",
    "two_sided",
]
