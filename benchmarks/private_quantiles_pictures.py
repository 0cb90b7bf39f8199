"""Draws docs/guide/figures/private_quantiles.svg: what a private quantile, many of them and a private mean look like.

    python benchmarks/private_quantiles_pictures.py

Takes some twenty seconds. Everything is drawn from flights (`tercile.papers.flights`) and fixed seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tercile.papers.flights import flights, rank_error
from tercile.quantiles.private import (
    Domain,
    private_histogram,
    private_quantile,
    private_quantiles,
    subset_optimal_mean,
)

FILE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "figures" / "private_quantiles.svg"
OURS, OTHER, LIGHT = "#0b6e99", "#b3541e", "#c9d7de"


def releases(axis: Any, delays: np.ndarray) -> None:
    """The median delay of one day's flights, released two hundred times at two budgets."""
    axis.hist(delays, np.arange(-60, 121, 5), color=LIGHT, density=True, label="delays of 900 flights")
    again = axis.twinx()
    for epsilon, colour in ((0.03, OTHER), (0.1, OURS)):
        found = [
            private_quantile(delays, 0.5, Domain(-1000, 1000), epsilon=epsilon, random_state=s) for s in range(200)
        ]
        again.hist(
            found, np.linspace(-20, 20, 81), histtype="step", color=colour, label=f"200 medians, epsilon {epsilon:g}"
        )
    again.set_yticks([])
    axis.set(title="One private median", xlabel="minutes late", xlim=(-60, 120), yticks=[])
    axis.set_ylim(0, axis.get_ylim()[1] * 1.5)
    again.set_ylim(0, again.get_ylim()[1] * 1.6)
    handles = [side.get_legend_handles_labels() for side in (axis, again)]
    axis.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], fontsize=7.5, frameon=False)


def routes(axis: Any, times: np.ndarray) -> None:
    """Worst error in rank of m quantiles, by recursion and by density."""
    rng = np.random.default_rng(0)
    counts = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    domain, ordered = Domain(0, 1000, 1), np.sort(times)
    errors: dict[str, list[float]] = {"recursion": [], "density": []}
    for m in counts:
        q = np.arange(1, m + 1) / (m + 1)
        worst: dict[str, list[float]] = {name: [] for name in errors}
        for seed in range(6):
            x = rng.choice(times, 10_000, replace=False)
            recursive = private_quantiles(x, q, domain, epsilon=0.1, random_state=seed)
            density = private_histogram(x, domain, epsilon=0.1, random_state=seed).quantile(q)
            for name, found in (("recursion", recursive), ("density", density)):
                worst[name].append(float(rank_error(ordered, found, q).max()))
        for name in errors:
            errors[name].append(float(np.mean(worst[name])))
    for name, colour in (("recursion", OURS), ("density", OTHER)):
        axis.loglog(counts, errors[name], "o-", color=colour, markersize=3.5, label=name)
    axis.set(title="Many quantiles of 10,000 times, epsilon 0.1", xlabel="how many", ylabel="worst error in rank")
    axis.legend(fontsize=7.5, frameon=False)


def means(axis: Any, delays: np.ndarray) -> None:
    """Error of a mean as the domain grows past what anybody needs."""
    x = np.random.default_rng(1).choice(delays, 10_000, replace=False)
    widths = [2e3, 2e4, 2e5, 2e6, 2e7]
    ours = [
        np.median(
            [abs(subset_optimal_mean(x, (-w / 2, w / 2), epsilon=1.0, random_state=s) - x.mean()) for s in range(7)]
        )
        for w in widths
    ]
    # The median size of Laplace noise is log(2) times its scale.
    axis.loglog(
        widths, np.log(2) * np.array(widths) / x.size, "s--", color=OTHER, markersize=3.5, label="Laplace noise"
    )
    axis.loglog(widths, ours, "o-", color=OURS, markersize=3.5, label="subset_optimal_mean")
    axis.set(
        title="Mean delay of 10,000 flights, epsilon 1", xlabel="width of the domain, minutes", ylabel="median error"
    )
    axis.legend(fontsize=7.5, frameon=False)


def main() -> None:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    table = flights()
    delays, times = (table[name].astype(np.float64) for name in ("arrival_delay", "air_time"))
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "private",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(12.5, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        left, middle, right = figure.subplots(1, 3)
        releases(left, delays[table["day"] == 40])
        routes(middle, times)
        means(right, delays)
        figure.savefig(FILE, metadata={"Date": None, "Creator": None})
    print(FILE)


if __name__ == "__main__":
    main()
