"""The white paper's pipeline step by step on a real CNN, and its debugging flow on planted faults."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from tercile.papers import Check, Size, paper
from tercile.papers.conv_quantization import one_scale_a_layer
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures
from tercile.papers.stored_layers import accuracy, divergence
from tercile.quantization import Ranges, Scheme
from tercile.quantization.debugging import diagnose
from tercile.quantization.families import describe
from tercile.quantization.layer_inputs import patches
from tercile.quantization.solvers.adaround import adaround
from tercile.quantization.statistics import Statistics
from tercile.quantization.training.fake_quantize import RoundedNetwork
from tercile.quantization.training.train_rounded import train_rounded
from tercile.quantization.transforms import equalize_layers
from tercile.zoo.digits import distort

PAPER = paper(
    "white_paper_ptq_qat",
    authors="Nagel, Fournarakis, Amjad, Bondarenko, van Baalen, Blankevoort",
    year=2021,
    source="arXiv:2106.08295",
)
MEASURED_ON = (
    "the zoo's digits-cnn with batch norms folded, one scale a layer for weights and a tensor for activations: 8 and 8 "
    "bits, then 4 and 8 bits with the pipeline's steps after each other; KL divergence from the float network and "
    "accuracy on 1,250 held-out MNIST digits. Four faults are planted, one at a time, and the debugging flow has to "
    "name layer and part"
)
BASELINE = "weights rounded to nearest under one scale a layer, and each step of the pipeline against the one before it"
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test pictures": 50, "calibration pictures": 30, "rounding steps": 10, "training steps": 3, "faults": 1},
    "full": {
        "test pictures": 1250,
        "calibration pictures": 250,
        "rounding steps": 150,
        "training steps": 80,
        "faults": 4,
        "seeds": "calibration pictures, batches and faults",
    },
}
SEEDS = (0, 1, 2)
RULE = (
    Check("eight_accuracy", at_least="float_accuracy - 0.005", quick_slack=0.01),
    Check("equalized_kl", at_most="0.8 * rounded_kl", quick=False),
    Check("corrected_kl", at_most="equalized_kl", quick=False),
    Check("adaptive_kl", at_most="0.5 * corrected_kl", quick=False),
    Check("trained_kl", at_most="0.7 * adaptive_kl", quick=False),
    Check("trained_accuracy", at_least="float_accuracy - 0.01", quick=False),
    Check("faults_named", at_least="1"),
)
WEIGHTS, INPUTS = "int4-channel-f32", "int8-tensor-asym-f32"


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every step of the pipeline, then the debugging flow."""
    given = {key: value for key, value in SIZES[size].items() if isinstance(value, int)}
    test, labels = pictures(0, 2)
    test, labels = test[: given["test pictures"]], labels[: given["test pictures"]]
    pool = pictures(1, 2)[0]
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(pool)))
    calibration = pool[chosen[: given["calibration pictures"]]]
    model = folded_network()
    truth = logits(model, test)
    found: dict[str, float] = {"float_accuracy": accuracy(truth, labels)}

    def measured(prefix: str, network: nn.Module) -> None:
        answers = logits(network, test)
        found[f"{prefix}_kl"], found[f"{prefix}_accuracy"] = divergence(truth, answers), accuracy(answers, labels)

    def rounded(network: nn.Module, weights: str) -> RoundedNetwork:
        made = RoundedNetwork(network, weights, INPUTS).watch(calibration).requires_grad_(False)
        return one_scale_a_layer(made)

    measured("eight", rounded(model, "int8-channel-f32"))
    measured("rounded", rounded(model, WEIGHTS))
    even = copy.deepcopy(model)
    equalize_layers(even, describe(even))
    network = rounded(even, WEIGHTS)
    measured("equalized", network)
    corrected = copy.deepcopy(network)
    correct_biases(corrected, even, calibration)
    measured("corrected", corrected)
    adapt(network, even, calibration, given["rounding steps"])
    measured("adaptive", network)
    network.learn_ranges()
    train_rounded(
        network, model, pool, steps=given["training steps"], batch=32, augment=distort, seed=seed,
        rate=5e-4, range_rate=5e-4, settled_after=0.0,
    )  # fmt: skip
    measured("trained", network)
    named = [planted_fault_is_named(model, calibration[:60], 100 * seed + fault) for fault in range(given["faults"])]
    return found | {"faults_named": float(np.mean(named))}


