"""A histogram drawn with the band that its distribution function lies in for sure."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tercile.quantiles.sketch.histograms.histogram import Histogram

_BAR, _BAND, _LINE, _GAP = "#7da7c9", "#f2d98d", "#1f4e79", "#b3261e"


def draw(histogram: Histogram, path: str | Path | None = None, *, log: bool = False) -> Any:
    """Draw the density, and below it the CDF inside its bounds, the widest of them marked.

    Parameters
    ----------
    histogram : Histogram with something in it.
    path : where to save it (its ending says how: .svg, .png, .pdf), or None.
    log : a logarithmic axis for the values, which must then be positive.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError : matplotlib is not installed. ValueError : empty, or log with breaks that are not positive.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("drawing needs matplotlib; pip install matplotlib") from None
    breaks, cumulative = histogram.breaks, histogram.cumulative
    if log and breaks[0] <= 0.0:
        raise ValueError(f"log needs breaks above 0, got {breaks[0]:g}; take the positive part with subset")
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    # On a logarithmic axis an area is a share only if heights are shares of the logarithm.
    heights = histogram.counts / histogram.count / np.diff(np.log10(breaks) if log else breaks)
    upper.stairs(heights, breaks, fill=True, color=_BAR)
    upper.set_ylabel("share a decade" if log else "density")
    upper.set_title(
        f"{histogram.name or 'histogram'}: {histogram.count:,} in {histogram.counts.size} bins", fontsize=10
    )

    ends, below, above = np.repeat(breaks, 2)[1:-1], np.repeat(cumulative[:-1], 2), np.repeat(cumulative[1:], 2)
    lower.fill_between(ends, below, above, color=_BAND, label="where the data's CDF lies for sure")
    grid = np.unique(np.concatenate([np.linspace(a, b, 9) for a, b in pairwise(breaks)]))  # a log axis bends lines
    lower.plot(grid, histogram.cdf(grid), color=_LINE, linewidth=1.2, label="evenly in each bin")
    widest = int(histogram.counts.argmax())
    at = np.sqrt(breaks[widest] * breaks[widest + 1]) if log else histogram.mids[widest]
    said = f"widest: {histogram.cdf_error:.3g}; area: {histogram.area_error:.3g} of the range"
    lower.plot([at, at], [cumulative[widest], cumulative[widest + 1]], color=_GAP, linewidth=2.0, label=said)
    lower.set_ylim(0.0, 1.0)
    lower.set_ylabel("share at or below")
    lower.legend(loc="lower right", fontsize=8, frameon=False)
    if log:
        lower.set_xscale("log")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        figure.savefig(path)
    return figure
