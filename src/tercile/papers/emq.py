"""Proxies evolved on a measured table of bit settings, against hand-made ones, on settings and a network not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures
from tercile.papers.stored_layers import StoredLayers, divergence, weight_of
from tercile.quantization.allocation import Proxy, evolve_proxy, rank_correlation, top_eigenvalues, weight_traces
from tercile.quantization.allocation.proxies import Errors, Knowledge, Setting

PAPER = paper("emq", authors="Dong, Li, Wei, Niu, Tian, Pan", year=2023, source="arXiv:2307.10554")
MEASURED_ON = (
    "random settings of 2, 3, 4, 6 or 8 bits a layer of the zoo's digits-cnn, batch norms folded, rounded to nearest; "
    "the KL divergence from the float network is measured for each; rank correlation (Spearman) of a proxy with it on "
    "the half of the table that the evolution has not seen"
)
BASELINE = (
    "hand-made proxies on the same settings: size, bits added up, SNIP, SynFlow, gradient norm, entropy of "
    "activations, weight error, Fisher-weighted error, and top eigenvalue (HAWQ) or average trace (HAWQ-V2) times "
    "squared error"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {
        "settings": 12,
        "pictures": 20,
        "calibration pictures": 8,
        "generations": 2,
        "population": 6,
        "probes": 2,
    },
    "full": {
        "settings": 100,
        "pictures": 150,
        "calibration pictures": 48,
        "generations": 12,
        "population": 20,
        "probes": 12,
        "seeds": "settings, pictures and the evolution",
    },
}
SEEDS = (0, 1, 2)
WIDTHS = (2, 3, 4, 6, 8)
HAND_MADE = (
    "size", "bits", "snip", "synflow", "gradient", "entropy", "error", "fisher", "hawq", "trace",
)  # fmt: skip
_OTHERS = ", ".join(f"{name}_rank" for name in HAND_MADE)
RULE = (
    Check("evolved_rank", at_least=f"max({_OTHERS})", quick=False),
    Check("evolved_rank", at_least="0.7", quick=False),
    Check("seen_rank", at_least="0.5"),
    Check("refused", at_least="1", quick=False),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """The table, the hand-made proxies, the evolved one."""
    given = {key: value for key, value in SIZES[size].items() if isinstance(value, int)}
    random = np.random.default_rng(seed)
    model = folded_network()
    layers = list(layers_of(model))
    pool, labels = pictures(1, 2)
    chosen = torch.from_numpy(random.permutation(len(pool))[: given["calibration pictures"]])
    test = pictures(0, 2)[0]
    test = test[torch.from_numpy(random.permutation(len(test))[: given["pictures"]])]
    stored = StoredLayers(model, layers, [scheme(bits) for bits in WIDTHS])
    truth = logits(model, test)
    settings = [{name: int(random.choice(WIDTHS)) for name in layers} for _ in range(given["settings"])]
    losses = []
    for setting in settings:
        stored.put({name: scheme(bits) for name, bits in setting.items()})
        losses.append(divergence(truth, logits(model, test)))
    stored.put({})
    measured = np.array(losses)
    errors = {
        name: {bits: (stored.value(name, scheme(bits)) - stored.float[name]).numpy() for bits in WIDTHS}
        for name in layers
    }
    known, numbers = knowledge(model, layers, pool[chosen], torch.from_numpy(labels[chosen.numpy()]), given["probes"])
    half = len(settings) // 2
    found = evolve_proxy(
        known, errors, settings[:half], measured[:half],
        population=given["population"], generations=given["generations"], seed=seed,
    )  # fmt: skip
    scores = found.sign * found.proxy.scores(known, errors, settings[half:])
    ranks = {"evolved_rank": rank_correlation(scores, measured[half:]), "seen_rank": found.correlation}
    for name, one in hand_made(known, errors, numbers, settings[half:]).items():
        # Which way a hand-made proxy points is read off the half that the evolution sees too.
        before = hand_made(known, errors, numbers, settings[:half])[name]
        sign = 1 if rank_correlation(before, measured[:half]) >= 0 else -1
        ranks[f"{name}_rank"] = sign * rank_correlation(one, measured[half:])
    return ranks | {"tried": found.tried, "refused": found.refused}


def scheme(bits: int) -> str:
    """Spelling of a width."""
    return f"int{bits}-channel"


def knowledge(
    model: nn.Module, layers: Sequence[str], images: torch.Tensor, labels: torch.Tensor, probes: int
) -> tuple[Knowledge, Mapping[str, Mapping[str, float]]]:
    """What proxies may use of each layer: arrays of its weight's shape, and numbers for the hand-made ones alone."""
    tensors = {name: weight_of(model.get_submodule(name)) for name in layers}
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        for name in layers
    ]
    gradient, fisher = (
        {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
    )
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    with torch.enable_grad():
        for image, label in zip(images, labels, strict=True):
            loss = cross_entropy(model(image[None]), label[None])
            for name, one in zip(layers, torch.autograd.grad(loss, list(tensors.values())), strict=True):
                gradient[name] += one / len(images)
                fisher[name] += one.square() / len(images)
        signs = {name: tensor.detach().sign() for name, tensor in tensors.items()}
        with torch.no_grad():
            for tensor in tensors.values():
                tensor.abs_()
        flow = torch.autograd.grad(model(torch.ones_like(images[:1])).sum(), list(tensors.values()))
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.mul_(signs[name])
    for tensor in tensors.values():
        tensor.requires_grad_(False)
    model(images)
    for handle in handles:
        handle.remove()
    loss_of: list[Callable[[], torch.Tensor]] = [lambda: cross_entropy(model(images), labels)]
    traces = weight_traces(loss_of, tensors, probes=probes)
    eigenvalues = top_eigenvalues(loss_of, tensors, steps=max(2, probes // 4))
    known = {
        name: {
            "weight": tensors[name].numpy().copy(),
            "gradient": gradient[name].numpy(),
            "fisher": fisher[name].numpy(),
            "flow": flow[layers.index(name)].numpy(),
            "activation": by_weight(seen[name], tensors[name]),
        }
        for name in layers
    }
    numbers = {
        name: {"trace": traces[name].cautious_mean, "hawq": eigenvalues[name], "entropy": entropy(seen[name].numpy())}
        for name in layers
    }
    return known, numbers


def by_weight(inputs: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    """Root mean square of the input channel that each weight reads, in the weight's shape."""
    axes = [axis for axis in range(inputs.dim()) if axis != 1]
    size = inputs.square().mean(axes).sqrt().reshape(1, -1, *[1] * (weight.dim() - 2))
    return np.ascontiguousarray(size.expand_as(weight).numpy())


def entropy(values: np.ndarray) -> float:
    """Of the histogram of a layer's inputs, in bits."""
    counts = np.histogram(values, bins=64)[0]
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def hand_made(
    known: Knowledge, errors: Errors, numbers: Mapping[str, Mapping[str, float]], settings: Sequence[Setting]
) -> dict[str, np.ndarray]:
    """Scores of the hand-made proxies."""
    same = ("same", "same")
    trees = {
        "snip": Proxy("gradient", "weight", same, same, "times", "sum", "bits"),
        "synflow": Proxy("flow", "weight", same, ("abs", "same"), "times", "sum", "bits"),
        "gradient": Proxy("gradient", "gradient", same, same, "larger", "norm", "bits"),
        "error": Proxy("error", "error", same, same, "times", "sum", "one"),
        "fisher": Proxy("fisher", "error", same, ("square", "same"), "times", "sum", "one"),
    }
    found = {name: tree.scores(known, errors, settings) for name, tree in trees.items()}
    squared = {name: {bits: float(np.square(one).sum()) for bits, one in of.items()} for name, of in errors.items()}

    def added(value: Callable[[str, int], float]) -> np.ndarray:
        return np.array([sum(value(name, bits) for name, bits in setting.items()) for setting in settings])

    found["size"] = added(lambda name, bits: bits * known[name]["weight"].size)
    found["bits"] = added(lambda name, bits: bits)
    found["entropy"] = added(lambda name, bits: bits * numbers[name]["entropy"])
    found["hawq"] = added(lambda name, bits: numbers[name]["hawq"] * squared[name][bits])
    found["trace"] = added(lambda name, bits: numbers[name]["trace"] * squared[name][bits])
    return found
