"""Least largest violation: filters with short coefficients, images from projections, weights for the worst case."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, lsq_linear, milp

from tercile.papers import Check, Measured, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import Scheme
from tercile.quantization.solvers import gptq, round_to_nearest
from tercile.quantization.solvers.min_max import least_violation, min_max_rounding
from tercile.quantization.statistics import Statistics
from tercile.zoo.entries import find

PAPER = paper("dmmv", authors="Ahmed, Mostajabdaveh, Aref, Zhou", year=2025, source="arXiv:2508.13437")
MEASURED_ON = (
    "low-pass FIR filters of 21 to 51 taps with coefficients of 7 to 10 bits: ripple in both bands; digits of 14x14 "
    "black or white pixels from line sums in eight directions with uniform noise: wrong pixels; rows of two MiniLM "
    "layers at 3 bits: the largest error of an output, on the inputs searched on and on others"
)
BASELINE = (
    "HiGHS on the mixed-integer programme, with a time limit, and the rounded minimax filter; bounded least squares "
    "rounded, and descended by single pixels; GPTQ and round-to-nearest"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"filters": "21 taps", "time limit": 4, "images": 4, "rows": 3, "inputs": 150, "texts": 16},
    "full": {
        "filters": "21, 31, 41 and 51 taps",
        "time limit": 20,
        "images": 20,
        "rows": 5,
        "inputs": 1000,
        "texts": 100,
        "seeds": "band edges, images and noise, rows and inputs",
    },
}
SEEDS = (0, 1, 2)
RULE = (
    Check("ripple", at_most="1.001 * milp_ripple", quick=False),
    Check("ripple", at_most="0.9 * rounded_ripple"),
    Check("wrong_pixels", at_most="0.84 * min(rounded_wrong_pixels, descended_wrong_pixels)", quick=False),
    Check("image_violation", at_most="min(rounded_image_violation, descended_image_violation)"),
    Check("worst_output", at_most="0.86 * min(gptq_worst_output, nearest_worst_output)"),
    Check("unseen_worst_output", at_most="min(gptq_unseen_worst_output, nearest_unseen_worst_output)", quick=False),
)
#: Filters: taps, bits of a coefficient's fraction.
FILTERS = ((21, 7), (31, 8), (41, 9), (51, 10))
#: Grey levels of noise in a line sum, and the steps from pixel to pixel of each direction.
NOISE, DIRECTIONS = 1.0, ((1, 0), (0, 1), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))
PIXELS = 14


@one_thread
def experiment(size: Size, seed: int) -> dict[str, Measured | float]:
    """The three uses."""
    rng = np.random.default_rng(seed)
    return filters(size, rng) | images(size, rng) | outputs(size, seed, rng)


def filters(size: Size, rng: np.random.Generator) -> dict[str, Measured | float]:
    """Geometric means of the ripple over designs."""
    found: dict[str, list[float]] = {"ripple": [], "milp_ripple": [], "rounded_ripple": [], "milp_gap": []}
    for taps, bits in FILTERS if size == "full" else FILTERS[:1]:
        edge = rng.uniform(0.3, 0.4)
        matrix, target = response(taps, edge, edge + rng.uniform(0.12, 0.18))
        step, (m, n) = 2.0**-bits, matrix.shape
        # The filter of least ripple with any coefficients, by a linear programme: both searches start around it.
        cost, one = np.r_[np.zeros(n), 1.0], np.ones((m, 1))
        free = linprog(
            cost,
            A_ub=np.block([[matrix, -one], [-matrix, -one]]),
            b_ub=np.r_[target, -target],
            bounds=[(None, None)] * n + [(0, None)],
        ).x[:n]
        around = step * (np.round(free / step)[:, None] + np.arange(-8, 9))
        found["ripple"].append(least_violation(matrix, target, around, start=free, rounds=1500).violation)
        found["rounded_ripple"].append(float(np.abs(matrix @ around[:, 8] - target).max()))
        limit = LinearConstraint(
            np.block([[matrix * step, -one], [-matrix * step, -one]]), -np.inf, np.r_[target, -target]
        )
        solved = milp(
            cost,
            constraints=limit,
            integrality=np.r_[np.ones(n), 0],
            bounds=Bounds(np.r_[around[:, 0] / step, 0], np.r_[around[:, -1] / step, np.inf]),
            options={"time_limit": float(SIZES[size]["time limit"])},
        )
        # With no solution in time it has the rounded filter, which it could have been given.
        found["milp_ripple"].append(found["rounded_ripple"][-1] if solved.x is None else float(solved.fun))
        found["milp_gap"].append(1.0 if solved.x is None else float(solved.mip_gap))
    kept: dict[str, Measured | float] = {
        name: Measured(float(np.exp(np.log(of).mean())), "ripple") for name, of in found.items() if name != "milp_gap"
    }
    return kept | {"milp_open_gap": float(np.mean(found["milp_gap"]))}


def response(taps: int, passed: float, stopped: float) -> tuple[np.ndarray, np.ndarray]:
    """Matrix from the coefficients 0 ... (taps - 1) / 2 of a symmetric filter to its response, and the one wanted.

    Band edges are shares of half the sampling rate.
    """
    half = (taps + 1) // 2
    low = np.linspace(0, passed * np.pi, round(16 * half * passed))
    high = np.linspace(stopped * np.pi, np.pi, round(16 * half * (1 - stopped)))
    frequency = np.concatenate([low, high])
    matrix = np.cos(frequency[:, None] * np.arange(half))
    matrix[:, 1:] *= 2
    return matrix, (frequency <= passed * np.pi).astype(np.float64)


def images(size: Size, rng: np.random.Generator) -> dict[str, Measured | float]:
    """Means over images."""
    with np.load(find("digits-cnn").sample) as stored:
        digits = stored["images"][:, 0]
    matrix = line_sums(PIXELS)
    rows = []
    for _ in range(int(SIZES[size]["images"])):
        digit = digits[rng.integers(len(digits))].reshape(PIXELS, 2, PIXELS, 2).mean(axis=(1, 3))
        truth = (digit > 90).astype(np.float64).reshape(-1)
        sums = matrix @ truth + rng.uniform(-NOISE, NOISE, len(matrix))
        grey = lsq_linear(matrix, sums, (0, 1)).x
        least = least_violation(matrix, sums, np.array([0.0, 1.0]), start=grey, rounds=40).values
        for image in (least, grey.round(), descended(matrix, sums, grey.round())):
            rows.append((float((image != truth).mean()), float(np.abs(matrix @ image - sums).max())))
    wrong, violation = np.array(rows).reshape(-1, 3, 2).mean(axis=0).T
    found: dict[str, Measured | float] = {}
    for name, share, off in zip(("", "rounded_", "descended_"), wrong, violation, strict=True):
        found[f"{name}wrong_pixels"] = Measured(share, "share")
        found[f"{name}image_violation"] = Measured(off, "pixels")
    return found


def line_sums(side: int) -> np.ndarray:
    """The matrix that adds the pixels of a square image along lines in every direction, (lines, pixels)."""
    row, column = np.divmod(np.arange(side * side), side)
    keys = [p * row + q * column for p, q in DIRECTIONS]
    return np.array([(key == value).astype(np.float64) for key in keys for value in np.unique(key)])


def descended(matrix: np.ndarray, sums: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Flips the pixel that lowers the squared error most, as long as one does."""
    image, squares = image.copy(), np.square(matrix).sum(axis=0)
    while True:
        flip = 1 - 2 * image
        gain = 2 * flip * (matrix.T @ (matrix @ image - sums)) + squares
        at = int(gain.argmin())
        if gain[at] >= -1e-9:
            return image
        image[at] += flip[at]


