"""Shifted logarithms for softmax and weights tuned in three stages, at 3 bits."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.rounded_transformer import Transformer, attention_error, forward
from tercile.quantization import Scheme
from tercile.quantization.activations import Quantizer, Static
from tercile.quantization.activations.block_tuning import tune_blocks
from tercile.quantization.activations.power_law import best_of, on_grid
from tercile.quantization.grids import logarithmic, shifted_logarithmic
from tercile.quantization.ranges import mse
from tercile.quantization.transforms import reparameterise_norms

PAPER = paper("is_vit", authors="Zhong, Hu, Lin, Chen, Ji", year=2023, source="arXiv:2311.10126")
MEASURED_ON = (
    "the zoo's digits-vit, weights by channel, inputs of layers by tensor and operands of attention by head at 3 bits, "
    "patch embedding and classifier at 8: accuracy on held-out MNIST digits, mean KL divergence of the class "
    "probabilities from the float model's, and relative squared error of attention's outputs when softmax alone is "
    "rounded"
)
BASELINE = (
    "base-2 logarithms for softmax, channels after norms brought to one range, and GPTQ's weights: the same bits and "
    "calibration pictures, nothing trained; and training in one stage with as many steps"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test pictures": 60, "calibration pictures": 32, "steps a stage and block": 3},
    "full": {
        "test pictures": 1250,
        "calibration pictures": 128,
        "steps a stage and block": 100,
        "seeds": "calibration pictures and batches",
    },
}
SEEDS = (0, 1, 2)
BITS = 3
SHIFTS = (*range(1, 17), 20, 24, 30, 40, 50, 70, 100, 200, 500, 1000)
RULE = (
    Check("accuracy", at_least="baseline_accuracy + 0.5 * (float_accuracy - baseline_accuracy)", quick=False),
    Check("kl", at_most="0.5 * baseline_kl", quick=False),
    Check("kl", at_most="one_stage_kl", quick=False),
    Check("softmax_error", at_most="log2_softmax_error", quick_slack=0.1),
    Check("tuned_error", at_most="untuned_error"),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """The untrained baseline, one stage, and the three stages."""
    given = SIZES[size]
    steps = int(given["steps a stage and block"])
    bench = Transformer(int(given["test pictures"]), int(given["calibration pictures"]), seed)
    found = {"float_accuracy": bench.accuracy(bench.truth)} | softmax_errors(bench)

    even = bench.copy()
    level(bench, even)
    plain = {**bench.uniform(even, bench.observe(even), BITS), **bench.probabilities(even, base_two)}
    stored = bench.store_weights(copy.deepcopy(even), BITS, plain)
    found |= bench.scores("baseline_", stored, plain)

    shifted = {**plain, **bench.probabilities(even, shifted_logarithm)}
    tune(bench, even, shifted, 2 * steps, seed, rounded=True)
    found |= bench.scores("one_stage_", even, shifted)

    # First: a scale a channel after norms, weights in float. A smooth start.
    model = bench.copy()
    softmax = bench.probabilities(model, shifted_logarithm)
    fine = {**bench.uniform(model, bench.observe(model), BITS, channels=True), **softmax}
    tune(bench, model, fine, steps, seed, rounded=False)
    # Second: the channels are brought to one range, and one scale does for all.
    level(bench, model)
    coarse = {**bench.uniform(model, bench.observe(model), BITS), **bench.probabilities(model, shifted_logarithm)}
    found |= bench.scores("float_weights_", model, coarse)
    # Third: weights too.
    before, after = tune(bench, model, coarse, steps, seed, rounded=True)
    return found | {"untuned_error": before, "tuned_error": after} | bench.scores("", model, coarse)


def base_two(weights: torch.Tensor, value: torch.Tensor) -> Static:
    """The logarithmic grid, whatever the data."""
    return on_grid(logarithmic(BITS))


def shifted_logarithm(weights: torch.Tensor, value: torch.Tensor) -> Static:
    """The shifted logarithmic grid that changes attention's output least."""
    return best_of([on_grid(shifted_logarithmic(BITS, shift)) for shift in SHIFTS], weights, value)


def softmax_errors(bench: Transformer) -> dict[str, float]:
    """Error of attention's outputs under both grids."""
    names = [f"{block}:{each}" for block in bench.blocks for each in ("probabilities", "value")]
    seen = bench.captured(bench.model, names, bench.calibration[::2])
    return {
        f"{name}softmax_error": attention_error(bench.probabilities(bench.model, fit), seen, bench.blocks)
        for name, fit in (("", shifted_logarithm), ("log2_", base_two))
    }


def level(bench: Transformer, model: nn.Module) -> None:
    """Brings the channels after each norm to one range, by what they are in this model."""
    seen = {name: each.statistics for name, each in bench.observe(model).items()}
    reparameterise_norms(model, bench.family, seen)


def tune(
    bench: Transformer, model: nn.Module, quantizers: Mapping[str, Quantizer], steps: int, seed: int, *, rounded: bool
) -> tuple[float, float]:
    """Trains every block; the mean error of a block, before and after. Rounded weights stay rounded."""
    weights = weight_quantizers(bench, model) if rounded else {}
    for name in bench.outer & weights.keys():
        outer = model.get_parameter(f"{name}.weight")
        with torch.no_grad():
            outer.copy_(weights[name](outer))
    errors = tune_blocks(
        model,
        bench.model,
        bench.family,
        quantizers,
        bench.calibration.split(16),
        forward=forward,
        weights=weights,
        steps=steps,
        rate=0.01,
        seed=seed,
    )
    return sum(first for first, _ in errors) / len(errors), sum(last for _, last in errors) / len(errors)


def weight_quantizers(bench: Transformer, model: nn.Module) -> dict[str, Static]:
    """Least-squares scales by channel for the weights as they are."""
    found = {}
    for layer in bench.family.layers:
        scheme = Scheme.parse(f"int{8 if layer.name in bench.outer else BITS}-channel-f32")
        weight = model.get_parameter(f"{layer.name}.weight").detach()
        scale = torch.from_numpy(mse(weight.numpy(), scheme).scale[:, 0].copy())
        found[layer.name] = Static(scheme, scale, torch.zeros_like(scale), 0)
    return found
