"""Pre-calibration without data, alone and before GPTQ, on a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tercile.papers import Check, Measured, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import QTensor, Scheme
from tercile.quantization.outliers import OutlierTensor
from tercile.quantization.ranges.pre_calibration import divergence, pre_calibrate, salient
from tercile.quantization.solvers import gptq, round_to_nearest
from tercile.quantization.statistics import Statistics

PAPER = paper(
    "pre_calibration",
    authors="Ghaffari, Younesian, Chen, Partovi Nia, Asgharian",
    year=2025,
    source="arXiv:2501.09107",
)
MEASURED_ON = (
    "MiniLM's blocks 1 and 4, weights at 4 and 3 bits: mean of 1 - cosine between embeddings of other texts; "
    "divergence of the stored weights' distribution from the original's; bits with everything stored"
)
BASELINE = (
    "round-to-nearest and GPTQ, calibrated on texts, with a scale for every 32 weights, which are as many "
    "bits, and for every 128, as for the rest here"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"calibration texts": 16, "texts": 8, "layers": "block 2"},
    "full": {"calibration texts": 32, "texts": 32, "layers": "blocks 1 and 4", "seeds": "which texts"},
}
SEEDS = (0, 1, 2)
#: Salient weights in float16: with the rest in blocks of 128 they take as many bits as blocks of 32 do.
SHARE, OURS, THEIRS = 0.0095, "g128", "g32"
RULE = (
    *(Check(f"loss_{bits}bit", at_most=f"nearest_loss_{bits}bit", quick=False) for bits in (4, 3)),
    # On par with calibration: a tenth more loss at most.
    *(Check(f"loss_{bits}bit", at_most=f"1.1 * gptq_loss_{bits}bit", quick=False) for bits in (4, 3)),
    # Calibration after it: better than calibration alone.
    *(Check(f"combined_loss_{bits}bit", at_most=f"gptq_loss_{bits}bit", quick=False) for bits in (4, 3)),
    # The paper's own comparison: blocks of one size, the salient weights on top of it.
    *(Check(f"loss_{bits}bit", at_most=f"nearest_same_blocks_loss_{bits}bit", quick=False) for bits in (4, 3)),
    *(Check(f"combined_loss_{bits}bit", at_most=f"gptq_same_blocks_loss_{bits}bit", quick=False) for bits in (4, 3)),
    *(Check(f"divergence_{bits}bit", at_most=f"nearest_same_blocks_divergence_{bits}bit") for bits in (4, 3)),
    *(Check(f"bits_{bits}bit", at_most=f"gptq_bits_{bits}bit") for bits in (4, 3)),
)

Store = Callable[[np.ndarray, Statistics], QTensor | OutlierTensor]


def _alone(weight: np.ndarray, seen: Statistics, scheme: Scheme) -> OutlierTensor:
    return pre_calibrate(weight, scheme, share=SHARE)


def _nearest(weight: np.ndarray, seen: Statistics, scheme: Scheme) -> QTensor:
    return round_to_nearest(weight, None, scheme)


def _combined(weight: np.ndarray, seen: Statistics, scheme: Scheme) -> OutlierTensor:
    """The salient class set apart as without data, the rest by GPTQ."""
    apart = salient(weight, SHARE)
    dense = gptq(np.where(apart, 0, weight), seen, scheme)
    return OutlierTensor.from_matrix(dense, np.where(apart, weight - dense.dequantize(), 0))


@one_thread
def experiment(size: Size, seed: int) -> dict[str, Measured | float]:
    """Every way to store, on one choice of texts."""
    given = SIZES[size]
    encoder = SentenceEncoder(
        int(given["calibration texts"]), int(given["texts"]), seed, (1, 4) if size == "full" else (2,)
    )
    statistics = encoder.statistics()
    found: dict[str, Measured | float] = {}
    for bits in (4, 3):
        ours, theirs = Scheme.parse(f"int{bits}-{OURS}"), Scheme.parse(f"int{bits}-{THEIRS}")
        ways: dict[str, Store] = {
            "": partial(_alone, scheme=ours),
            "combined_": partial(_combined, scheme=ours),
            "nearest_": partial(_nearest, scheme=theirs),
            "nearest_same_blocks_": partial(_nearest, scheme=ours),
            "gptq_": partial(gptq, scheme=theirs),
            "gptq_same_blocks_": partial(gptq, scheme=ours),
        }
        for name, store in ways.items():
            stored = {layer: store(weight, statistics[layer]) for layer, weight in encoder.weights.items()}
            values = {layer: tensor.dequantize() for layer, tensor in stored.items()}
            apart = [divergence(encoder.weights[layer], tensor) for layer, tensor in stored.items()]
            nbytes = sum(tensor.nbytes for tensor in stored.values())
            count = sum(weight.size for weight in encoder.weights.values())
            found |= {
                f"{name}loss_{bits}bit": Measured(encoder.loss(values), "1 - cosine"),
                f"{name}divergence_{bits}bit": Measured(float(np.mean(apart)), "nats"),
                f"{name}bits_{bits}bit": Measured(8 * nbytes / count, "bits a weight"),
            }
    return found
