"""Fractional-bit quantizers on rotated weights, and what a palette of them gains over whole bits at equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import QTensor, Scheme
from tercile.quantization.allocation import SensitivityTable, allocate, gaussian_rates
from tercile.quantization.grids import normal
from tercile.quantization.ranges import mse
from tercile.quantization.solvers import coordinate_descent, gptq, output_error
from tercile.quantization.statistics import Statistics

PAPER = paper("q_palette", authors="Lee, Song", year=2025, source="arXiv:2509.20214")
MEASURED_ON = (
    "normal values stored at 2 to 4 bits: loss as a multiple of the rate-distortion bound; and the 36 linear layers of "
    "MiniLM's encoder at an average of 2.25 bits a weight and their scales, layers rated by what storing each alone "
    "costs on calibration texts: 1 - cosine of the embeddings of held-out texts. Memory only; no latency"
)
BASELINE = (
    "at equal stored bytes and with the same exact allocation, from the same statistics: the same quantizers with "
    "whole bits only; scalar grids as good as we have them (asymmetric integers by groups of 128 to 32 under "
    "super-scales, GPTQ with coordinate descent), allocated or all int2-g64, whichever is better; one rate for all"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"normal values": 8_192, "blocks": 1, "calibration texts": 24, "held-out texts": 24},
    "full": {"normal values": 131_072, "blocks": 6, "calibration texts": 192, "held-out texts": 192, "seeds": "texts"},
}
SEEDS = (0, 1)
RULE = (
    *(Check(f"trellis_ratio_{name}bit", at_most=limit, quick_slack=0.03)
      for name, limit in (("2", "1.2"), ("2_5", "1.25"), ("3", "1.25"), ("4", "1.3"))),
    *(Check(f"trellis_ratio_{bits}bit", at_most=f"0.7 * scalar_ratio_{bits}bit") for bits in (2, 3, 4)),
    *(Check(f"pairs_ratio_{bits}bit", at_most=f"0.95 * scalar_ratio_{bits}bit") for bits in (2, 3, 4)),
    Check("palette_loss", at_most="0.95 * whole_bits_loss", quick=False),
    Check("palette_loss", at_most="0.6 * scalar_loss", quick_slack=0.5),
    Check("palette_loss", at_most="uniform_loss", quick=False),
    # How near the palette's own prediction comes to that of ideal rates for quantizers of the same quality.
    Check("palette_over_ideal", at_most="1.1", quick=False),
)  # fmt: skip

BUDGET = "trellis2.25-channel-rot"
PALETTE = tuple(f"trellis{rate}-channel-rot" for rate in ("1.5", "1.75", "2", "2.25", "2.5", "3", "3.5", "4"))
WHOLE = tuple(f"trellis{bits}-channel-rot" for bits in (2, 3, 4))
SCALAR = tuple(f"int{bits}-g{group}-asym-k6" for bits in (2, 3, 4) for group in (128, 64, 32))
#: One scheme that every layer is tried under alone, to see what a part of its output's variance costs.
TRIED = "trellis2-channel-rot"


def solve(weight: np.ndarray, seen: Statistics, spelling: str) -> QTensor:
    """The layer under a scheme. Descent hardly helps a trellis, and takes most of the time."""
    scheme = Scheme.parse(spelling)
    first = gptq(weight, seen, scheme)
    return first if spelling.startswith("trellis") else coordinate_descent(weight, first, seen)


def ratios(count: int, seed: int) -> dict[str, float]:
    """Squared error on normal values as a multiple of the least possible, 4^-rate, of trellises, pairs and scalars."""
    x = np.random.default_rng(seed).normal(size=(256, count // 256)).astype(np.float32)
    found = {}
    for rate in (2, 2.5, 3, 4):
        for kind in ("trellis", "pairs"):
            scheme = Scheme.parse(f"{kind}{rate:g}-tensor-f32")
            stored = QTensor.quantize(x, scheme, mse(x, scheme)).dequantize()
            found[f"{kind}_ratio_{rate:g}bit".replace(".", "_")] = _square(stored - x) * 4.0**rate
        if rate == int(rate):
            grid = normal(2 ** int(rate))
            found[f"scalar_ratio_{rate:g}bit"] = _square(grid.decode(grid.encode(x)) - x) * 4.0**rate
    return found


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Losses on normal values, then palettes against each other on the encoder."""
    sizes = SIZES[size]
    blocks = tuple(range(int(sizes["blocks"])))
    measured = ratios(int(sizes["normal values"]), seed)
    calibrated, judged = int(sizes["calibration texts"]), int(sizes["held-out texts"])
    encoder = SentenceEncoder(calibrated, judged, seed, blocks)
    probe = SentenceEncoder(0, min(calibrated, 48), seed, blocks)  # judged by the first of the calibration texts
    seen = encoder.statistics()
    palette, whole, scalar = (PALETTE, WHOLE, SCALAR) if size == "full" else (PALETTE[2:5], WHOLE[:2], SCALAR[1::3])
    stored = {
        name: {spelling: solve(weight, seen[name], spelling) for spelling in dict.fromkeys((*palette, *whole, *scalar))}
        for name, weight in encoder.weights.items()
    }
    errors = {
        name: {spelling: output_error(encoder.weights[name], q, seen[name]) for spelling, q in of.items()}
        for name, of in stored.items()
    }
    # What a unit of output error costs in each layer, from the layer alone under one scheme.
    price = {name: probe.loss({name: of[TRIED].dequantize()}) / errors[name][TRIED] for name, of in stored.items()}
    budget = sum(Scheme.parse(BUDGET).nbytes(weight.shape) for weight in encoder.weights.values())

    def judge(schemes: Sequence[str]) -> tuple[float, float]:
        """Loss of the best choice, and what was predicted."""
        table = _table(stored, errors, price, schemes)
        chosen = allocate(table, budget)
        kept = {name: stored[name][scheme].dequantize() for name, scheme in chosen.choices.items()}
        return encoder.loss(kept), chosen.loss

    measured["palette_loss"], predicted = judge(palette)
    measured["whole_bits_loss"], whole_predicted = judge(whole)
    plain = {name: of["int2-g64-asym-k6"].dequantize() for name, of in stored.items()}
    measured["scalar_loss"] = min(judge(scalar)[0], encoder.loss(plain))
    measured["uniform_loss"] = encoder.loss({name: of[BUDGET].dequantize() for name, of in stored.items()})
    ideal = _ideal(stored, errors, price, budget)
    measured["palette_over_ideal"], measured["whole_bits_over_ideal"] = predicted / ideal, whole_predicted / ideal
    measured["budget_bits"] = 8 * budget / sum(weight.size for weight in encoder.weights.values())
    return measured


def _table(
    stored: Mapping[str, Mapping[str, QTensor]],
    errors: Mapping[str, Mapping[str, float]],
    price: Mapping[str, float],
    schemes: Sequence[str],
) -> SensitivityTable:
    nbytes = np.array([[of[scheme].nbytes for scheme in schemes] for of in stored.values()])
    loss = np.array([[price[name] * errors[name][scheme] for scheme in schemes] for name in stored])
    return SensitivityTable(tuple(stored), tuple(schemes), nbytes, loss)


def _ideal(
    stored: Mapping[str, Mapping[str, QTensor]],
    errors: Mapping[str, Mapping[str, float]],
    price: Mapping[str, float],
    budget: int,
) -> float:
    """Predicted loss at the best real-valued rates, each layer's error falling by 4 a bit from what it was at 2."""
    cost = np.array([price[name] * errors[name][TRIED] * 4.0**2 for name in stored])
    size = np.array([float(np.prod(of[TRIED].shape)) for of in stored.values()])
    scales = sum(of[TRIED].nbytes - of[TRIED].words.nbytes for of in stored.values())
    rates = gaussian_rates(cost, size, 8.0 * (budget - scales), least=1.0, most=5.0)
    return float((cost * 4.0**-rates).sum())


def _square(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).mean())
