"""A fixed noise in front of a quantizer: whether it helps when it is predicted to, and what it does for a ViT."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.rounded_transformer import Transformer
from tercile.quantization import Scheme
from tercile.quantization.activations import Quantizer, Seen, Static, from_values
from tercile.quantization.ranges import RangeEstimator, min_max, mse
from tercile.quantization.transforms.noise_bias import Noisy, expected_error, noise_bias

PAPER = paper("noisy_quant", year=2022, source="arXiv:2211.16056")
MEASURED_ON = (
    "the zoo's digits-vit. Prediction: squared rounding error of what the blocks' layers read, in even steps of 6, 4 "
    "and 3 bits over least-squares and min-max ranges, with uniform noise of a quarter and a half step, on held-out "
    "digits. Model: weights (GPTQ, by channel) and inputs of those layers at 6 bits, one symmetric scale a "
    "tensor: mean KL divergence of the class probabilities from the float model's, and accuracy"
)
BASELINE = "the same quantizers without noise, over the min-max range and over the least-squares range"
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"test pictures": 60, "calibration pictures": 32, "model": "min-max only"},
    "full": {"test pictures": 1250, "calibration pictures": 128, "seeds": "calibration pictures and noise"},
}
SEEDS = (0, 1, 2)
#: The accuracy of 1,250 pictures has a standard error of 0.005; less than half of it is let pass.
RULE = (
    Check("fell_where_predicted", at_least="0.95"),
    Check("rose_where_predicted", at_least="0.95"),
    Check("minmax_kl", at_most="0.9 * minmax_plain_kl", quick=False),
    Check("minmax_accuracy", at_least="minmax_plain_accuracy - 0.002", quick=False),
    Check("mse_kl", at_most="mse_plain_kl", quick=False),
    Check("mse_accuracy", at_least="mse_plain_accuracy - 0.002", quick=False),
)
RANGES: dict[str, RangeEstimator] = {"minmax_": min_max, "mse_": mse}
#: Changes that are predicted to be smaller than this are not counted as predictions.
CLEAR = 0.02


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """The prediction for every layer, then the model without and with noise."""
    given = SIZES[size]
    bench = Transformer(int(given["test pictures"]), int(given["calibration pictures"]), seed)
    seen = bench.observe(bench.model)
    found = predictions(bench, seen, seed)
    found["float_accuracy"] = bench.accuracy(bench.truth)
    model = bench.store_weights(bench.copy(), 6)
    for name, ranges in list(RANGES.items())[: 1 if size == "quick" else 2]:
        plain = quantizers(bench, seen, ranges)
        found |= bench.scores(f"{name}plain_", model, plain)
        found |= bench.scores(name, model, with_noise(bench, seen, plain, seed))
    return found


def groups(bench: Transformer) -> list[tuple[str, ...]]:
    """Layers that read the same tensor, in order of the blocks."""
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    one_each = (("attention.o_proj",), ("mlp.fc1",), ("mlp.fc2",))
    return [tuple(f"{block}.{name}" for name in group) for block in bench.blocks for group in (names, *one_each)]


def predictions(bench: Transformer, seen: dict[str, Seen], seed: int) -> dict[str, float]:
    """How often the measured error falls where it was predicted to, and rises where that was predicted."""
    names = [group[0] for group in groups(bench)]
    read = bench.captured(bench.model, names, bench.calibration[:32])
    held = bench.captured(bench.model, names, bench.images[:32])
    random = np.random.default_rng(seed)
    right: dict[str, list[bool]] = {"fell": [], "rose": []}
    for group in groups(bench):
        x, new = read[group[0]].flatten(0, -2).numpy(), held[group[0]].flatten(0, -2)
        for bits in (6, 4, 3):
            for ranges in RANGES.values():
                plain = from_values(seen[group[0]].sample, Scheme.parse(f"int{bits}-tensor-f32"), ranges=ranges)
                step = float(plain.scale.abs())
                before = float(expected_error(x, step, 0).mean())
                for share in (0.25, 0.5):
                    gain = 1 - float(expected_error(x, step, share * step).mean()) / before
                    noise = torch.from_numpy(random.uniform(-1, 1, size=(x.shape[1],)).astype(np.float32))
                    noise *= share * step
                    # Rounding alone: what is cut off is cut off with noise and without.
                    even = _even_steps(step)
                    change = _error(Noisy(even, noise), new) - _error(even, new)
                    if gain > CLEAR:
                        right["fell"].append(change < 0)
                    elif gain < -CLEAR:
                        right["rose"].append(change > 0)
    return {f"{name}_where_predicted": float(np.mean(each)) for name, each in right.items()} | {
        f"{name}_predictions": float(len(each)) for name, each in right.items()
    }


def _even_steps(step: float) -> Quantizer:
    return lambda x: torch.round(x / step) * step


def _error(quantizer: Quantizer, x: torch.Tensor) -> float:
    return float((quantizer(x) - x).square().mean())


def quantizers(bench: Transformer, seen: dict[str, Seen], ranges: RangeEstimator) -> dict[str, Static]:
    """One symmetric scale of 6 bits for each tensor that the blocks' layers read."""
    found: dict[str, Static] = {}
    for group in groups(bench):
        fixed = from_values(seen[group[0]].sample, Scheme.parse("int6-tensor-f32"), ranges=ranges)
        found |= dict.fromkeys(group, fixed)
    return found


def with_noise(
    bench: Transformer, seen: dict[str, Seen], plain: Mapping[str, Static], seed: int
) -> dict[str, Quantizer]:
    """The same with a noise bias each, searched on the outputs of all layers that read the tensor."""
    found: dict[str, Quantizer] = {}
    for group in groups(bench):
        weight = np.concatenate([bench.model.get_parameter(f"{name}.weight").numpy() for name in group])
        sample = seen[group[0]].sample[:2048]
        found |= dict.fromkeys(group, noise_bias(sample, plain[group[0]], weight, seed=seed))
    return found
