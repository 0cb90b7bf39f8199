"""Pruning against quantization at the same size: known distributions, real weights, layers' outputs, a whole model."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, t

from tercile.papers import Check, Measured, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import Scheme
from tercile.quantization.solvers import coordinate_descent, gptq, output_error, prune, round_to_nearest
from tercile.quantization.statistics import Statistics
from tercile.quantization.studies import (
    pruning_lower_bound,
    pruning_optimum,
    pruning_snr,
    quantization_lower_bound,
    quantization_snr,
    snr,
)

PAPER = paper(
    "pruning_vs_quantization",
    authors="Kuzmin, Nagel, van Baalen, Behboodi, Blankevoort",
    year=2023,
    source="arXiv:2307.02973",
)
MEASURED_ON = (
    "b bits a weight, one scale a tensor or a row, against b of every 16 weights kept and their places free of charge, "
    "as in the paper: signal to noise of normal and Student's t values, of MiniLM's weights and of its layers' "
    "outputs, squared error of single outputs of 14 inputs against bounds, and the loss of the encoder with those "
    "layers stored so (1 - cosine of embeddings)"
)
BASELINE = "pruning: the largest values; for outputs the best that gradual hard thresholding and an exact fit find"
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"calibration texts": 16, "texts": 8, "layers": "attention of block 4", "outputs": 8},
    "full": {
        "calibration texts": 96,
        "texts": 120,
        "layers": "the 12 of blocks 1 and 4",
        "outputs": 60,
        "seeds": "texts and outputs",
    },
}
SEEDS = (0, 1, 2)
BITS = (8, 4, 3, 2)
#: For outputs; at 8 bits quantization's error is next to nothing, and fitting half of all weights takes long.
OUTPUT_BITS = (4, 3, 2)
#: Inputs of the small problems that can be solved by going through all choices.
FEW = 14

RULE = (
    *(Check(f"normal_gap_{bits}bit", at_least="0") for bits in BITS),
    # Heavy tails: pruning is ahead where compression is strong, and only there.
    Check("heavy_gap_2bit", at_most="0"),
    Check("heavy_gap_4bit", at_least="0"),
    *(Check(f"weights_share_{bits}bit", at_least="0.95") for bits in (8, 4, 3)),
    *(Check(f"outputs_share_{bits}bit", at_least="0.95", quick=False) for bits in (4, 3)),
    # What quantization is ahead by shrinks as compression grows.
    Check("weights_gap_2bit", at_most="weights_gap_4bit"),
    Check("outputs_gap_2bit", at_most="outputs_gap_4bit"),
    # Even the best pruning there is loses to what a quantizer finds.
    Check("beats_best_pruning_4bit", at_least="0.9"),
    Check("bounds_kept", at_least="1"),
    *(Check(f"loss_{bits}bit", at_most=f"pruned_loss_{bits}bit", quick=False) for bits in (4, 3)),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, Measured | float]:
    """The four comparisons, on one choice of texts and outputs."""
    given, full = SIZES[size], size == "full"
    encoder = SentenceEncoder(int(given["calibration texts"]), int(given["texts"]), seed, (1, 4) if full else (4,))
    if not full:
        encoder.weights = {name: weight for name, weight in encoder.weights.items() if ".attention." in name}
    statistics = encoder.statistics()
    found = distributions() | weights(encoder)
    found |= outputs(encoder, statistics)
    return found | single_outputs(encoder, statistics, int(given["outputs"]), seed)


def distributions() -> dict[str, Measured | float]:
    """Decibels that quantization is ahead by, from the densities."""
    found: dict[str, Measured | float] = {}
    for name, distribution in (("normal", norm()), ("student5", t(5)), ("heavy", t(3))):
        for bits in (*BITS, 1):
            gap = quantization_snr(distribution, bits) - pruning_snr(distribution, bits / 16)
            found[f"{name}_gap_{bits}bit"] = Measured(gap, "dB ahead of pruning")
    return found


def weights(encoder: SentenceEncoder) -> dict[str, Measured | float]:
    """The same for the weights themselves, one range a tensor as in the paper."""
    gaps: dict[int, list[float]] = {bits: [] for bits in BITS}
    for weight in encoder.weights.values():
        signal = float(np.square(weight, dtype=np.float64).sum())
        magnitudes = np.sort(np.abs(weight).reshape(-1)).astype(np.float64)
        for bits in BITS:
            stored = round_to_nearest(weight, None, Scheme.parse(f"int{bits}-tensor-f32")).dequantize()
            pruned = magnitudes[: len(magnitudes) - round(bits / 16 * len(magnitudes))]
            gaps[bits].append(
                snr(signal, float(np.square(weight - stored, dtype=np.float64).sum()))
                - snr(signal, float(np.square(pruned).sum()))
            )
    return _gaps("weights", gaps)


def outputs(encoder: SentenceEncoder, statistics: dict[str, Statistics]) -> dict[str, Measured | float]:
    """Of the layers' outputs after optimisation, and the loss of the whole model where all layers are done."""
    gaps: dict[int, list[float]] = {bits: [] for bits in OUTPUT_BITS}
    stored: dict[str, dict[str, np.ndarray]] = {}
    for bits in OUTPUT_BITS:
        # Pruning keeps its weights in full, so quantization may keep one scale a row in full.
        scheme = Scheme.parse(f"int{bits}-channel-f32")
        quantized, pruned = stored[f"loss_{bits}bit"], stored[f"pruned_loss_{bits}bit"] = {}, {}
        for name, weight in encoder.weights.items():
            seen = statistics[name]
            first = gptq(weight, seen, scheme)
            best = coordinate_descent(weight, first, seen, sweeps=6, relaxed=True)
            quantized[name] = best.dequantize()
            pruned[name] = prune(weight, seen, bits / 16, rounds=30)
            signal = _lost(weight, np.zeros_like(weight), seen)
            gaps[bits].append(
                snr(signal, output_error(weight, best, seen)) - snr(signal, _lost(weight, pruned[name], seen))
            )
    losses = {name: Measured(encoder.loss(values), "1 - cosine") for name, values in stored.items()}
    return _gaps("outputs", gaps) | losses


