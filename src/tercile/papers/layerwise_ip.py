"""AdaQuant, bits by exact allocation, statistics and bias tuning, against rounding and GPTQ at four bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, unfold

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures
from tercile.quantization import QTensor, Ranges, Scheme
from tercile.quantization.allocation import SensitivityTable, allocate
from tercile.quantization.batch_norm_tuning import restore_statistics
from tercile.quantization.ranges import min_max, mse
from tercile.quantization.solvers import gptq, round_to_nearest
from tercile.quantization.solvers.adaquant import adaquant
from tercile.quantization.solvers.bias_tuning import tune_biases
from tercile.quantization.statistics import Statistics

PAPER = paper("layerwise_ip", authors="Hubara, Nahshan, Hanani, Banner, Soudry", year=2020, source="arXiv:2006.10518")
MEASURED_ON = (
    "the zoo's digits-cnn with batch norms folded, weights (by channel) and inputs (by tensor) of every "
    "layer at 4 bits, of the first and the last at 8: accuracy on 1,250 held-out MNIST digits, and mean KL "
    "divergence of the class probabilities from the float network's"
)
BASELINE = (
    "rounding to nearest with min-max and with least-squares ranges, and GPTQ, with the same widths and the "
    "same calibration pictures"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {
        "test pictures": 60,
        "calibration pictures": 30,
        "patches a layer": 800,
        "steps": 8,
        "tuning steps": 4,
    },
    "full": {
        "test pictures": 1250,
        "calibration pictures": 400,
        "patches a layer": 6000,
        "steps": 150,
        "tuning steps": 60,
        "seeds": "calibration pictures, patches and batches",
    },
}
SEEDS = (0, 1, 2)
RULE = (
    Check("accuracy", at_least="float_accuracy - 0.01", quick_slack=0.02),
    Check("kl", at_most="0.7 * min(minmax_kl, nearest_kl)", quick_slack=0.3),
    Check("kl", at_most="gptq_kl", quick=False),
    Check("adaquant_kl", at_most="min(minmax_kl, nearest_kl)", quick_slack=0.3),
    Check("mixed_kl", at_most="adaquant_kl", quick=False),
    Check("mixed_bytes", at_most="uniform_bytes"),
    Check("statistics_kl", at_most="mixed_kl", quick=False),
    Check("kl", at_most="statistics_kl", quick=False),
)

#: Widths that the allocation may choose from for each weight, and the width of inputs.
WEIGHTS, INPUTS, OUTER = (3, 4, 5), "int4-tensor-asym-f32", "int8-tensor-asym-f32"


def _weights_at(bits: int) -> Scheme:
    return Scheme.parse(f"int{bits}-channel-f32")


@dataclass(frozen=True)
class State:
    """A quantized layer: what is stored, its bias, and how its inputs are rounded."""

    weight: QTensor
    bias: np.ndarray
    input_scheme: Scheme
    inputs: Ranges


@dataclass(frozen=True)
class Seen:
    """A float layer and what calibration saw of it: some of its input patches, mean and spread of its
    outputs."""

    weight: np.ndarray
    bias: np.ndarray
    patches: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    outer: bool
    input_scheme: Scheme
    input_ranges: Ranges

    @property
    def statistics(self) -> Statistics:
        statistics = Statistics(self.patches.shape[1])
        statistics.update(self.patches)
        return statistics

    def bits(self, inner: int) -> int:
        return 8 if self.outer else inner


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every stage of the paper after the other, on one choice of calibration pictures."""
    given = SIZES[size]
    steps, tuning = int(given["steps"]), int(given["tuning steps"])
    test, labels = pictures(0, 2)
    test, labels = test[: int(given["test pictures"])], labels[: int(given["test pictures"])]
    pool = pictures(1, 2)[0]
    chosen = np.random.default_rng(seed).permutation(len(pool))[: int(given["calibration pictures"])]
    calibration = pool[torch.from_numpy(chosen)]
    model = folded_network()
    truth, wanted = logits(model, test), logits(model, calibration)
    layers = observe(model, calibration, int(given["patches a layer"]), seed)
    network = Network(model)

    def measured(name: str, states: Mapping[str, State]) -> dict[str, float]:
        answers = network.logits(states, test)
        accuracy = float((answers.argmax(1).numpy() == labels).mean())
        return {f"{name}kl": divergence(truth, answers), f"{name}accuracy": accuracy}

    found: dict[str, float] = {"float_accuracy": float((truth.argmax(1).numpy() == labels).mean())}
    plain = {name: nearest(layer, 4, min_max) for name, layer in layers.items()}
    found |= measured("minmax_", plain)
    rounded = {name: nearest(layer, 4, mse) for name, layer in layers.items()}
    found |= measured("nearest_", rounded)
    greedy = {
        name: replace(rounded[name], weight=gptq(layer.weight, layer.statistics, rounded[name].weight.scheme))
        for name, layer in layers.items()
    }
    found |= measured("gptq_", greedy)

    adapted = {
        name: {bits: adapt(layer, bits, steps, seed) for bits in sorted({layer.bits(one) for one in WEIGHTS})}
        for name, layer in layers.items()
    }
    uniform = {name: adapted[name][layer.bits(4)] for name, layer in layers.items()}
    found |= measured("adaquant_", uniform)

    table = sensitivities(network, uniform, adapted, calibration, wanted)
    budget = sum(state.weight.nbytes for state in uniform.values())
    choice = allocate(table, budget)
    mixed = {name: adapted[name][int(bits)] for name, bits in choice.choices.items()}
    found |= measured("mixed_", mixed)
    found |= {"mixed_bytes": choice.nbytes, "uniform_bytes": budget, "mixed_predicted_change": choice.loss}

    restored = restore(network, layers, mixed, calibration)
    found |= measured("statistics_", restored)
    found |= measured("", tuned(network, restored, calibration, wanted, tuning, seed))
    return found


