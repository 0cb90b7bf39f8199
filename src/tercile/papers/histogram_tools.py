"""Histograms of a year of flights: merging, information loss, quantiles, distances and the R package's message."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon

from tercile.papers import Check, Size, paper
from tercile.papers.planned_flights import planned_flights
from tercile.quantiles.sketch.histograms import (
    Histogram,
    earth_movers,
    earth_movers_bounds,
    from_message,
    jeffreys,
    kolmogorov_smirnov,
    kolmogorov_smirnov_bounds,
    merge,
    to_message,
)

PAPER = paper("histogram_tools", authors="Malhotra", year=2025, source="arXiv:2504.00001")
MEASURED_ON = (
    "delay, distance, scheduled hour and five weather columns of flights from New York City in 2013, in 20 to 1,000 "
    "bins of equal and of unequal width, closed on either side: merged shards against one pass, true CDF and quantiles "
    "against their bounds, rank errors of quantiles as a share of the count"
)
BASELINE = (
    "the values themselves (numpy, scipy); for quantiles the R package's way, the middle of the bin; for bytes the "
    "protobuf package with the R package's schema"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"flights": 8_000, "shards": 100, "bins": "20 and 200"},
    "full": {
        "flights": 100_000,
        "shards": 1000,
        "bins": "20, 200 and 1,000",
        "seeds": "which flights, and where bins end",
    },
}
SEEDS = (0, 1, 2)
USED = ("hour", "miles", "temp", "humid", "wind_speed", "pressure", "precip")

RULE = (
    Check("shards_differ", at_most="0"),
    Check("cdf_outside_bounds", at_most="0"),
    Check("quantiles_outside_bounds", at_most="0"),
    Check("means_outside_bounds", at_most="0"),
    Check("distances_outside_bounds", at_most="0"),
    Check("loss_beyond_extremes", at_most="1e-9"),
    Check("cdf_error_in_stated", at_most="1"),
    Check("quantile_error", at_most="middle_quantile_error"),
    Check("distance_error", at_most="1e-9"),
    Check("messages_differ", at_most="0"),
)


def experiment(size: Size, seed: int) -> dict[str, float]:
    """Every column in every kind of bins, on one draw of flights."""
    rng = np.random.default_rng(seed)
    names, table, delay = planned_flights()
    rows = rng.permutation(len(table))[: int(SIZES[size]["flights"])]
    columns = [delay[rows], *(table[rows, names.index(name)].astype(np.float64) for name in USED)]
    bins = (20, 200) if size == "quick" else (20, 200, 1000)
    found: list[dict[str, float]] = []
    for column in columns:
        values = column[np.isfinite(column)]
        for count in bins:
            for breaks in (np.linspace(values.min(), values.max(), count + 1), _uneven(values, count, rng)):
                for closed in ("left", "right"):
                    found.append(_measure(values, breaks, closed, int(SIZES[size]["shards"]), rng))
    largest = {name: max(one[name] for one in found) for name in found[0]}
    for name in ("quantile_error", "middle_quantile_error"):
        largest[name] = float(np.mean([one[name] for one in found]))
    return largest


def _uneven(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Breaks drawn from the values, so that many values lie on one."""
    inner = rng.choice(values, count)
    return np.unique(np.concatenate([[values.min()], inner, [values.max()]]))


def _measure(
    values: np.ndarray, breaks: np.ndarray, closed: str, shards: int, rng: np.random.Generator
) -> dict[str, float]:
    whole = Histogram.from_values(values, breaks, closed=closed, name="flights")  # type: ignore[arg-type]
    parts = [Histogram.from_values(part, breaks, closed=closed) for part in np.array_split(values, shards)]  # type: ignore[arg-type]
    merged = merge(parts, "flights")

    ordered = np.sort(values)
    points = np.concatenate([breaks, whole.mids, rng.choice(values, 500)])
    truth = np.searchsorted(ordered, points, side="right") / values.size
    low, high = whole.cdf_bounds(points)
    q = np.linspace(0.005, 0.995, 199)
    wanted = ordered[np.searchsorted(np.arange(1, values.size + 1) / values.size, q)]
    least, most = whole.quantile_bounds(q)
    mean = whole.mean_bounds()
    # The data sets at both ends of the bins have these very counts: what R calls EMDCC is how far they are apart.
    apart = stats.wasserstein_distance(breaks[:-1], breaks[1:], whole.counts, whole.counts) / np.ptp(breaks)
    return {
        "shards_differ": float(np.abs(merged.counts - whole.counts).max() + (merged != whole)),
        "cdf_outside_bounds": float(((truth < low - 1e-12) | (truth > high + 1e-12)).sum()),
        "quantiles_outside_bounds": float(((wanted < least) | (wanted > most)).sum()),
        "means_outside_bounds": float(not mean[0] - 1e-9 <= values.mean() <= mean[1] + 1e-9),
        "loss_beyond_extremes": abs(whole.area_error - float(apart)),
        "cdf_error_in_stated": float(np.abs(whole.cdf(points) - truth).max() / (whole.cdf_error + 1e-12)),
        "quantile_error": _rank_error(ordered, whole.quantile(q), q),
        "middle_quantile_error": _rank_error(ordered, _middles(whole, q), q),
        **_distances(values, breaks, closed),
        "messages_differ": _message_difference(whole),
    }