def single_outputs(
    encoder: SentenceEncoder, statistics: dict[str, Statistics], count: int, seed: int
) -> dict[str, Measured | float]:
    """Outputs cut down to few inputs, where the best pruning can be found and bounds can be checked."""
    rng, names = np.random.default_rng(seed), list(encoder.weights)
    ahead: dict[int, list[bool]] = {4: [], 2: []}
    kept, tight = [], []
    for _ in range(count):
        name = names[rng.integers(len(names))]
        weight, hessian = encoder.weights[name], statistics[name].second_moment.astype(np.float64)
        inputs = rng.choice(weight.shape[1], FEW, replace=False)
        w, h = weight[rng.integers(len(weight)), inputs][None], hessian[np.ix_(inputs, inputs)]
        h += 1e-3 * np.diagonal(h).mean() * np.eye(FEW)
        seen = Statistics(FEW)
        seen.update(np.linalg.cholesky(h).T * FEW**0.5)
        for bits in ahead:
            scheme = Scheme.parse(f"int{bits}-channel-f32")
            first = gptq(w, seen, scheme)
            best = coordinate_descent(w, first, seen, sweeps=12, relaxed=True)
            error = output_error(w, best, seen)
            keep = round(bits / 16 * FEW)
            optimum = pruning_optimum(w[0], h, keep)
            ahead[bits].append(error < optimum)
            levels = np.sort(best.ranges.scale[0, 0] * scheme.grid.levels.astype(np.float64))
            below = quantization_lower_bound(w[0], h, np.tile(levels, (FEW, 1)))
            kept.append(below <= error * 1.001 and pruning_lower_bound(w[0], h, keep) <= optimum * 1.001)
            tight.append(below / error)
    return {
        "bounds_kept": float(np.mean(kept)),
        "quantization_bound_over_error": float(np.mean(tight)),
        **{f"beats_best_pruning_{bits}bit": float(np.mean(of)) for bits, of in ahead.items()},
    }


def _gaps(what: str, gaps: dict[int, list[float]]) -> dict[str, Measured | float]:
    found: dict[str, Measured | float] = {}
    for bits, of in gaps.items():
        found[f"{what}_gap_{bits}bit"] = Measured(float(np.mean(of)), "dB ahead of pruning")
        found[f"{what}_share_{bits}bit"] = Measured(float(np.mean(np.array(of) > 0)), "share of layers")
    return found


def _lost(weight: np.ndarray, values: np.ndarray, statistics: Statistics) -> float:
    change = weight - values
    return float(np.einsum("ij,ij->", change @ statistics.second_moment, change, dtype=np.float64))
