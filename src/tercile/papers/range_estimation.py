"""Ranges by golden section on bent grids, against min-max, percentiles and a fine grid of ranges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch

from tercile import _native
from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import folded_network, layers_of, logits, one_thread, pictures
from tercile.quantization import QTensor, Ranges, Scheme
from tercile.quantization.ranges import golden_section, min_max, quantile, reshaped
from tercile.quantization.ranges.golden_section import EVALUATIONS

PAPER = paper("range_estimation", authors="Yang, Wang, Jiao, Huo", year=2025, source="arXiv:2510.04044")
MEASURED_ON = (
    "the zoo's digits-cnn with batch norms folded, every weight at 6 to 2 bits, activations in float: "
    "accuracy, answers that differ from the float network's, and relative error of the logits, on "
    "held-out MNIST digits"
)
BASELINE = (
    "even steps over the min-max range, over the best of three percentiles (picked on the very numbers "
    "reported), and over the best of a grid of 200 ranges either way round, on the same weights and pictures"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"pictures": 40, "scale a channel": "4 bits only"},
    "full": {"pictures": 833, "seeds": "three disjoint shares of the 2,500 held-out pictures"},
}
SEEDS = (0, 1, 2)

GRID = 200
PERCENTILES = (0.99, 0.999, 0.9999)
#: What is measured under one scale a tensor, as in the paper, and under one a channel.
BITS = {"tensor": (6, 5, 4, 3), "channel": (4, 3, 2)}

RULE = (
    Check(
        "accuracy_4to6bit",
        at_least="max(minmax_accuracy_4to6bit, percentile_accuracy_4to6bit, grid_accuracy_4to6bit)",
        quick=False,
    ),
    Check(
        "disagreement_4bit",
        at_most="min(minmax_disagreement_4bit, percentile_disagreement_4bit, grid_disagreement_4bit)",
        quick=False,
    ),
    *(
        Check(
            f"logit_error_{bits}bit",
            at_most=f"0.95 * min(minmax_logit_error_{bits}bit, percentile_logit_error_{bits}bit, "
            f"grid_logit_error_{bits}bit)",
            quick_slack=0.2,
        )
        for bits in BITS["tensor"]
    ),
    Check(
        "channel_logit_error_4bit",
        at_most="0.95 * min(channel_minmax_logit_error_4bit, channel_percentile_logit_error_4bit, "
        "channel_grid_logit_error_4bit)",
        quick_slack=0.2,
    ),
    Check("range_alone_weight_error_4bit", at_most="1.002 * grid_weight_error_4bit"),
    Check("evaluations", at_most="0.25 * grid_evaluations"),
)


def grid_search(values: np.ndarray, scheme: Scheme, importance: np.ndarray | None = None) -> Ranges:
    """The best of `GRID` evenly spaced shares of each block's min-max range, the levels either way round."""
    widest = min_max(values, scheme).scale
    scale = np.zeros_like(widest)
    shares = np.linspace(1 / GRID, 1, GRID, dtype=np.float32)
    shares = np.concatenate([shares, -shares])
    for rows, columns, block in scheme.blocks.pieces(values):
        tried = widest[rows, columns].reshape(-1, 1) * shares
        errors = np.empty_like(tried)
        none = np.empty((0, 0), dtype=np.float32)
        _native.range_errors(block, none, tried, np.zeros_like(tried), scheme.grid.native, errors)
        best = tried[np.arange(len(block)), errors.argmin(axis=1)]
        scale[rows, columns] = best.reshape(scale[rows, columns].shape)
    return scheme.ranges(scale)


Store = Callable[[np.ndarray, Scheme], np.ndarray]


def _stored(ranges: Callable[..., Ranges], weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    return QTensor.quantize(weight, scheme, ranges(weight, scheme)).dequantize()


def _reshaped(weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    return _stored(golden_section, weight, reshaped(weight, scheme))


METHODS: dict[str, Store] = {
    "": _reshaped,
    "range_alone_": partial(_stored, golden_section),
    "minmax_": partial(_stored, min_max),
    "grid_": partial(_stored, grid_search),
    **{f"percentile{level}_": partial(_stored, partial(quantile, level=level)) for level in PERCENTILES},
}


@cache
def _weights(method: str, bits: int, blocks: str) -> tuple[dict[str, torch.Tensor], float]:
    """Every layer's weight as it comes back from storage, and the squared error of all weights together."""
    scheme, kept, error = Scheme.parse(f"int{bits}-{blocks}-f32"), {}, 0.0
    for name, module in layers_of(folded_network()).items():
        weight = module.weight.numpy().reshape(len(module.weight), -1)
        stored = METHODS[method](weight, scheme)
        error += float(np.square(weight - stored, dtype=np.float64).sum())
        kept[name] = torch.from_numpy(stored).reshape(module.weight.shape)
    return kept, error


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every method at every width, on one share of the pictures."""
    images, labels = pictures(seed % 3, 3)
    count = int(SIZES[size]["pictures"])
    images, labels = images[:count], labels[:count]
    model = folded_network()
    truth = logits(model, images)
    measured = {"float_accuracy": _share(truth.argmax(1).numpy() == labels)}
    for blocks, widths in BITS.items() if size == "full" else (BITS | {"channel": (4,)}).items():
        place = "channel_" if blocks == "channel" else ""
        for bits in widths:
            for method in METHODS:
                kept, error = _weights(method, bits, blocks)
                for name, module in layers_of(model).items():
                    module.weight.copy_(kept[name])
                answer = logits(model, images)
                found = {
                    "accuracy": _share(answer.argmax(1).numpy() == labels),
                    "disagreement": _share((answer.argmax(1) != truth.argmax(1)).numpy()),
                    "logit_error": float((answer - truth).norm() / truth.norm()),
                    "weight_error": error,
                }
                measured |= {f"{place}{method}{what}_{bits}bit": value for what, value in found.items()}
            _best_percentile(measured, place, bits)
    for method in ("", "range_alone_", "minmax_", "percentile_", "grid_"):
        of_widths = [measured[f"{method}accuracy_{bits}bit"] for bits in (4, 5, 6)]
        measured[f"{method}accuracy_4to6bit"] = float(np.mean(of_widths))
    measured["evaluations"], measured["grid_evaluations"] = 2 * EVALUATIONS, 2 * GRID
    return measured


def _share(hits: np.ndarray) -> float:
    return float(np.mean(hits))


def _best_percentile(measured: dict[str, float], place: str, bits: int) -> None:
    """Replaces the percentiles' numbers by the best of each kind."""
    for what, best in (("accuracy", max), ("disagreement", min), ("logit_error", min), ("weight_error", min)):
        names = [f"{place}percentile{level}_{what}_{bits}bit" for level in PERCENTILES]
        measured[f"{place}percentile_{what}_{bits}bit"] = best(measured.pop(name) for name in names)
