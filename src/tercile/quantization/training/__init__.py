"""Training: what is stored of a model learns to give the original's answers again."""

from tercile.quantization.training.descent import Rates
from tercile.quantization.training.distillation import Distillation, Distilled, distil
from tercile.quantization.training.reconstruction import Reconstructed, Reconstruction, reconstruct, relative_square
from tercile.quantization.training.repair import Repair, Repaired, repair
from tercile.quantization.training.stored_weight import FixedCodes, SoftRounding, StraightThrough
from tercile.quantization.training.student import Student
from tercile.quantization.training.variation import Substitution

__all__ = [
    "Distillation",
    "Distilled",
    "FixedCodes",
    "Rates",
    "Reconstructed",
    "Reconstruction",
    "Repair",
    "Repaired",
    "SoftRounding",
    "StraightThrough",
    "Student",
    "Substitution",
    "distil",
    "reconstruct",
    "relative_square",
    "repair",
]
