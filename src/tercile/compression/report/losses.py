"""The picture of the losses: how they are spread over the units that certified the model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from tercile.drawing import Scale, chart, element, line, ticks
from tercile.wording import loss, percent, plain

LEVELS = (0.5, 0.9, 0.95, 0.99)
_ROW = 19.0


def quantiles(losses: np.ndarray) -> list[tuple[float, float]]:
    """Level and the loss that this share of the units stays at or below (a loss that did occur).

    >>> quantiles(np.array([0.1, 0.2, 0.3, 0.4]))[0]
    (0.5, 0.2)
    """
    return [(level, float(np.quantile(losses, level, method="inverted_cdf"))) for level in LEVELS]


def is_right_or_wrong(losses: np.ndarray) -> bool:
    """Whether a loss is only ever 0 or 1, as for a classifier's disagreement.

    >>> is_right_or_wrong(np.array([0.0, 1.0])), is_right_or_wrong(np.array([0.0, 0.5]))
    (True, False)
    """
    return bool(np.isin(losses, (0.0, 1.0)).all())


def loss_chart(certificate: Mapping[str, Any], losses: np.ndarray, *, narrow: bool) -> Markup:
    """A histogram with the mean, four quantiles and the promise.

    Parameters
    ----------
    certificate
        As `read` gives it.
    losses : ndarray of float, shape (units,)
        In [0, 1], of the chosen rung on the certification units.
    narrow
        For a telephone.

    Returns
    -------
    Markup
        One ``<svg>``.
    """
    width = 360.0 if narrow else 1000.0
    left, right = (44.0, 14.0) if narrow else (70.0, 24.0)
    promise = certificate["max_loss"]
    levels = quantiles(losses)
    quantile = certificate.get("quantile")
    form = "{}: {}" if narrow else "{} of units: {} or less"
    marks = [(value, form.format(percent(level), loss(value)), "level") for level, value in levels]
    marks.append((float(losses.mean()), f"mean: {loss(float(losses.mean()))}", "mean"))
    whose = "the mean" if quantile is None else f"the {percent(quantile)} quantile"
    marks.append((promise, f"allowed{'' if narrow else f' for {whose}'}: {plain(promise)}", "promise"))
    marks.sort()
    top, bottom = 14 + _ROW * len(marks), 50.0
    height = top + (150.0 if narrow else 200.0) + bottom

    high = 1.2 * max(levels[-1][1], promise) or 1.0
    count = 24 if narrow else 48
    heights, edges = np.histogram(losses, bins=count, range=(0.0, high))
    x = Scale(0.0, high, left, width - right)
    y = Scale(0.0, float(max(heights.max(), 1)), height - bottom, top)

    parts: list[Markup] = []
    for tick in ticks(0.0, y.high, 5):
        if tick == int(tick):
            parts.append(line(left, y(tick), width - right, y(tick), "grid"))
            parts.append(element("text", plain(tick), x=left - 8, y=y(tick) + 4, css="tick end"))
    for number, (start, end) in zip(heights, pairwise(edges)):
        if number:
            tip = element("title", f"{number} units lose {loss(start)} to {loss(end)}")
            parts.append(
                element(
                    "rect",
                    tip,
                    x=x(start) + 0.5,
                    y=y(number),
                    width=max(x(end) - x(start) - 1, 0.5),
                    height=height - bottom - y(number),
                    css="bar",
                )
            )
    for tick in ticks(0.0, high, 5 if narrow else 9):
        parts.append(line(x(tick), height - bottom, x(tick), height - bottom + 5, "axis"))
        parts.append(element("text", plain(tick), x=x(tick), y=height - bottom + 20, css="tick middle"))
    parts.append(line(left, height - bottom, width - right, height - bottom, "axis"))
    beyond = int((losses > high).sum())
    if beyond:
        told = f"{beyond} more, up to {loss(float(losses.max()))} →"
        parts.append(element("text", told, x=width - right, y=height - bottom - 26, css="name end halo"))
    parts.append(element("text", "units", x=left - 8, y=top - 10, css="name end"))
    parts.append(element("text", "loss of one unit", x=width - right, y=height - 10, css="name end"))
    # Marks go from left to right and their words from top to bottom, so no line crosses a word to its right.
    for row, (value, words, kind) in enumerate(marks):
        at, level = x(value), 16 + _ROW * row
        room_right = width - right - at > 7.5 * len(words)
        parts.append(line(at, level - 10, at, height - bottom, kind))
        parts.append(
            element(
                "text",
                words,
                x=at + (6 if room_right else -6),
                y=level,
                css=f"{kind}-word halo{'' if room_right else ' end'}",
            )
        )
    said = f"Histogram of the losses of {len(losses)} units. " + "; ".join(words for _, words, _ in marks) + "."
    return chart(width, height, said, parts)
