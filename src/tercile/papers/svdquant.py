"""A low-rank branch that takes in outliers, against smoothing and rotation, with weights and activations at 4 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import nn

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.seconds import least_seconds
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import Scheme
from tercile.quantization.activations import Dynamic
from tercile.quantization.hadamard import rotate
from tercile.quantization.low_rank import FACTORS, LowRank
from tercile.quantization.ranges import min_max
from tercile.quantization.runtime import PackedMatrix
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.transforms import Branched, absorb

PAPER = paper(
    "svdquant",
    authors="Li, Lin, Zhang, Cai, Li, Guo, Xie, Meng, Zhu, Han",
    year=2024,
    source="arXiv:2411.05007",
)
MEASURED_ON = (
    "the linear layers of three blocks of MiniLM (the paper has diffusion models), weights and inputs as 4-bit "
    "integers by groups of 64, inputs rounded as they come: 1 - cosine of the embeddings of held-out texts, and the "
    "squared change of each layer's outputs as a share of each one's variance, on calibration texts, as a geometric "
    "mean over layers. The branch's cost is that of packed products, one thread: 4-bit integers by groups of 64 with "
    "8-bit activations, a square matrix, 1 and 256 rows, alone, with an 8-bit branch in the same call, and with one of "
    "floats added by torch"
)
BASELINE = (
    "with the same integers and all weights rounded to nearest: nothing else; smoothing, its strength searched for "
    "each layer; randomised Hadamard rotation of inputs and weights; the branch without smoothing. For an adapter: "
    "adding it to the weight, and splitting and rounding again"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"blocks": 1, "rank": 16, "calibration texts": 8, "held-out texts": 8, "timed side": 512},
    "full": {
        "blocks": 3,
        "rank": 16,
        "calibration texts": 64,
        "held-out texts": 128,
        "timed side": 4096,
        "timed rank": 32,
        "seeds": "texts",
    },
}
SEEDS = (0, 1)
RULE = (
    Check("svdquant_loss", at_most="0.9 * min(nearest_loss, smoothed_loss)", quick=False),
    Check("svdquant_loss", at_most="rotated_loss", quick=False),
    Check(
        "svdquant_output_error",
        at_most="0.9 * min(nearest_output_error, smoothed_output_error, rotated_output_error)",
        quick_slack=0.2,
    ),
    Check("svdquant_output_error", at_most="branch_alone_output_error"),
    Check("branch_products", at_most="0.1"),
    Check("fused_1_seconds", at_most="1.1 * without_1_seconds", quick=False),
    Check("fused_256_seconds", at_most="1.1 * without_256_seconds", quick=False),
    Check("fused_256_seconds", at_most="apart_256_seconds", quick=False),
    Check("adapter_error", at_most="0.01"),
    Check("adapter_error", at_most="0.1 * adapter_rounded_again_error"),
)

SCHEME = Scheme.parse("int4-g64")
WIDER = Scheme.parse("int5-g64")
INPUTS = 384  # calibration inputs kept of each layer
ADAPTER_RANK = 4

Layer = Callable[[torch.Tensor], torch.Tensor]


def read(x: np.ndarray) -> np.ndarray:
    """Inputs as the 4-bit branch reads them."""
    return Dynamic(SCHEME)(torch.from_numpy(x)).numpy()


def plain(weight: np.ndarray, inputs: np.ndarray, rank: int, scheme: Scheme = SCHEME) -> Layer:
    """Weight and inputs rounded as they are."""
    kept = torch.from_numpy(round_to_nearest(weight, None, scheme).dequantize())
    return lambda x: Dynamic(SCHEME)(x) @ kept.T


def rotated(weight: np.ndarray, inputs: np.ndarray, rank: int, scheme: Scheme = SCHEME) -> Layer:
    """Weight and inputs rounded in the rotated basis."""
    kept = torch.from_numpy(round_to_nearest(rotate(weight), None, scheme).dequantize())

    def run(x: torch.Tensor) -> torch.Tensor:
        turned = torch.from_numpy(rotate(x.reshape(-1, x.shape[-1]).numpy())).reshape(x.shape)
        return Dynamic(SCHEME)(turned) @ kept.T

    return run


def running(split: Branched) -> Layer:
    """A split weight in torch."""
    up, down, divided = (torch.from_numpy(part.astype(np.float32)) for part in (split.up, split.down, split.divided))
    rest = torch.from_numpy(split.rest.dequantize())

    def run(x: torch.Tensor) -> torch.Tensor:
        smoothed = x / divided
        return (smoothed @ down.T) @ up.T + Dynamic(SCHEME)(smoothed) @ rest.T

    return run


def branched(weight: np.ndarray, inputs: np.ndarray, rank: int, **options: tuple[float, ...]) -> Layer:
    """The paper's layer."""
    return running(absorb(weight, inputs, SCHEME, read, rank=rank, **options))  # type: ignore[arg-type]