def outputs(size: Size, seed: int, rng: np.random.Generator) -> dict[str, Measured | float]:
    """The largest error of each row's output over the row's spread of outputs, mean over rows."""
    count, scheme = int(SIZES[size]["inputs"]), Scheme.parse("int3-g64")
    encoder = SentenceEncoder(int(SIZES[size]["texts"]), 0, seed, (2,))
    read = inputs_of(encoder, ("encoder.layer.2.attention.self.query", "encoder.layer.2.intermediate.dense"))
    found: dict[str, list[float]] = {}
    for name, rows in read.items():
        chosen = rng.permutation(len(rows))
        seen, unseen = rows[chosen[:count]], rows[chosen[count : 2 * count]]
        weight = encoder.weights[name][rng.choice(len(encoder.weights[name]), int(SIZES[size]["rows"]), replace=False)]
        statistics = Statistics(weight.shape[1])
        statistics.update(seen)
        stored = {
            "": min_max_rounding(weight, seen, scheme, seed=seed),
            "gptq_": gptq(weight, statistics, scheme),
            "nearest_": round_to_nearest(weight, statistics, scheme),
        }
        spread = (seen @ weight.T).std(axis=0)
        for method, tensor in stored.items():
            for where, x in (("", seen), ("unseen_", unseen)):
                worst = np.abs(x @ (weight - tensor.dequantize()).T).max(axis=0) / spread
                found.setdefault(f"{method}{where}worst_output", []).append(float(worst.mean()))
    return {name: Measured(float(np.mean(of)), "standard deviations") for name, of in found.items()}


def inputs_of(encoder: SentenceEncoder, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What some layers read on the calibration texts, padding left out."""
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for inputs in encoder.batches(encoder.calibration):
        keep = inputs["attention_mask"].bool()
        handles = [
            encoder.layers[name].register_forward_pre_hook(
                lambda _, args, name=name, keep=keep: kept[name].append(args[0][keep].numpy())
            )
            for name in names
        ]
        encoder.run(inputs)
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(rows) for name, rows in kept.items()}
