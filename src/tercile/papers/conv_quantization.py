"""A convolutional network on integers alone: accuracy with and without training, size, speed, and the same bits."""

from __future__ import annotations

import copy
import time

import numpy as np
import torch

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import folded_network, logits, one_thread, pictures
from tercile.papers.stored_layers import accuracy, divergence
from tercile.quantization.integer_only import IntegerNetwork, integer_network
from tercile.quantization.training.fake_quantize import RoundedNetwork
from tercile.quantization.training.train_rounded import train_rounded
from tercile.zoo.digits import distort
from tercile.zoo.digits_cnn import build

PAPER = paper("conv_quantization", authors="Krishnamoorthi", year=2018, source="arXiv:1806.08342")
MEASURED_ON = (
    "the zoo's digits-cnn run by integers alone from bytes to logits: weights at 8 and 4 bits by channel, values "
    "between layers at 8 bits by tensor; accuracy and KL divergence from the float network on 1,250 held-out MNIST "
    "digits, bytes stored, and time a picture on one thread, alternating with the float network, the least of several "
    "runs"
)
BASELINE = "the float network, batch norms folded, in torch; for weights, one scale a layer at the same width"
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test pictures": 60, "calibration pictures": 40, "steps at 8 bits": 2, "steps at 4 bits": 4, "batch": 16},
    "full": {
        "test pictures": 1250,
        "calibration pictures": 200,
        "steps at 8 bits": 20,
        "steps at 4 bits": 80,
        "batch": 48,
        "seeds": "calibration and training pictures",
    },
}
SEEDS = (0, 1, 2)
RULE = (
    Check("accuracy", at_least="float_accuracy - 0.02"),
    Check("trained_accuracy", at_least="float_accuracy - 0.01", quick_slack=0.02),
    Check("bytes", at_most="0.27 * float_bytes"),
    Check("speed_up", at_least="1.5", quick=False),
    Check("logits_unlike_plain", at_most="0"),
    Check("answers_unlike_rounded", at_most="0.002", quick=False),
    Check("four_bit_kl", at_most="0.7 * four_bit_layer_kl", quick=False),
    Check("four_bit_trained_kl", at_most="0.5 * four_bit_kl", quick=False),
    Check("four_bit_trained_accuracy", at_least="float_accuracy - 0.02", quick_slack=0.02),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Eight and four bits, as they are and trained, all answered by integers."""
    given = {key: value for key, value in SIZES[size].items() if isinstance(value, int)}
    test, labels = pictures(0, 2)
    test, labels = test[: given["test pictures"]], labels[: given["test pictures"]]
    pool = pictures(1, 2)[0]
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(pool)))
    calibration = pool[chosen[: given["calibration pictures"]]]
    model, codes = build().requires_grad_(False), as_bytes(test)
    truth = logits(model, test)
    found: dict[str, float] = {
        "float_accuracy": accuracy(truth, labels),
        "float_bytes": sum(4 * one.numel() for one in model.parameters()),
    }

    def measured(prefix: str, rounded: RoundedNetwork) -> IntegerNetwork:
        integers = integer_network(rounded, (28, 28))
        answers = torch.from_numpy(integers.logits(codes) * np.float32(integers.logit_scale))
        found[f"{prefix}accuracy"], found[f"{prefix}kl"] = accuracy(answers, labels), divergence(truth, answers)
        return integers

    def trained(rounded: RoundedNetwork, steps: int, rate: float) -> RoundedNetwork:
        rounded.learn_ranges()
        train_rounded(
            rounded,
            model,
            pool,
            steps=steps,
            batch=given["batch"],
            augment=distort,
            seed=seed,
            rate=rate,
            range_rate=rate,
            settled_after=0.0,
        )
        return rounded

    eight = RoundedNetwork(model).watch(calibration).requires_grad_(False)
    integers = measured("", eight)
    found["bytes"] = integers.nbytes
    few = slice(0, 20 if size == "quick" else 100)
    found["logits_unlike_plain"] = int((integers.logits(codes[few]) != integers.logits(codes[few], plain=True)).sum())
    same = logits(eight, test).argmax(1).numpy() == integers.logits(codes).argmax(1)
    found["answers_unlike_rounded"] = 1 - float(same.mean())
    measured("trained_", trained(copy.deepcopy(eight), given["steps at 8 bits"], 1e-4))

    four = RoundedNetwork(model, "int4-channel-f32").watch(calibration).requires_grad_(False)
    measured("four_bit_", four)
    measured("four_bit_layer_", one_scale_a_layer(four))
    measured("four_bit_trained_", trained(four, given["steps at 4 bits"], 1e-3))
    return found | timed(integers, codes[few], test[few], 3 if size == "quick" else 15)


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Pictures in [0, 1] as the bytes they were read from."""
    return (images * 255).round().to(torch.uint8).numpy()


def one_scale_a_layer(rounded: RoundedNetwork) -> RoundedNetwork:
    """The same network with the coarsest channel's step for all channels of a layer: what covers them all."""
    alike = copy.deepcopy(rounded)
    for step in alike.steps:
        if step.module:
            scale = alike.layer_of(step.name).log_scale
            scale.copy_(scale.max().expand_as(scale))
    return alike


def timed(integers: IntegerNetwork, codes: np.ndarray, images: torch.Tensor, repeats: int) -> dict[str, float]:
    """Microseconds a picture, by integers and by float, one after the other; the least of the repeats."""
    model = folded_network()
    taken: dict[str, list[float]] = {"integer": [], "float": []}
    for _ in range(repeats):
        begun = time.perf_counter()
        integers.logits(codes)
        between = time.perf_counter()
        logits(model, images)
        taken["integer"].append(between - begun)
        taken["float"].append(time.perf_counter() - between)
    least = {f"{name}_microseconds": 1e6 * min(times) / len(images) for name, times in taken.items()}
    return least | {"speed_up": least["float_microseconds"] / least["integer_microseconds"]}
