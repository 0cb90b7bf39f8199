"""QuantEase against GPTQ and round-to-nearest on a sentence encoder: objective, loss, outliers, time and memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from tercile.papers import Check, Measured, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import QTensor, Scheme
from tercile.quantization.outliers import OutlierTensor
from tercile.quantization.solvers import (
    coordinate_descent,
    gptq,
    output_error,
    quantease,
    quantease_outliers,
    round_to_nearest,
)
from tercile.quantization.statistics import Statistics

PAPER = paper(
    "quantease",
    authors="Behdin, Acharya, Gupta, Song, Zhu, Keerthi, Mazumder",
    year=2023,
    source="arXiv:2309.01885",
)
MEASURED_ON = (
    "MiniLM's encoder, weights in blocks of 64 at 4, 3 and 2 bits: squared change of each layer's outputs on the "
    "calibration texts over round-to-nearest's, as a geometric mean over layers and as the worst layer's ratio; "
    "at 3 bits the mean of 1 - cosine between embeddings of other texts"
)
BASELINE = (
    "GPTQ on the same scales' estimator and texts, with columns as they come, as the paper ran it, and in order of "
    "falling second moment; for outliers, as many of the largest weights kept and the rest by GPTQ in that order"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"calibration texts": 24, "texts": 8, "layers": "block 4, at 4 and 2 bits one of it", "sweeps": 12},
    "full": {
        "calibration texts": 64,
        "texts": 80,
        "layers": "3 bits: the 18 of blocks 0, 2 and 4; 4 and 2 bits: block 4",
        "sweeps": 24,
        "seeds": "which texts",
    },
}
SEEDS = (0, 1, 2)
#: Share of the weights that is kept in float16.
OUTLIERS = 0.01

RULE = (
    *(Check(f"quantease_{bits}bit", at_most=f"gptq_{bits}bit", quick=bits == 3) for bits in (4, 3, 2)),
    Check("quantease_worst_3bit", at_most="1"),
    *(Check(f"after_gptq_{bits}bit", at_most=f"ordered_gptq_{bits}bit", quick=bits == 3) for bits in (4, 3, 2)),
    Check("after_gptq_worst_3bit", at_most="1"),
    Check("quantease_loss_3bit", at_most="gptq_loss_3bit", quick=False),
    Check("after_gptq_loss_3bit", at_most="ordered_gptq_loss_3bit", quick=False),
    Check("outliers_3bit", at_most="0.9 * largest_kept_3bit", quick_slack=0.1),
    Check("outlier_bits", at_most="largest_kept_bits"),
    Check("time_ratio", at_most="12", quick=False),
    Check("memory_ratio", at_most="1"),
)

Solve = Callable[[np.ndarray, Statistics, Scheme], QTensor | OutlierTensor]


def _kept(weight: np.ndarray, statistics: Statistics, scheme: Scheme) -> OutlierTensor:
    """The largest weights in float16, the rest by GPTQ."""
    count = round(OUTLIERS * weight.size)
    largest = np.abs(weight) >= np.partition(np.abs(weight).reshape(-1), -count)[-count]
    dense = gptq(np.where(largest, 0, weight), statistics, scheme)
    return OutlierTensor.from_matrix(dense, np.where(largest, weight - dense.dequantize(), 0))


def _solvers(sweeps: int) -> dict[str, Solve]:
    return {
        "nearest": round_to_nearest,
        "gptq": lambda w, seen, scheme: gptq(w, seen, scheme, activation_order=False),
        "ordered_gptq": gptq,
        "quantease": lambda w, seen, scheme: quantease(w, seen, scheme, sweeps=sweeps),
        "after_gptq": lambda w, seen, scheme: coordinate_descent(
            w, gptq(w, seen, scheme), seen, sweeps=sweeps, relaxed=True
        ),
    }


@one_thread
def experiment(size: Size, seed: int) -> dict[str, Measured | float]:
    """Every solver at every width, on one choice of texts."""
    given = SIZES[size]
    full, sweeps = size == "full", int(given["sweeps"])
    encoder = SentenceEncoder(int(given["calibration texts"]), int(given["texts"]), seed, (0, 2, 4) if full else (4,))
    statistics, solvers = encoder.statistics(), _solvers(sweeps)
    found: dict[str, Measured | float] = {}
    for bits in (4, 3, 2):
        scheme = Scheme.parse(f"int{bits}-g64")
        taking_part = encoder.weights
        if bits != 3:
            few = ".4." if full else ".4.attention.output."
            taking_part = {name: w for name, w in encoder.weights.items() if few in name}
        errors: dict[str, list[float]] = {name: [] for name in solvers}
        stored: dict[str, dict[str, np.ndarray]] = {name: {} for name in solvers}
        for layer, weight in taking_part.items():
            for name, solve in solvers.items():
                values = stored[name][layer] = solve(weight, statistics[layer], scheme).dequantize()
                errors[name].append(_error(weight, values, statistics[layer]))
        relative = {name: np.array(of) / np.array(errors["nearest"]) for name, of in errors.items()}
        for name, of in relative.items():
            if name != "nearest":
                found[f"{name}_{bits}bit"] = Measured(_mean(of), "squared output change over round-to-nearest's")
        found[f"quantease_worst_{bits}bit"] = float((relative["quantease"] / relative["gptq"]).max())
        found[f"after_gptq_worst_{bits}bit"] = float((relative["after_gptq"] / relative["ordered_gptq"]).max())
        if bits == 3:
            for name, weights in stored.items():
                found[f"{name}_loss_3bit"] = Measured(encoder.loss(weights), "1 - cosine")
    return found | _outliers(encoder, statistics, full) | _costs(encoder, statistics, full)


def _outliers(encoder: SentenceEncoder, statistics: dict[str, Statistics], full: bool) -> dict[str, Measured | float]:
    """One scale a row, where outliers hurt most, as in the paper."""
    scheme, ratios, bits = Scheme.parse("int3-channel"), [], []
    for layer, weight in encoder.weights.items():
        if ".4." not in layer or (not full and "attention" not in layer):
            continue
        seen = statistics[layer]
        plain = output_error(weight, round_to_nearest(weight, seen, scheme), seen)
        both = quantease_outliers(weight, seen, scheme, share=OUTLIERS), _kept(weight, seen, scheme)
        whole_inputs = quantease_outliers(weight, seen, scheme, share=OUTLIERS, kind="inputs")
        ratios.append([_error(weight, one.dequantize(), seen) / plain for one in (*both, whole_inputs)])
        bits.append([one.bits_per_weight for one in both])
    mine, largest, inputs = (_mean(of) for of in np.array(ratios).T)
    unit = "squared output change over round-to-nearest's"
    return {
        "outliers_3bit": Measured(mine, unit),
        "largest_kept_3bit": Measured(largest, unit),
        "outlier_inputs_3bit": Measured(inputs, unit),
        "outlier_bits": Measured(float(np.mean(bits, axis=0)[0]), "bits a weight"),
        "largest_kept_bits": Measured(float(np.mean(bits, axis=0)[1]), "bits a weight"),
    }


def _costs(encoder: SentenceEncoder, statistics: dict[str, Statistics], full: bool) -> dict[str, Measured | float]:
    """Least time of several, by turns, and peak memory, of the two solvers on the widest layer."""
    layer = next(name for name in encoder.weights if name.endswith("4.output.dense"))
    weight, seen, scheme = encoder.weights[layer], statistics[layer], Scheme.parse("int3-g64")
    runs: dict[str, Callable[[], object]] = {
        "gptq": lambda: gptq(weight, seen, scheme),
        "quantease": lambda: quantease(weight, seen, scheme),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(7 if full else 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    peaks = {}
    for name, run in runs.items():
        tracemalloc.start()
        run()
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "time_ratio": Measured(min(seconds["quantease"]) / min(seconds["gptq"]), "times GPTQ's"),
        "memory_ratio": Measured(peaks["quantease"] / peaks["gptq"], "times GPTQ's"),
    }


def _error(weight: np.ndarray, values: np.ndarray, statistics: Statistics) -> float:
    change = weight - values
    return float(np.einsum("ij,ij->", change @ statistics.second_moment, change, dtype=np.float64))


def _mean(ratios: np.ndarray) -> float:
    """Geometric."""
    return float(np.exp(np.log(ratios).mean()))
