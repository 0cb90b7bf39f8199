"""Studies: what can be said about compression before, or without, doing it."""

from tercile.quantization.studies.bounds import (
    diagonal_below,
    pruning_lower_bound,
    pruning_optimum,
    quantization_lower_bound,
)
from tercile.quantization.studies.expected_error import pruning_snr, quantization_snr, snr

__all__ = [
    "diagonal_below",
    "pruning_lower_bound",
    "pruning_optimum",
    "pruning_snr",
    "quantization_lower_bound",
    "quantization_snr",
    "snr",
]
