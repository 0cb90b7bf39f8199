"""Floating-point weights and activations, scales that are shifts, and a low-rank branch, on a language model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.rounded_language_model import LanguageModel, forward
from tercile.quantization import Scheme
from tercile.quantization.activations import Dynamic, Quantizer
from tercile.quantization.activations.power_law import capture
from tercile.quantization.low_rank import compensate
from tercile.quantization.ranges import RangeEstimator, min_max, mse
from tercile.quantization.solvers import gptq
from tercile.quantization.statistics import Statistics

PAPER = paper("zeroquant_fp", authors="Wu, Yao, He", year=2023, source="arXiv:2307.09782")
MEASURED_ON = (
    "the zoo's debian-llama (5.5 million weights), all layers of its blocks: weights by GPTQ at 4 bits in groups of "
    "64, inputs of layers at 8 bits with one scale a token: mean KL divergence of the next token's distribution from "
    "the float model's, on held-out documents; and relative squared error of the inputs of each kind of layer"
)
BASELINE = (
    "integers of the same bits with the same groups, solver and calibration documents; free float16 scales; no branch"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test documents": 4, "calibration documents": 8},
    "full": {"test documents": 48, "calibration documents": 96, "seeds": "documents"},
}
SEEDS = (0, 1, 2)
RANK = 8
SCHEMES = {
    "int4_": "int4-g64",
    "fp4_": "fp4-e2m1-g64",
    "powers_": "fp4-e2m1-g64-e8m0",
    "shifts_": "fp4-e2m1-g64-s3",
}
RULE = (
    Check("fp8_inputs_kl", at_most="int8_inputs_kl", quick=False),
    Check("fp8_down_error", at_most="int8_down_error", quick=False),
    Check("fp4_kl", at_most="int4_kl", quick=False),
    Check("fp4_minmax_kl", at_most="int4_minmax_kl", quick=False),
    Check("fp4_fp8_kl", at_most="int4_int8_kl", quick=False),
    Check("shifts_kl", at_most="1.1 * fp4_kl", quick_slack=0.3),
    Check("shifts_kl", at_most="powers_kl", quick=False),
    Check("branch_kl", at_most="fp4_kl", quick_slack=0.1),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Inputs alone, weights alone, both, constrained scales, and the branch."""
    given = SIZES[size]
    bench = LanguageModel(int(given["test documents"]), int(given["calibration documents"]), seed)
    inputs = {name: token_quantizers(bench, f"{name}-token") for name in ("int8", "fp8-e4m3")}
    found = bench.scores("int8_inputs_", bench.model, inputs["int8"])
    found |= bench.scores("fp8_inputs_", bench.model, inputs["fp8-e4m3"])
    found |= input_errors(bench)
    for name, spelling in SCHEMES.items():
        scheme = Scheme.parse(spelling)
        model = bench.stored(stored_by(scheme))
        found |= bench.scores(name, model, {})
        found[f"{name}bits"] = scheme.bits_per_weight((256, 704))
        if name in ("int4_", "fp4_"):
            widest = bench.stored(stored_by(scheme, min_max))
            found |= bench.scores(f"{name}minmax_", widest, {})
        if name == "int4_":
            found |= bench.scores("int4_int8_", model, inputs["int8"])
        if name == "fp4_":
            found |= bench.scores("fp4_fp8_", model, inputs["fp8-e4m3"])
    branched = bench.stored(with_branch(Scheme.parse(SCHEMES["fp4_"])))
    found |= bench.scores("branch_", branched, {}) | bench.scores("branch_fp8_", branched, inputs["fp8-e4m3"])
    return found


def token_quantizers(bench: LanguageModel, spelling: str) -> dict[str, Quantizer]:
    """A dynamic quantizer for the input of every layer in a block."""
    return dict.fromkeys(bench.layers, Dynamic(Scheme.parse(spelling)))


def stored_by(scheme: Scheme, ranges: RangeEstimator = mse) -> Callable[[str, np.ndarray, Statistics], np.ndarray]:
    """Weights as GPTQ stores them."""
    return lambda name, weight, statistics: gptq(weight, statistics, scheme, ranges=ranges).dequantize()


def with_branch(scheme: Scheme) -> Callable[[str, np.ndarray, Statistics], np.ndarray]:
    """The same with a low-rank branch of 8-bit factors for what rounding took away."""

    def store(name: str, weight: np.ndarray, statistics: Statistics) -> np.ndarray:
        kept = gptq(weight, statistics, scheme)
        whole: np.ndarray = kept.dequantize() + compensate(weight, kept, RANK).dequantize()
        return whole

    return store


@torch.no_grad()
def input_errors(bench: LanguageModel) -> dict[str, float]:
    """Relative squared rounding error of what each kind of layer reads, and how far its largest value stands out."""
    read: dict[str, list[torch.Tensor]] = {name: [] for name in bench.layers}
    for document in bench.calibration[:8]:
        for name, x in capture(bench.model, bench.family, [document], bench.layers, forward=forward).items():
            read[name].append(x.flatten(0, -2))
    found = {}
    for kind in ("q", "o", "up", "down"):
        rows = [torch.cat(parts) for name, parts in read.items() if name.endswith(f"{kind}_proj")]
        for label, spelling in (("int8", "int8-token"), ("fp8", "fp8-e4m3-token")):
            rounded = Dynamic(Scheme.parse(spelling))
            errors = [float((rounded(x) - x).square().sum() / x.square().sum()) for x in rows]
            found[f"{label}_{kind}_error"] = float(np.mean(errors))
        peaks = [float((x.abs().amax(-1) / x.square().mean(-1).sqrt()).mean()) for x in rows]
        found[f"{kind}_peak"] = float(np.mean(peaks))
    return found
