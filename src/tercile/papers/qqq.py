"""4-bit weights and 8-bit activations: smoothing of what stands out, then GPTQ; and the products on packed kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.rounded_language_model import LanguageModel, forward
from tercile.papers.seconds import least_seconds
from tercile.quantization import Scheme
from tercile.quantization.activations import Dynamic, observe
from tercile.quantization.ranges import min_max
from tercile.quantization.runtime import PackedMatrix
from tercile.quantization.solvers import gptq, round_to_nearest
from tercile.quantization.statistics import Statistics
from tercile.quantization.transforms import Rewrite, balance, emphasis, smooth, smooth_outliers

PAPER = paper("qqq", authors="Zhang, Zhang, Huang, Xiang et al.", year=2024, source="arXiv:2406.09904")
MEASURED_ON = (
    "the zoo's debian-llama, all layers of its blocks: weights at 4 bits with a scale a row or 64 weights, inputs of "
    "layers at 8 bits with a scale a token: mean KL divergence of the next token's distribution from the float model's "
    "on held-out documents; and seconds of a product of 4096 x 4096 weights with 1 and 256 rows of activations, on one "
    "thread of this machine, turn by turn"
)
BASELINE = (
    "the same weights rounded to nearest, by GPTQ without smoothing, after SmoothQuant at 0.5, after AWQ's factors; "
    "products in float32 (torch), with 8-bit weights and activations, and with 4-bit weights and float activations"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test documents": 3, "calibration documents": 6, "limits tried": 4, "side of the matrix": 512},
    "full": {"test documents": 48, "calibration documents": 96, "limits tried": 100, "side of the matrix": 4096},
}
SEEDS = (0, 1, 2)
SCHEMES = {"channel": "int4-channel", "group": "int4-g64"}
TOKENS = Scheme.parse("int8-token")
RULE = (
    Check("channel_qqq_kl", at_most="0.7 * channel_nearest_kl", quick_slack=0.3),
    Check("channel_qqq_kl", at_most="1.05 * min(channel_gptq_kl, channel_smooth_kl, channel_awq_kl)", quick=False),
    Check("group_qqq_kl", at_most="0.8 * group_nearest_kl", quick_slack=0.3),
    Check("group_qqq_kl", at_most="1.05 * min(group_gptq_kl, group_smooth_kl, group_awq_kl)", quick=False),
    Check("w4a8_channel_1_seconds", at_most="0.5 * float_1_seconds", quick=False),
    Check("w4a8_group_1_seconds", at_most="0.5 * float_1_seconds", quick=False),
    Check("w4a8_channel_1_seconds", at_most="w8a8_1_seconds", quick=False),
    Check("w4a8_channel_256_seconds", at_most="0.8 * float_256_seconds", quick=False),
    Check("w4a8_group_256_seconds", at_most="0.8 * float_256_seconds", quick=False),
    Check("w4a8_channel_256_seconds", at_most="w4a16_256_seconds", quick=False),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Quality under every way to prepare the weights, then speed."""
    given = SIZES[size]
    bench = LanguageModel(int(given["test documents"]), int(given["calibration documents"]), seed)
    found: dict[str, float] = {}
    for name, spelling in SCHEMES.items():
        scheme = Scheme.parse(spelling)
        found |= _scores(bench, f"{name}_nearest_", bench.model, scheme, None)
        found |= _scores(bench, f"{name}_gptq_", bench.model, scheme, bench.statistics)
        for way, factors in (("smooth", balance), ("awq", emphasis)):
            model = copy.deepcopy(bench.model)
            done = smooth(model, bench.family, bench.statistics, 0.5, factors=factors)
            found |= _scores(bench, f"{name}_{way}_", model, scheme, _scaled(bench.statistics, done))
        model, done = _adapted(bench, scheme, int(given["limits tried"]))
        found |= _scores(bench, f"{name}_qqq_", model, scheme, _scaled(bench.statistics, done))
        found[f"{name}_channels_divided"] = float(np.mean(np.concatenate([f > 1 for f in done.divided.values()])))
    found["inputs_alone_kl"] = bench.scores("x_", bench.model, _inputs(bench))["x_kl"]
    return found | speed(int(given["side of the matrix"]), seed)


def _adapted(bench: LanguageModel, scheme: Scheme, steps: int) -> tuple[nn.Module, Rewrite]:
    """The model after adaptive smoothing, and what was divided."""
    model = copy.deepcopy(bench.model)
    seen = observe(model, bench.family, bench.calibration[:16], forward=forward, attention=False, rows=512)
    inputs = {name: seen[name].sample for name in bench.layers}
    return model, smooth_outliers(model, bench.family, inputs, scheme, TOKENS, steps=steps)


def _scaled(statistics: Mapping[str, Statistics], done: Rewrite) -> dict[str, Statistics]:
    """Statistics of the inputs as they are after a rewrite."""
    return {
        name: seen.scaled(1 / done.divided[name]) if name in done.divided else seen for name, seen in statistics.items()
    }


def _inputs(bench: LanguageModel) -> dict[str, Dynamic]:
    return dict.fromkeys(bench.layers, Dynamic(TOKENS))


@torch.no_grad()
def _scores(
    bench: LanguageModel, name: str, model: nn.Module, scheme: Scheme, statistics: Mapping[str, Statistics] | None
) -> dict[str, float]:
    """Divergence with the weights of a prepared model stored, by GPTQ or rounded to nearest, and inputs rounded."""
    stored = copy.deepcopy(model)
    for layer in bench.layers:
        weight = stored.get_parameter(f"{layer}.weight")
        matrix = weight.numpy().copy()
        seen = None if statistics is None else statistics[layer]
        kept = round_to_nearest(matrix, None, scheme) if seen is None else gptq(matrix, seen, scheme)
        weight.copy_(torch.from_numpy(kept.dequantize()))
    return bench.scores(name, stored, _inputs(bench))


def speed(side: int, seed: int) -> dict[str, float]:
    """Seconds of a product of a square matrix with 1 and with 256 rows, each way in turn, the least of five."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(side, side)).astype(np.float32)

    def packed(spelling: str, activations: str) -> Callable[[np.ndarray], object]:
        q = round_to_nearest(weight, None, Scheme.parse(spelling), min_max)
        return PackedMatrix.from_qtensor(q, "int8" if activations == "int8" else "float").matmul

    plain = torch.from_numpy(weight)
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "float": lambda x: torch.nn.functional.linear(torch.from_numpy(x), plain),
        "w8a8": packed("int8-channel", "int8"),
        "w4a16": packed("int4-channel", "float"),
        "w4a8_channel": packed("int4-channel", "int8"),
        "w4a8_group": packed("int4-g64", "int8"),
    }
    found: dict[str, float] = {}
    for rows in (1, 256):
        x = random.normal(size=(rows, side)).astype(np.float32)
        turns = {name: partial(product, x) for name, product in ways.items()}
        seconds = least_seconds(turns, calls=10 if rows == 1 else 1)
        found |= {f"{name}_{rows}_seconds": least for name, least in seconds.items()}
    return found
