"""Activations: rounds what layers and attention read, while a model runs."""

from tercile.quantization.activations.attach import Quantizer, attach, attached
from tercile.quantization.activations.calibrate import Seen, calibrate, observe
from tercile.quantization.activations.quantizers import Dynamic, Static, from_statistics, from_values
from tercile.quantization.activations.rounding import fake_quantize
from tercile.quantization.activations.sites import Site, sites

__all__ = [
    "Dynamic",
    "Quantizer",
    "Seen",
    "Site",
    "Static",
    "attach",
    "attached",
    "calibrate",
    "fake_quantize",
    "from_statistics",
    "from_values",
    "observe",
    "sites",
]
