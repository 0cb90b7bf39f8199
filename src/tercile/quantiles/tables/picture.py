"""A picture of the distributions: the share at or below each value, with bounds, a curve for each group."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercile.quantiles.tables.columns import Key
from tercile.quantiles.tables.grouped import GroupedQuantiles

_MOST_CURVES = 8
_TICKS = [0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999]
# Every share in the middle, and ever finer towards both ends, as the axis of shares is.
_TAIL = np.geomspace(1e-4, 0.05, 30)
_LEVELS = np.concatenate([_TAIL, np.linspace(0.06, 0.94, 89), 1.0 - _TAIL[::-1]])


def draw(table: GroupedQuantiles, path: str | Path, q: list[float] | None = None, *, confidence: float = 0.99) -> Path:
    """Write a picture of the columns of a table: one panel for each, one curve for each group.

    Parameters
    ----------
    table : what to draw; of many groups the largest eight. path : a file that ends in .svg, .png or .pdf.
    q : quantiles to mark. confidence : of the bands around the curves.

    Raises
    ------
    ValueError : another ending, or nothing to draw. ImportError : matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"path must end in .svg, .png or .pdf, got {path}")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullLocator
    except ImportError:
        raise ImportError("matplotlib is not installed; run: pip install matplotlib") from None
    figure = Figure(figsize=(8.5, 4.4 * len(table.columns)), layout="constrained")
    axes = figure.subplots(len(table.columns), 1, squeeze=False)[:, 0]
    for axis, column in zip(axes, table.columns):
        shown = _largest(table, column)
        if not shown:
            raise ValueError(f"column {column!r} has no values to draw")
        sketches = [table.sketch(key, column) for key in shown]
        for key, sketch in zip(shown, sketches):
            values = np.asarray(sketch.quantile(_LEVELS), dtype=np.float64)
            low, high = (np.asarray(edge, dtype=np.float64) for edge in sketch.quantile_bounds(_LEVELS, confidence))
            name = ", ".join("(none)" if part is None else str(part) for part in key) or "all rows"
            (line,) = axis.plot(values, _LEVELS, linewidth=1.4, label=f"{name} ({sketch.count:,.0f})")
            axis.fill_betweenx(_LEVELS, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        edges = np.array([sketch.quantile([_TICKS[0] / 2, 1 - _TICKS[0] / 2]) for sketch in sketches], dtype=np.float64)
        if np.isfinite(edges).all() and edges.min() > 0 and edges.max() > 50 * edges.min():
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if np.isfinite(edges).all():
            axis.set_xlim(edges.min(), edges.max())  # the bands of the last points may reach to the ends of the data
        for level in q or []:
            if _TICKS[0] / 2 < level < 1 - _TICKS[0] / 2:
                axis.axhline(level, color="0.4", linewidth=0.8, linestyle=":")
                axis.annotate(
                    f"q={level:g}", (1.005, level), xycoords=("axes fraction", "data"), fontsize=7, va="center"
                )
        axis.set_xlabel(column)
        axis.set_ylabel("share at or below")
        axis.set_yscale("logit")
        axis.set_ylim(_TICKS[0] / 2, 1 - _TICKS[0] / 2)
        axis.yaxis.set_major_locator(FixedLocator(_TICKS))
        axis.yaxis.set_major_formatter(lambda share, _: f"{share:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.25)
        rest = len(table.groups) - len(shown)
        title = ", ".join(table.by) + (f" (largest {len(shown)} of {len(table.groups)})" if rest else "")
        axis.legend(title=title or None, fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.07, 1.0))
    axes[0].set_title(f"{table.rows:,} rows; bands hold at {confidence:.0%} for any one point", fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _largest(table: GroupedQuantiles, column: str) -> list[Key]:
    filled = [key for key in table.groups if table.sketch(key, column).count]
    largest = sorted(filled, key=lambda key: -table.sketch(key, column).count)[:_MOST_CURVES]
    return [key for key in filled if key in largest]