def _rank_error(ordered: np.ndarray, told: np.ndarray, q: np.ndarray) -> float:
    """Mean distance of q from the ranks that a value has: none where it is one of many equal ones around q."""
    below = np.searchsorted(ordered, told, side="left") / ordered.size
    upto = np.searchsorted(ordered, told, side="right") / ordered.size
    return float(np.mean(np.maximum(0.0, np.maximum(below - q, q - upto))))


def _middles(histogram: Histogram, q: np.ndarray) -> np.ndarray:
    """A quantile of the middles of the bins, weighted by their counts."""
    return histogram.mids[np.minimum(np.searchsorted(histogram.cumulative[1:], q - 1e-12), histogram.counts.size - 1)]


def _distances(values: np.ndarray, breaks: np.ndarray, closed: str) -> dict[str, float]:
    """The first third of the flights from the rest: told, bounded, and as scipy has it."""
    a, b = values[: values.size // 3], values[values.size // 3 :]
    one, other = (Histogram.from_values(part, breaks, closed=closed) for part in (a, b))  # type: ignore[arg-type]
    outside = 0
    for bounds, truth in (
        (kolmogorov_smirnov_bounds(one, other), float(stats.ks_2samp(a, b, method="asymp").statistic)),
        (earth_movers_bounds(one, other), float(stats.wasserstein_distance(a, b))),
    ):
        outside += not bounds[0] - 1e-9 <= truth <= bounds[1] + 1e-9
    # The same by other means: sums over the breaks, and the area between the curves by a fine trapezium rule.
    grid = np.unique(np.concatenate([np.linspace(lo, hi, 3) for lo, hi in itertools.pairwise(breaks)]))
    gap = np.abs(one.cdf(grid) - other.cdf(grid))
    crossings = _area(grid, one.cdf(grid) - other.cdf(grid))
    wrong = max(
        abs(kolmogorov_smirnov(one, other) - float(gap.max())),
        abs(earth_movers(one, other) - crossings) / max(crossings, 1e-12),
        abs(jeffreys(one, other) - 2.0 * float(jensenshannon(one.counts, other.counts)) ** 2),
    )
    return {"distances_outside_bounds": float(outside), "distance_error": wrong}


def _area(x: np.ndarray, y: np.ndarray) -> float:
    """The area between a line through points and zero, with a point put in wherever it crosses."""
    change = np.flatnonzero(y[:-1] * y[1:] < 0.0)
    zero = x[change] + (x[change + 1] - x[change]) * y[change] / (y[change] - y[change + 1])
    order = np.argsort(np.concatenate([x, zero]), kind="stable")
    heights = np.concatenate([y, np.zeros(zero.size)])[order]
    return float(np.trapezoid(np.abs(heights), np.concatenate([x, zero])[order]))


def _message_difference(histogram: Histogram) -> float:
    """0 where protobuf writes the same bytes and both read back the same histogram."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="histogram.proto", package="HistogramTools", syntax="proto2")
    message = file.message_type.add(name="HistogramState")
    message.field.add(name="breaks", number=1, label=field.LABEL_REPEATED, type=field.TYPE_DOUBLE)
    message.field.add(name="counts", number=2, label=field.LABEL_REPEATED, type=field.TYPE_INT32)
    message.field.add(name="name", number=3, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("HistogramTools.HistogramState"))
    theirs = kind(breaks=histogram.breaks.tolist(), counts=histogram.counts.tolist(), name=histogram.name)
    same = theirs.SerializeToString() == to_message(histogram)
    again = from_message(theirs.SerializeToString(), closed=histogram.closed)
    return float(not same) + float(again != histogram)
