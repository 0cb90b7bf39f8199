"""Debugging: which layer costs what, its weights or its inputs, and whether the range or the rounding is to blame."""

from tercile.quantization.debugging.diagnosis import Diagnosis, Fault, diagnose
from tercile.quantization.debugging.plot import diagnosis_svg

__all__ = ["Diagnosis", "Fault", "diagnose", "diagnosis_svg"]