@torch.no_grad()
def observe(model: nn.Module, images: torch.Tensor, rows: int, seed: int) -> dict[str, Seen]:
    """Runs the float network once and keeps a random choice of each layer's input patches."""
    generator = torch.Generator().manual_seed(seed)
    patches: dict[str, list[torch.Tensor]] = {}
    outputs: dict[str, list[torch.Tensor]] = {}
    share = -(-rows // -(-len(images) // 100))

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            x = inputs[0]
            if isinstance(module, nn.Conv2d):
                x = unfold(x, module.kernel_size, module.dilation, _whole(module.padding), module.stride).mT.flatten(
                    0, 1
                )
            picked = torch.randperm(len(x), generator=generator)[:share]
            patches.setdefault(name, []).append(x[picked])
            outputs.setdefault(name, []).append(by_channel(output))

        return hook

    layers = layers_of(model)
    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    logits(model, images)
    for handle in handles:
        handle.remove()
    ends = {next(iter(layers)), list(layers)[-1]}
    seen = {}
    for name, module in layers.items():
        out, read = torch.cat(outputs[name]), torch.cat(patches[name]).numpy()
        scheme = Scheme.parse(OUTER if name in ends else INPUTS)
        seen[name] = Seen(
            module.weight.numpy().copy(),
            bias_of(module).numpy().copy(),
            read,
            out.mean(0).numpy(),
            out.std(0).numpy(),
            name in ends,
            scheme,
            mse(read, scheme),
        )
    return seen


def bias_of(module: nn.Conv2d | nn.Linear) -> nn.Parameter:
    """The bias, which every layer has once its batch norm is folded."""
    assert isinstance(module.bias, nn.Parameter)
    return module.bias


def _whole(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str)
    return padding


def by_channel(output: torch.Tensor) -> torch.Tensor:
    """Outputs of a layer as (positions, channels)."""
    return output.transpose(0, 1).flatten(1).T


def nearest(layer: Seen, inner: int, ranges: Callable[..., Ranges]) -> State:
    """The layer rounded to nearest."""
    weight = round_to_nearest(layer.weight, None, _weights_at(layer.bits(inner)), ranges)
    inputs = layer.input_ranges if ranges is mse else ranges(layer.patches, layer.input_scheme)
    return State(weight, layer.bias, layer.input_scheme, inputs)


def adapt(layer: Seen, bits: int, steps: int, seed: int) -> State:
    """The layer by AdaQuant, from float inputs: no layer depends on another, so any mix of them is at
    hand."""
    scheme, inputs = layer.input_scheme, layer.input_ranges
    fit = adaquant(
        layer.weight,
        layer.patches,
        _weights_at(bits),
        bias=layer.bias,
        input_scheme=scheme,
        input_ranges=inputs,
        steps=steps,
        seed=seed,
    )
    return State(fit.weight, fit.bias, scheme, inputs if fit.inputs is None else fit.inputs)


class Network:
    """The network with any layers quantized: weights as stored, inputs rounded on the way in."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = layers_of(model)
        self.states: Mapping[str, State] = {}
        for name, module in self.layers.items():
            module.register_forward_pre_hook(lambda _, inputs, name=name: self._rounded(name, inputs[0]))

    def _rounded(self, name: str, x: torch.Tensor) -> torch.Tensor:
        state = self.states[name]
        scale, offset = float(state.inputs.scale[0, 0]), float(state.inputs.offset[0, 0])
        top = len(state.input_scheme.scalar_grid.table) - 1
        inside = ((x - offset) / scale).clamp(0, top)
        # Straight through: rounding passes the gradient on.
        return (inside + (inside.round() - inside).detach()) * scale + offset

    @torch.no_grad()
    def load(self, states: Mapping[str, State]) -> None:
        """Puts these layers in."""
        for name, state in states.items():
            if self.states.get(name) is not state:
                self.layers[name].weight.copy_(torch.from_numpy(state.weight.dequantize()))
                bias_of(self.layers[name]).copy_(torch.from_numpy(state.bias))
        self.states = dict(states)

    def logits(self, states: Mapping[str, State], images: torch.Tensor) -> torch.Tensor:
        """Logits of the network with these layers."""
        self.load(states)
        return logits(self.model, images)


def divergence(truth: torch.Tensor, answers: torch.Tensor) -> float:
    """Mean KL divergence of the answers' class probabilities from the truth's."""
    pair = log_softmax(answers, 1), log_softmax(truth, 1)
    return float(kl_div(*pair, reduction="batchmean", log_target=True))


def sensitivities(
    network: Network,
    base: Mapping[str, State],
    adapted: Mapping[str, Mapping[int, State]],
    images: torch.Tensor,
    wanted: torch.Tensor,
) -> SensitivityTable:
    """Rise of the divergence when one layer alone goes to each width and the others stay as they are in
    `base`.

    The paper starts from eight bits; from the uniform network at the budget's own width the rises are
    measured where they are added up. A layer with one width has no choice and no rise.
    """
    before = divergence(wanted, network.logits(base, images))
    widths = sorted({bits for states in adapted.values() for bits in states})
    loss = np.full((len(adapted), len(widths)), np.inf)
    nbytes = np.zeros(loss.shape, dtype=np.int64)
    for row, name in enumerate(adapted):
        for bits, state in adapted[name].items():
            column = widths.index(bits)
            nbytes[row, column] = state.weight.nbytes
            if state is base[name]:
                loss[row, column] = 0.0
            else:
                answers = network.logits({**base, name: state}, images)
                loss[row, column] = divergence(wanted, answers) - before
    return SensitivityTable(tuple(adapted), tuple(str(bits) for bits in widths), nbytes, loss)


def restore(
    network: Network, layers: Mapping[str, Seen], states: Mapping[str, State], images: torch.Tensor
) -> dict[str, State]:
    """Gives the outputs of each layer their mean and spread back, one layer after the other."""
    now = dict(states)
    for name, layer in layers.items():
        if layer.outer:
            continue
        kept: list[torch.Tensor] = []
        handle = network.layers[name].register_forward_hook(
            lambda _, inputs, output, kept=kept: kept.append(by_channel(output))
        )
        network.logits(now, images)
        handle.remove()
        out = torch.cat(kept)
        seen = out.mean(0).numpy(), out.std(0).numpy()
        weight, bias = restore_statistics(now[name].weight, now[name].bias, seen, (layer.mean, layer.spread))
        now[name] = replace(now[name], weight=weight, bias=bias)
    return now


def tuned(
    network: Network,
    states: Mapping[str, State],
    images: torch.Tensor,
    wanted: torch.Tensor,
    steps: int,
    seed: int,
) -> dict[str, State]:
    """Trains all biases together."""
    network.load(states)
    tune_biases(
        network.model,
        [bias_of(module) for module in network.layers.values()],
        images,
        wanted,
        steps=steps,
        seed=seed,
    )
    biases = {name: bias_of(module).detach().numpy().copy() for name, module in network.layers.items()}
    return {name: replace(state, bias=biases[name]) for name, state in states.items()}