@torch.no_grad()
def correct_biases(network: RoundedNetwork, model: nn.Module, images: torch.Tensor) -> None:
    """Gives each channel its mean output back, layer after layer, by its bias alone: the empirical correction."""
    wanted = outputs_of(model, [step.module for step in network.steps if step.module], images)
    for step in network.steps:
        if step.module:
            layer = network.layer_of(step.name)
            seen: list[torch.Tensor] = []
            handle = layer.register_forward_hook(lambda _, args, out, seen=seen: seen.append(out))
            network(images)
            handle.remove()
            axes = (0, 2, 3) if seen[0].dim() == 4 else (0,)
            layer.shift.add_(wanted[step.module].mean(axes) - seen[0].mean(axes))


@torch.no_grad()
def outputs_of(model: nn.Module, names: list[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What layers of a network give out."""
    kept: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, args, out, name=name: kept.update({name: out}))
        for name in names
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return kept


@torch.no_grad()
def adapt(network: RoundedNetwork, model: nn.Module, images: torch.Tensor, steps: int) -> None:
    """AdaRound of each layer under the scales it has, on the float network's inputs.

    The codes are put back as the weights themselves, at the middle of their cell: training may then go on from there.
    """
    modules = layers_of(model)
    read: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
        for name, module in modules.items()
    ]
    model(images)
    for handle in handles:
        handle.remove()
    scheme = Scheme.parse(WEIGHTS)
    for step in network.steps:
        if not step.module:
            continue
        layer, module = network.layer_of(step.name), modules[step.module]
        rows = patches(module, read[step.module]) if step.kind == "convolution" else [read[step.module].numpy()]
        statistics = Statistics(layer.weight[0].numel())
        for some in rows:
            statistics.update(some)
        scale = layer.scale.numpy()[:, None]

        def kept(values: np.ndarray, scheme: Scheme, importance: object = None, scale: np.ndarray = scale) -> Ranges:
            return scheme.ranges(scale)

        made = adaround(layer.folded().flatten(1).numpy(), statistics, scheme, kept, steps=steps)
        layer.weight.copy_(torch.from_numpy(made.dequantize()).reshape(layer.weight.shape))


def planted_fault_is_named(model: nn.Module, images: torch.Tensor, seed: int) -> bool:
    """Stretches the range of one layer's weights, or of its inputs, and asks the debugging flow for the culprit.

    The fault does not change what the network computes: a weight that reads a channel which is always zero, or a
    constant channel that nothing reads.
    """
    random = np.random.default_rng(seed)
    broken = copy.deepcopy(model)
    blocks = [name for name in layers_of(broken) if name.endswith("conv2")]
    name = blocks[int(random.integers(len(blocks)))]
    first, second = broken.get_submodule(name.replace("conv2", "conv1")), broken.get_submodule(name)
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and first.bias is not None
    channel = int(random.integers(first.out_channels))
    part = ("weights", "inputs")[int(random.integers(2))]
    with torch.no_grad():
        first.weight[channel], second.weight[:, channel] = 0.0, 0.0
        first.bias[channel] = 0.0 if part == "weights" else 300.0
        if part == "weights":
            second.weight[:, channel] = 40.0 * second.weight.abs().max()
    wanted = logits(broken, images)
    found = diagnose(
        broken, describe(broken), [images], lambda: divergence(wanted, logits(broken, images)),
        forward=lambda network, batch: network(batch), weights="int8-channel",
    )  # fmt: skip
    worst = found.faults[0]
    return (worst.layer, worst.part, found.worse_part) == (name, part, part)
