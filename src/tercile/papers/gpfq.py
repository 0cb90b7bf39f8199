"""Greedy path following: decay of the error with width, and few bits for a convolutional network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from tercile.papers import Check, Measured, Size, paper
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures
from tercile.papers.layerwise_ip import bias_of
from tercile.papers.stored_layers import accuracy, divergence
from tercile.quantization import QTensor, Scheme
from tercile.quantization.cross_moment import CrossMoment
from tercile.quantization.layer_inputs import patches
from tercile.quantization.sequential import quantize_in_order
from tercile.quantization.solvers import (
    gpfq,
    gptq,
    hard_threshold,
    output_error,
    round_to_nearest,
    soft_threshold,
)
from tercile.quantization.statistics import Statistics

PAPER = paper("gpfq", authors="Zhang, Zhou, Saab", year=2022, source="arXiv:2201.11113")
MEASURED_ON = (
    "squared error over squared output of single layers of random weights, linear and convolutional, on Gaussian "
    "inputs, as the layer gets wider; and the zoo's digits-cnn with batch norms folded, weights by channel at 4, 3 and "
    "1.6 bits: accuracy on 1,250 held-out MNIST digits and KL divergence from the float network"
)
BASELINE = (
    "rounding to nearest with least-squares scales; GPTQ on the same inputs, those of the network quantized so far; "
    "and the same path following with the original network's inputs left out"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"widths": "128 to 1,024", "neurons": 8, "test pictures": 40, "calibration pictures": 8},
    "full": {
        "widths": "128 to 4,096",
        "neurons": 32,
        "test pictures": 1250,
        "calibration pictures": 100,
        "seeds": "weights and inputs; which pictures",
    },
}
SEEDS = (0, 1, 2)
#: Inputs that a layer of random weights sees; the bound needs width far above it.
SAMPLES = 32
WIDTHS = (128, 256, 512, 1024, 2048, 4096)

RULE = (
    # The bound of the paper: squared error over squared output like log(width) / width.
    Check("linear_slope", at_most="-0.8"),
    Check("convolution_slope", at_most="-0.8"),
    Check("nearest_slope", at_least="-0.2"),
    Check("accuracy_4bit", at_least="float_accuracy - 0.01", quick_slack=0.02),
    Check("accuracy_3bit", at_least="float_accuracy - 0.02", quick_slack=0.05),
    Check("accuracy_ternary", at_least="nearest_accuracy_ternary + 0.05", quick=False),
    *(Check(f"kl_{bits}", at_most=f"nearest_kl_{bits}", quick=False) for bits in ("4bit", "3bit", "ternary")),
    Check("kl_ternary", at_most="not_following_kl_ternary", quick=False),
    Check("soft_kl_3bit", at_most="nearest_soft_kl_3bit", quick=False),
    Check("soft_zeros_3bit", at_least="zeros_3bit + 0.1"),
    Check("hard_kl_3bit", at_most="nearest_hard_kl_3bit", quick=False),
    Check("hard_zeros_3bit", at_least="zeros_3bit + 0.1"),
    Check("corrected_kl_ternary", at_most="kl_ternary", quick=False),
)

#: Thresholds in steps of the grid.
SOFT, HARD = 0.35, 1.0
SCHEMES = {"4bit": "int4-channel-f32", "3bit": "int3-channel-f32", "ternary": "ternary-channel-f32"}


@one_thread
def experiment(size: Size, seed: int) -> dict[str, Measured | float]:
    """The decay on random layers, then every variant on the network."""
    return decay(size, seed) | network(size, seed)


def decay(size: Size, seed: int) -> dict[str, float]:
    """Slopes of log error over log width, ternary weights."""
    rng, neurons = np.random.default_rng(seed), int(SIZES[size]["neurons"])
    widths = WIDTHS if size == "full" else WIDTHS[:4]
    scheme = Scheme.parse("ternary-channel-f32")
    found: dict[str, list[float]] = {"linear": [], "nearest": [], "convolution": []}
    kept: dict[str, float] = {}
    for width in widths:
        weight = rng.uniform(-1, 1, size=(neurons, width)).astype(np.float32)
        seen = Statistics(width)
        seen.update(rng.normal(size=(SAMPLES, width)))
        found["linear"].append(_relative(weight, gpfq(weight, seen, scheme, damping=0.0), seen))
        found["nearest"].append(_relative(weight, round_to_nearest(weight, None, scheme), seen))
        # A 3x3 convolution over as many channels as make the same width, on a few places of Gaussian pictures.
        channels = width // 8
        weight = rng.uniform(-1, 1, size=(neurons, channels, 3, 3)).astype(np.float32)
        layer = nn.Conv2d(channels, neurons, 3)
        seen = Statistics(9 * channels)
        image = torch.from_numpy(rng.normal(size=(2, channels, 6, 6)).astype(np.float32))
        for rows in patches(layer, image):
            seen.update(rows)
        found["convolution"].append(_relative(weight, gpfq(weight, seen, scheme, damping=0.0), seen))
    for name, errors in found.items():
        kept[f"{name}_slope"] = float(np.polyfit(np.log(widths), np.log(errors), 1)[0])
        kept |= {f"{name}_error_{width}": error for width, error in zip(widths, errors, strict=True)}
    return kept


def _relative(weight: np.ndarray, stored: QTensor, statistics: Statistics) -> float:
    flat = weight.reshape(len(weight), -1)
    whole = float(np.einsum("ij,ij->", flat @ statistics.second_moment, flat, dtype=np.float64))
    return output_error(weight, stored, statistics) / whole


def network(size: Size, seed: int) -> dict[str, Measured | float]:
    """Every variant on the convolutional network, all layers at one width."""
    given = SIZES[size]
    test, labels = pictures(0, 2)
    test, labels = test[: int(given["test pictures"])], labels[: int(given["test pictures"])]
    pool = pictures(1, 2)[0]
    chosen = np.random.default_rng(seed).permutation(len(pool))[: int(given["calibration pictures"])]
    batches = pool[torch.from_numpy(chosen)].split(50)
    model = folded_network()
    truth = logits(model, test)
    found: dict[str, Measured | float] = {"float_accuracy": Measured(accuracy(truth, labels), "share")}

    def judge(name: str, after: str, solve: Solve, corrected: bool = False) -> None:
        changed, zeros = quantized(model, batches, solve, corrected)
        answers = logits(changed, test)
        found[f"{name}kl_{after}"] = Measured(divergence(truth, answers), "KL divergence")
        found[f"{name}accuracy_{after}"] = Measured(accuracy(answers, labels), "share")
        found[f"{name}zeros_{after}"] = Measured(zeros, "share of weights")

    for after, spelling in SCHEMES.items():
        scheme = Scheme.parse(spelling)
        judge("", after, lambda w, now, cross, s=scheme: gpfq(w, now, s, original=cross))
        judge("nearest_", after, lambda w, now, cross, s=scheme: round_to_nearest(w, None, s))
    ternary, three = Scheme.parse(SCHEMES["ternary"]), Scheme.parse(SCHEMES["3bit"])
    judge("not_following_", "ternary", lambda w, now, cross: gpfq(w, now, ternary))
    judge("gptq_", "ternary", lambda w, now, cross: gptq(w, now, ternary))
    judge("gptq_", "3bit", lambda w, now, cross: gptq(w, now, three))
    judge("corrected_", "ternary", lambda w, now, cross: gpfq(w, now, ternary, original=cross), True)
    for name, rounding in (("soft_", soft_threshold(SOFT)), ("hard_", hard_threshold(HARD))):
        judge(name, "3bit", lambda w, now, cross, r=rounding: gpfq(w, now, three, original=cross, rounding=r))
        # The same rounding with nothing followed: inputs that have nothing to do with each other.
        judge(f"nearest_{name}", "3bit", lambda w, now, cross, r=rounding: gpfq(w, _alone(now), three, rounding=r))
    return found


Solve = Callable[..., QTensor]


def _alone(now: Statistics) -> Statistics:
    """Statistics of as many inputs that all have the same size and no correlation."""
    alone = Statistics(now.channels)
    alone.update(np.eye(now.channels))
    return alone


def quantized(
    model: nn.Module, batches: Sequence[torch.Tensor], solve: Solve, corrected: bool
) -> tuple[nn.Module, float]:
    """A copy with every layer quantized in order, and the share of its weights that are zero."""
    changed = copy.deepcopy(model)
    layers = layers_of(changed)
    in_turn = iter(layers.values())

    def follow(weight: np.ndarray, now: Statistics, cross: CrossMoment) -> QTensor:
        stored, layer = solve(weight, now, cross), next(in_turn)
        if corrected:  # at once: the layers after it read what comes out
            wanted = weight.reshape(len(weight), -1) @ cross.original_mean
            given = stored.dequantize().reshape(len(weight), -1) @ now.mean
            bias_of(layer).add_(torch.from_numpy((wanted - given).astype(np.float32)))
        return stored

    # A prime, so that every column of a picture is met; the last layers have few places as it is.
    stored = quantize_in_order(
        changed,
        list(layers),
        batches,
        lambda m, x: m(x),
        follow,
        every=lambda name: 1 if "stages.2" in name or "classifier" in name else 7,
    )
    zeros = sum(int((tensor.dequantize() == 0).sum()) for tensor in stored.values())
    return changed, zeros / sum(tensor.codes.size for tensor in stored.values())
