"""Random Fourier features in few bits: noise shaping against rounding each feature by itself, on a Gaussian kernel."""

from __future__ import annotations

import numpy as np

from tercile.papers import Check, Measured, Size, paper
from tercile.quantization.noise_shaping import (
    alphabet,
    distributed,
    distributed_condensation,
    gaussian_features,
    memoryless,
    sigma_delta,
    sigma_delta_condensation,
)
from tercile.zoo.entries import find

PAPER = paper("sigma_delta_rff", authors="Zhang, Kannan, Cloninger, Saab", year=2021, source="arXiv:2106.02614")
MEASURED_ON = (
    "handwritten digits averaged to 2x2, a Gaussian kernel as wide as their median distance: mean and largest "
    "absolute error of the kernel over all pairs, averaged over draws of the features; and the part of it that "
    "quantization adds to the same features in float"
)
BASELINE = (
    "the same features rounded to the nearest of the same levels, as it is and with the kernel multiplied by the "
    "constant that fits the truth best, and rounded at random to one of two neighbours"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"pictures": 50, "draws": 2, "features": 3840},
    "full": {"pictures": 120, "draws": 6, "features": 15360, "seeds": "pictures and draws"},
}
SEEDS = (0, 1, 2)
RULE = (
    # Error as a power of the block's length: the filter of order r leaves length^-(r - 1/2) of a block's norm.
    Check("order1_slope", at_most="-0.5", quick_slack=0.2),
    Check("order2_slope", at_most="-1", quick_slack=0.2),
    # And of the number of features; each by itself stays where its rounding leaves it.
    Check("dimension_slope", at_most="-0.4", quick=False),
    Check("memoryless_dimension_slope", at_least="-0.1"),
    # Exponential in bits: halvings of the error for each further bit that a condensed number takes.
    Check("order1_halvings", at_least="0.5", quick_slack=0.2),
    Check("order2_halvings", at_least="0.6", quick_slack=0.2),
    Check("distributed_halvings", at_least="0.4", quick_slack=0.2),
    # Against memoryless quantization: as many features of as many bits, and as many bits stored.
    Check("error_1bit", at_most="0.5 * memoryless_error_1bit"),
    Check("error_2bit", at_most="0.5 * memoryless_error_2bit"),
    *(
        Check(f"error_{size}", at_most=f"min(memoryless1_{size}, memoryless2_{size})")
        for size in ("1024stored", "4096stored")
    ),
    # And against what it can be made into: scaled by the best constant, where the largest error shows the bias that no
    # constant takes away; and random rounding, which has none.
    Check("worst_1bit", at_most="scaled_worst_1bit", quick=False),
    Check("error_1bit", at_most="scaled_error_1bit", quick=False),
    Check("error_4096stored", at_most="random1_4096stored", quick=False),
)
LENGTHS, SHORT = (7, 15, 31, 63), (2, 3, 4, 5, 6, 7, 8)
#: Numbers that a point is condensed to where the length of the blocks is what varies.
CONDENSED, BETA = 96, 1.5
#: Length of the blocks against the baselines: what is left of the noise against what is lost in averaging.
BLOCK = 3


def points(count: int, seed: int) -> np.ndarray:
    """Held-out digits, 2x2, as rows."""
    with np.load(find("digits-cnn").sample) as stored:
        images = stored["images"][:, 0]
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    small = images[chosen].reshape(count, 2, 14, 2, 14).mean(axis=(2, 4)) / 255
    rows: np.ndarray = small.reshape(count, 4).astype(np.float32)
    return rows


