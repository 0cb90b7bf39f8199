"""Transforms: rewrites of a model, in place, that keep its function."""

from tercile.quantization.transforms.adaptive_smoothing import outlier_factors, smooth_outliers
from tercile.quantization.transforms.batch_norms import fold_batch_norms
from tercile.quantization.transforms.equalization import equalize_layers
from tercile.quantization.transforms.learned_rotation import LearnedRotation, learn_rotation
from tercile.quantization.transforms.norms import fold_norms
from tercile.quantization.transforms.outlier_branch import Branched, absorb
from tercile.quantization.transforms.reparameterisation import mean, median, reparameterise_norms
from tercile.quantization.transforms.residual_expansion import Expansion, expand
from tercile.quantization.transforms.rewrite import Rewrite
from tercile.quantization.transforms.rotation import hadamard_rotation, rotate_stream, untie
from tercile.quantization.transforms.segmented import SegmentLinear, cut_linear
from tercile.quantization.transforms.smoothing import balance, emphasis, smooth

__all__ = [
    "Branched",
    "Expansion",
    "LearnedRotation",
    "Rewrite",
    "SegmentLinear",
    "absorb",
    "balance",
    "cut_linear",
    "emphasis",
    "equalize_layers",
    "expand",
    "fold_batch_norms",
    "fold_norms",
    "hadamard_rotation",
    "learn_rotation",
    "mean",
    "median",
    "outlier_factors",
    "reparameterise_norms",
    "rotate_stream",
    "smooth",
    "smooth_outliers",
    "untie",
]