METHODS: Mapping[str, Callable[[np.ndarray, np.ndarray, int], Layer]] = {
    "nearest": plain,
    "smoothed": lambda weight, inputs, rank: branched(weight, inputs, 0),
    "rotated": rotated,
    "rotated_5bit_weights": partial(rotated, scheme=WIDER),
    "branch_alone": partial(branched, alphas=(0.0,)),
    "svdquant": branched,
}


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every method on the encoder, then an adapter on one of its layers."""
    sizes = SIZES[size]
    rank, blocks = int(sizes["rank"]), tuple(range(int(sizes["blocks"])))
    encoder = SentenceEncoder(int(sizes["calibration texts"]), int(sizes["held-out texts"]), seed, blocks)
    inputs = _inputs(encoder, seed)
    measured: dict[str, float] = {}
    for method, make in METHODS.items():
        layers = {name: make(weight, inputs[name], rank) for name, weight in encoder.weights.items()}
        measured[f"{method}_loss"] = _loss(encoder, layers)
        changes = [_change(layer, encoder.weights[name], inputs[name]) for name, layer in layers.items()]
        measured[f"{method}_output_error"] = float(np.exp(np.mean(np.log(changes))))
    shapes = [weight.shape for weight in encoder.weights.values()]
    products, whole = sum(rank * (m + n) for m, n in shapes), sum(m * n for m, n in shapes)
    measured["branch_products"] = products / whole
    measured["svdquant_bits"] = 8 * SCHEME.nbytes((384, 384)) / 384**2 + 16 * measured["branch_products"]
    measured |= _seconds(int(sizes["timed side"]), int(sizes.get("timed rank", rank)), seed)
    return measured | _adapter(encoder, inputs, rank, seed)


def _inputs(encoder: SentenceEncoder, seed: int) -> dict[str, np.ndarray]:
    """Some inputs of each layer on the calibration texts, padding left out."""
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in encoder.layers}
    mask = torch.empty(0)

    def keep(name: str, module: nn.Module, args: tuple[torch.Tensor]) -> None:
        kept[name].append(args[0][mask])

    with ExitStack() as stack:
        for name, module in encoder.layers.items():
            stack.callback(module.register_forward_pre_hook(partial(keep, name)).remove)
        for batch in encoder.batches(encoder.calibration):
            mask = batch["attention_mask"].bool()
            encoder.run(batch)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parts in kept.items():
        rows = torch.cat(parts)
        found[name] = rows[torch.randperm(len(rows), generator=generator)[:INPUTS]].numpy().copy()
    return found


def _loss(encoder: SentenceEncoder, layers: Mapping[str, Layer]) -> float:
    """Mean of 1 - cosine with these layers in place."""

    def answer(layer: Layer, module: nn.Linear, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return layer(args[0]) + module.bias

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(encoder.layers[name].register_forward_hook(partial(answer, layer)).remove)
        return encoder.loss({})


def _change(layer: Layer, weight: np.ndarray, inputs: np.ndarray) -> float:
    """Squared change of a layer's outputs as a share of their variance, output by output."""
    wanted = inputs @ weight.T
    got = layer(torch.from_numpy(inputs)).numpy()
    return float((np.square(got - wanted, dtype=np.float64).mean(axis=0) / wanted.var(axis=0, dtype=np.float64)).mean())


def _seconds(side: int, rank: int, seed: int) -> dict[str, float]:
    """Seconds of a packed product with 1 and with 256 rows: without a branch, with it in the same call, and apart."""
    random = np.random.default_rng(seed)
    rest = round_to_nearest(random.normal(size=(side, side)).astype(np.float32), None, SCHEME, min_max)
    up, down = (random.normal(size=(rank, side)).astype(np.float32) for _ in range(2))
    branch = LowRank(*(round_to_nearest(factor, None, FACTORS, min_max) for factor in (up, down)))
    without = PackedMatrix.from_qtensor(rest, "int8").matmul
    fused = PackedMatrix.from_qtensor(rest, "int8", branch=branch).matmul
    found: dict[str, float] = {}
    for rows in (1, 256):
        x = random.normal(size=(rows, side)).astype(np.float32)
        floats = torch.from_numpy(x)

        def apart(x: np.ndarray = x, floats: torch.Tensor = floats) -> torch.Tensor:
            return torch.from_numpy(without(x)) + (floats @ torch.from_numpy(down).T) @ torch.from_numpy(up)

        ways: dict[str, Callable[[], object]]
        ways = {"without": partial(without, x), "fused": partial(fused, x), "apart": apart}
        seconds = least_seconds(ways, turns=9, calls=20 if rows == 1 else 1)
        found |= {f"{name}_{rows}_seconds": least for name, least in seconds.items()}
    return found


def _adapter(encoder: SentenceEncoder, inputs: Mapping[str, np.ndarray], rank: int, seed: int) -> dict[str, float]:
    """How well an adapter's own contribution comes through: joined to the branch, or rounded into the weight."""
    name = next(iter(encoder.weights))
    weight, x = encoder.weights[name], inputs[name]
    rng = np.random.default_rng(seed)
    up = rng.normal(size=(len(weight), ADAPTER_RANK)).astype(np.float32)
    down = rng.normal(size=(ADAPTER_RANK, weight.shape[1])).astype(np.float32)
    up *= np.float32(
        0.05 * np.linalg.norm(weight) / np.linalg.norm(up @ down)
    )  # a twentieth of the weight, as tuning does
    split = absorb(weight, x, SCHEME, read, rank=rank)
    before, wanted = split(x, read), x @ (up @ down).T
    joined = split.with_adapter(up, down)(x, read) - before
    again = absorb(weight + up @ down, x, SCHEME, read, rank=rank)(x, read) - before
    size = float(np.square(wanted).sum())
    return {
        "adapter_error": float(np.square(joined - wanted).sum()) / size,
        "adapter_rounded_again_error": float(np.square(again - wanted).sum()) / size,
    }