def rounded_at_random(values: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """To one of the two neighbours, by chance, so that the mean is the value."""
    step = 2 / (len(alphabet(bits)) - 1)
    at = np.clip((values + 1) / step, 0, len(alphabet(bits)) - 1)
    below = np.floor(at)
    found: np.ndarray = (below + (rng.random(values.shape) < at - below)) * step - 1
    return found


class Kernel:
    """The true kernel of some points, and how far estimates are off."""

    def __init__(self, rows: np.ndarray) -> None:
        squares = np.square(rows[:, None] - rows[None], dtype=np.float64).sum(axis=2)
        self.pairs = np.triu_indices(len(rows), 1)
        self.bandwidth = float(np.sqrt(np.median(squares[self.pairs])))
        self.truth = np.exp(-squares / (2 * self.bandwidth**2))[self.pairs]

    def of(self, features: np.ndarray) -> np.ndarray:
        """Inner products of all pairs."""
        products: np.ndarray = (features @ features.T)[self.pairs]
        return products

    def error(self, estimate: np.ndarray) -> float:
        """Mean absolute."""
        return float(np.abs(estimate - self.truth).mean())

    def worst(self, estimate: np.ndarray) -> float:
        """Largest absolute."""
        return float(np.abs(estimate - self.truth).max())

    def scaled(self, estimate: np.ndarray) -> np.ndarray:
        """The estimate times the constant that suits it best, in squares."""
        suited: np.ndarray = estimate * (estimate @ self.truth) / (estimate @ estimate)
        return suited


def experiment(size: Size, seed: int) -> dict[str, Measured | float]:
    """Everything on one choice of pictures, averaged over draws."""
    given, rng = SIZES[size], np.random.default_rng(seed)
    rows = points(int(given["pictures"]), seed)
    runs = [_draw(rows, Kernel(rows), int(given["features"]), rng) for _ in range(int(given["draws"]))]
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    found: dict[str, Measured | float] = {}
    for order in (1, 2):
        errors = [mean[f"order{order}_quantization_{length}"] for length in LENGTHS]
        bits = [sigma_delta_condensation(length, order).bits(1) for length in LENGTHS]
        found[f"order{order}_slope"] = _slope(np.log(LENGTHS), np.log(errors))
        found[f"order{order}_halvings"] = -_slope(np.array(bits), np.log2(errors))
    errors = [mean[f"distributed_quantization_{length}"] for length in SHORT]
    found["distributed_halvings"] = -_slope(np.array(SHORT), np.log2(errors))
    counts = _counts(int(given["features"]))
    for name in ("", "memoryless_"):
        errors = [mean[f"{name}error_1bit_{count}"] for count in counts]
        found[f"{name}dimension_slope"] = _slope(np.log(counts), np.log(errors))
    return found | {name: Measured(value, "mean absolute error") for name, value in mean.items()}


def _counts(most: int) -> list[int]:
    return [most // 16, most // 4, most]


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])


def _draw(rows: np.ndarray, kernel: Kernel, most: int, rng: np.random.Generator) -> dict[str, float]:
    """All numbers for one draw of the features."""

    def features(count: int) -> np.ndarray:
        return gaussian_features(rows.shape[1], count, kernel.bandwidth, rng)(rows)

    found = {}
    for length in LENGTHS:
        z = features(CONDENSED * length)
        for order in (1, 2):
            condense = sigma_delta_condensation(length, order)
            added = kernel.of(condense(sigma_delta(z, 1, order))) - kernel.of(condense(z))
            found[f"order{order}_quantization_{length}"] = float(np.abs(added).mean())
    for length in SHORT:
        z, condense = features(CONDENSED * length), distributed_condensation(length, BETA)
        added = kernel.of(condense(distributed(z, 1, length, BETA))) - kernel.of(condense(z))
        found[f"distributed_quantization_{length}"] = float(np.abs(added).mean())
    z, condense = features(most), sigma_delta_condensation(BLOCK)
    for count in _counts(most):
        part = z[:, :count]
        found[f"float_error_{count}"] = kernel.error(kernel.of(_whole(part)))
        found[f"error_1bit_{count}"] = kernel.error(kernel.of(condense(sigma_delta(part, 1))))
        found[f"memoryless_error_1bit_{count}"] = kernel.error(kernel.of(_whole(memoryless(part, 1))))
    for bits in (1, 2):
        shaped, plain = kernel.of(condense(sigma_delta(z, bits))), kernel.of(_whole(memoryless(z, bits)))
        at_random = kernel.of(_whole(rounded_at_random(z, bits, rng)))
        for name, estimate in (
            ("", shaped),
            ("memoryless_", plain),
            ("random_", at_random),
            ("scaled_", kernel.scaled(plain)),
        ):
            found[f"{name}error_{bits}bit"] = kernel.error(estimate)
            found[f"{name}worst_{bits}bit"] = kernel.worst(estimate)
    for stored in (1024, 4096):
        z = features(stored // 2 * BLOCK)  # sums of three signs take two bits
        found[f"error_{stored}stored"] = kernel.error(kernel.of(condense(sigma_delta(z, 1))))
        for bits in (1, 2, 4):
            part = z[:, : stored // bits]
            found[f"memoryless{bits}_{stored}stored"] = kernel.error(kernel.of(_whole(memoryless(part, bits))))
            at_random = kernel.of(_whole(rounded_at_random(part, bits, rng)))
            found[f"random{bits}_{stored}stored"] = kernel.error(at_random)
    return found


def _whole(features: np.ndarray) -> np.ndarray:
    """Features whose inner products estimate the kernel, none of them summed."""
    scaled: np.ndarray = features * np.sqrt(2 / features.shape[1])
    return scaled
