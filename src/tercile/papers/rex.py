"""Expansions of rounding errors from 8 bits to ternary, without data: what more terms of one width buy."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures
from tercile.quantization import Scheme
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.transforms import Expansion, expand

PAPER = paper("rex", authors="Yvinec, Dapogny, Cord, Bailly", year=2022, source="arXiv:2203.14645")
MEASURED_ON = (
    "the zoo's digits-cnn with batch norms folded, weights of all layers expanded at 8, 4, 3 bits and ternary, inputs "
    "in float, no data used: accuracy and relative error of the logits on held-out MNIST digits, products as a "
    "multiple of one term's; and every weight's error against the bound"
)
BASELINE = (
    "one term of the same width, which is what a device of that width runs, with the range of least squared error; for "
    "sparse terms the same number of rows picked at random; for the ensemble the first term alone"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"pictures": 100},
    "full": {"pictures": 833, "seeds": "three disjoint shares of the 2,500 held-out pictures; rows at random"},
}
SEEDS = (0, 1, 2)
RULE = (
    Check("bound_violations", at_most="0"),
    Check("int4_order2_logit_error", at_most="0.15 * int4_once_logit_error"),
    Check("int3_order2_logit_error", at_most="0.3 * int3_once_logit_error"),
    Check("ternary_order6_logit_error", at_most="0.1 * ternary_once_logit_error", quick_slack=0.2),
    # Any width reaches the float network's accuracy once it has enough terms.
    *(
        Check(f"{name}_accuracy", at_least="float_accuracy - 0.005", quick=False)
        for name in ("int8_order1", "int4_order2", "int3_order3", "ternary_order6")
    ),
    Check("ternary_once_accuracy", at_most="float_accuracy - 0.05", quick=False),
    # Half the rows of a second term buy more than their share of its gain, and more than rows at random do.
    Check("int3_sparse_logit_error", at_most="0.95 * int3_random_logit_error", quick=False),
    Check("int3_sparse_logit_error", at_most="0.9 * int3_once_logit_error", quick_slack=0.2),
    # Two networks side by side keep most of what two more terms gain.
    Check("int4_ensemble_logit_error", at_most="0.5 * int4_order1_logit_error", quick_slack=0.2),
)
ORDERS = {"int8": (1, 2), "int4": (1, 2, 3), "int3": (1, 2, 3), "ternary": (1, 2, 4, 6)}
SPARSE = 0.5


def scheme_of(grid: str) -> Scheme:
    """One float32 scale a channel, so that the bound is exact."""
    return Scheme.parse(f"{grid}-channel-f32")


def at_random(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two terms at 3 bits, the second on half of the rows, whichever."""
    once, twice = (expand(weight, scheme_of("int3"), order).dequantize() for order in (1, 2))
    rows = rng.permutation(len(weight))[: max(1, round(SPARSE * len(weight)))]
    once[rows] = twice[rows]
    return once


@cache
def _expanded(grid: str, order: int) -> dict[str, Expansion]:
    layers = layers_of(folded_network()).items()
    return {name: expand(module.weight.numpy(), scheme_of(grid), order) for name, module in layers}


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every width and order on one share of the pictures."""
    images, labels = pictures(seed % 3, 3)
    count = int(SIZES[size]["pictures"])
    images, labels = images[:count], labels[:count]
    model = folded_network()
    own = {name: module.weight.numpy().copy() for name, module in layers_of(model).items()}
    truth = logits(model, images)
    rng = np.random.default_rng(seed)
    measured = {"float_accuracy": _accuracy(truth, labels), "bound_violations": 0.0}

    def judge(name: str, answer: torch.Tensor) -> None:
        measured[f"{name}_logit_error"] = float((answer - truth).norm() / truth.norm())
        measured[f"{name}_accuracy"] = _accuracy(answer, labels)

    for grid, orders in ORDERS.items():
        scheme = scheme_of(grid)
        once = {name: round_to_nearest(weight, None, scheme).dequantize() for name, weight in own.items()}
        judge(f"{grid}_once", _answer(model, once, images))
        for order in orders:
            made = _expanded(grid, order)
            judge(f"{grid}_order{order}", _answer(model, {n: e.dequantize() for n, e in made.items()}, images))
            measured["bound_violations"] += sum(_violations(own[name], each) for name, each in made.items())
    sparse = {name: expand(weight, scheme_of("int3"), 2, keep=SPARSE) for name, weight in own.items()}
    judge("int3_sparse", _answer(model, {name: each.dequantize() for name, each in sparse.items()}, images))
    measured["int3_sparse_products"] = float(np.mean([each.products for each in sparse.values()]))
    judge("int3_random", _answer(model, {n: at_random(weight, rng) for n, weight in own.items()}, images))
    parts = {name: each.members(2) for name, each in _expanded("int4", 3).items()}
    answers = [_answer(model, {name: part[member] for name, part in parts.items()}, images) for member in range(2)]
    judge("int4_ensemble", torch.stack(answers).mean(0))
    return measured


@torch.no_grad()
def _answer(model: nn.Module, weights: dict[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    for name, module in layers_of(model).items():
        module.weight.copy_(torch.from_numpy(weights[name]))
    return logits(model, images)


def _violations(weight: np.ndarray, made: Expansion) -> float:
    """Weights that are further off than the bound allows, but for float32's own rounding."""
    rows = len(weight)
    error = np.abs(made.dequantize() - weight).reshape(rows, -1)
    allowed = made.bound()[:, None] + 4e-7 * np.abs(weight).reshape(rows, -1).max(axis=1, keepdims=True)
    return float((error > allowed).sum())


def _accuracy(answers: torch.Tensor, labels: np.ndarray) -> float:
    return float((answers.argmax(1).numpy() == labels).mean())
