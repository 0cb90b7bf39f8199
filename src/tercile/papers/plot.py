"""The picture beside an evidence file: each check's numbers, seed by seed, against their limit."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from tercile.papers.evidence import Evidence
from tercile.papers.expression import Expression
from tercile.papers.verdict import CheckResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, BASELINE, LIMIT, GOOD = "#0b6e99", "#8a8f98", "#b3541e", "#e4f2ea"
VERDICT_COLOUR = {"holds": "#2d7d46", "partly": "#a86b00", "not here": "#a03030"}


def plot_svg(evidence: Evidence) -> str:
    """An SVG with a panel for each check: measured values, baselines in its limit, the limit, its good side.

    Parameters
    ----------
    evidence
        With at least one measured quantity.

    Returns
    -------
    str
        SVG text of some 15 kB, its words as text; the same bytes for the same evidence.

    Raises
    ------
    ImportError
        matplotlib is not installed (``pip install "tercile[torch]"`` brings it).
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    results = evidence.judge().checks
    seeds = len(evidence.seed)
    panel = 0.75 + 0.22 * max(seeds, 2)
    top, bottom = 1.15, 0.35
    height = top + bottom + panel * len(results) + 0.62 * (len(results) - 1)
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": evidence.slug,
        "font.family": ["DejaVu Sans", "sans-serif"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.0, height), facecolor="white")
        FigureCanvasSVG(figure)
        grid = figure.add_gridspec(
            len(results), 1, left=0.06, right=0.97, top=1 - top / height, bottom=(bottom + 0.3) / height,
            hspace=0.95,
        )  # fmt: skip
        title = textwrap.shorten(f"{evidence.nr}. {evidence.title}", 78, placeholder=" ...")
        figure.text(0.06, 1 - 0.30 / height, title, size=10.5, weight="bold")
        figure.text(
            0.06,
            1 - 0.56 / height,
            evidence.verdict,
            size=10,
            weight="bold",
            color=VERDICT_COLOUR[evidence.verdict],
        )
        about = f"{evidence.size} run, {seeds} seed{'s' if seeds > 1 else ''}; the shaded side passes"
        figure.text(0.97, 1 - 0.56 / height, about, size=8, color="#555555", ha="right")
        for row, result in enumerate(results):
            _panel(figure.add_subplot(grid[row]), evidence, result)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _panel(axes: Axes, evidence: Evidence, result: CheckResult) -> None:
    check = result.check
    rows = list(range(len(evidence.seed)))
    baselines = sorted(name for name in Expression(check.text).names if name != check.quantity)
    numbers = [*result.values, *result.limits]
    ours = evidence.measured[check.quantity]
    for bound in (ours.lower, ours.upper):
        numbers += bound or ()
    for name in baselines:
        numbers += evidence.measured[name].values
    low, high = min(numbers), max(numbers)
    margin = 0.08 * ((high - low) or abs(high) or 1.0)
    low, high = low - margin, high + margin

    # The limit is a step line: it differs from seed to seed where it is a multiple of a baseline.
    edges = [edge for row in rows for edge in (row - 0.5, row + 0.5)]
    limits = [limit for limit in result.limits for _ in range(2)]
    axes.fill_betweenx(edges, limits, low if check.at_most is not None else high, color=GOOD, linewidth=0)
    axes.plot(limits, edges, color=LIMIT, linewidth=1.4, label="limit")
    for index, name in enumerate(baselines):
        marker = "sD^v<>"[index % 6]
        values = evidence.measured[name].values
        axes.plot(values, rows, marker, color=BASELINE, markersize=5.5, label=name.replace("_", " "))
    if ours.lower and ours.upper:
        axes.hlines(rows, ours.lower, ours.upper, color=OURS, linewidth=1.6)
    axes.plot(result.values, rows, "o", color=OURS, markersize=6.5, label=check.quantity.replace("_", " "))

    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(rows, [str(seed) for seed in evidence.seed], size=7.5, color="#555555")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("seed", size=7.5, color="#555555")
    axes.set_xlabel(ours.unit or check.quantity.replace("_", " "), size=8.5)
    passed = f"passes on {sum(result.passed)} of {len(rows)}"
    handles, labels = axes.get_legend_handles_labels()
    lines = -(-len(labels) // 4)
    said = f"{textwrap.shorten(str(check), 88, placeholder=' ...')}, {passed}"
    axes.set_title(said, size=8.5, loc="left", pad=6 + 11 * lines)
    axes.legend(
        handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(0.0, 0.98), ncols=4, frameon=False,
        fontsize=7.5, borderpad=0.1, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip
