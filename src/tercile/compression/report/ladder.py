"""Two pictures of the ladder: all of it, and the end of the walk from near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tercile.drawing import Scale, chart, element, line, log_ticks, path, ticks
from tercile.wording import bound, loss, plain, size

_FLOOR = 1e-4  # losses below this share of the promise are drawn on the lower edge
_NEAR = 10  # rungs at the end of the walk that are shown from near

Rung = Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """Where things are on one of the pictures."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: Scale
    y: Scale


def ladder_chart(certificate: Mapping[str, Any], details: Mapping[str, Any], *, narrow: bool) -> Markup:
    """Every rung by size (to the right) and loss (upwards, by factors); the promise and the chosen rung.

    Parameters
    ----------
    certificate, details
        As `read` gives them.
    narrow
        For a telephone: fewer pixels, so that the words keep their size.

    Returns
    -------
    Markup
        One ``<svg>``.
    """
    rungs: Sequence[Rung] = details["ladder"]
    promise = certificate["max_loss"]
    keys = ("predicted_loss", "selection_loss", "risk", "bound")
    losses = [rung[key] for rung in rungs for key in keys if rung.get(key)] + [promise]
    low, high = max(min(losses), promise * _FLOOR) / 1.4, max(losses) * 1.4
    sizes = [rung["nbytes"] for rung in rungs]
    room = 0.04 * (max(sizes) - min(sizes)) or 0.1 * max(sizes)
    frame = _frame(min(sizes) - room, max(sizes) + room, low, high, narrow=narrow, log=True)
    unit, one = ("MB", 1e6) if max(sizes) >= 1e6 else ("kB", 1e3)
    nothing = any(rung.get(key) == 0 for rung in rungs for key in keys)
    levels = [tick for tick in log_ticks(low, high) if not nothing or frame.y(tick) < frame.bottom - 16]
    parts = _backdrop(frame, promise, levels, narrow, f"size of the model, {unit}")
    for tick in ticks(frame.x.low / one, frame.x.high / one, 5 if narrow else 9):
        at = frame.x(tick * one)
        parts.append(line(at, frame.bottom, at, frame.bottom + 5, "axis"))
        parts.append(element("text", plain(tick), x=at, y=frame.bottom + 20, css="tick middle"))
    if nothing:
        # There is no zero on a scale of factors: what lost nothing stands on the lower edge.
        parts.append(element("text", "0", x=frame.left - 8, y=frame.bottom + 4, css="tick end halo"))
    predicted = [rung for rung in rungs if rung.get("predicted_loss") is not None]
    parts.append(path([(frame.x(r["nbytes"]), frame.y(r["predicted_loss"])) for r in predicted], "predicted"))
    for rung in rungs:
        if rung.get("selection_loss") is not None:
            seen = rung["selection_loss"]
            tip = element("title", f"{_name(rung)}: {loss(seen)} on the selection units")
            parts.append(element("circle", tip, cx=frame.x(rung["nbytes"]), cy=frame.y(seen), r=4.5, css="selection"))
    places = {step["rung"]: frame.x(step["nbytes"]) for step in certificate["walk"]}
    parts += _tested(certificate["walk"], places, frame)
    parts += _mark_chosen(certificate, places, frame)
    passed = sum(bool(step["certified"]) for step in certificate["walk"])
    said = (
        f"Chart of {len(rungs)} candidates, {size(max(sizes))} to {size(min(sizes))}, and their losses. "
        f"{len(certificate['walk'])} were tested and {passed} passed. Chosen: rung {certificate['rung']}. "
        "The table below has every number."
    )
    return chart(frame.width, frame.height, said, parts)


def walk_chart(certificate: Mapping[str, Any], *, narrow: bool) -> Markup:
    """The last rungs of the walk, with losses on an even scale: how far each bound is from the promise.

    Parameters
    ----------
    certificate
        As `read` gives it.
    narrow
        For a telephone.

    Returns
    -------
    Markup
        One ``<svg>``.
    """
    steps: Sequence[Rung] = certificate["walk"][-_NEAR:]
    promise = certificate["max_loss"]
    values = [step[key] for step in steps for key in ("risk", "bound")] + [promise]
    room = 0.12 * (max(values) - min(values)) or 0.1 * promise
    low, high = max(min(values) - room, 0.0), max(values) + room
    frame = _frame(-0.5, len(steps) - 0.5, low, high, narrow=narrow, log=False)
    places = {step["rung"]: frame.x(number) for number, step in enumerate(reversed(steps))}
    parts = _backdrop(frame, promise, ticks(low, high, 6), narrow, "rung" if narrow else "rung and its size")
    for step in steps:
        at, words = (
            places[step["rung"]],
            f"{step['rung']}" if narrow else f"{step['rung']}: {size(step['nbytes'])}",
        )
        parts.append(element("text", words, x=at, y=frame.bottom + 20, css="tick middle"))
    parts += _tested(steps, places, frame)
    parts += _mark_chosen(certificate, places, frame)
    told = "; ".join(
        f"{_name(step)}: seen {loss(step['risk'])}, at most {bound(step['bound'])}, "
        f"{'passed' if step['certified'] else 'failed'}"
        for step in steps
    )
    return chart(frame.width, frame.height, f"The end of the walk. {told}.", parts)


def _frame(first: float, last: float, low: float, high: float, *, narrow: bool, log: bool) -> Frame:
    width, height = (360.0, 330.0 if log else 280.0) if narrow else (1000.0, 420.0 if log else 330.0)
    left, right, top, bottom = (56.0, 14.0, 46.0, 48.0) if narrow else (70.0, 24.0, 46.0, 54.0)
    right, bottom = width - right, height - bottom
    x, y = Scale(first, last, left, right), Scale(low, high, bottom, top, log=log)
    return Frame(width, height, left, right, top, bottom, x, y)


def _backdrop(frame: Frame, promise: float, levels: Sequence[float], narrow: bool, name: str) -> list[Markup]:
    """Axes, grid, what is allowed, and the words around them."""
    left, right, bottom, y = frame.left, frame.right, frame.bottom, frame.y
    shade = {"x": left, "y": y(promise), "width": right - left, "height": bottom - y(promise)}
    parts = [element("rect", **shade, css="kept")]
    for tick in levels:
        parts.append(line(left, y(tick), right, y(tick), "grid"))
        parts.append(element("text", plain(tick), x=left - 8, y=y(tick) + 4, css="tick end"))
    told = "← fewer bits" if narrow else "← down the ladder: fewer and fewer bits"
    allowed = {"x": right - 4, "y": y(promise) - 7, "css": "promise-word halo end"}
    return [
        *parts,
        line(left, bottom, right, bottom, "axis"),
        element("text", told, x=left, y=frame.height - 8, css="name"),
        element("text", name, x=right, y=frame.height - 8, css="name end"),
        element("text", "loss", x=left - 8, y=frame.top - 14, css="name end"),
        line(left, y(promise), right, y(promise), "promise"),
        element("text", f"allowed: {plain(promise)}", **allowed),
    ]


def _tested(steps: Sequence[Rung], places: Mapping[int, float], frame: Frame) -> list[Markup]:
    """What was measured on the certification units, with its bound: a dot if it passed, else a cross."""
    parts = []
    for step in steps:
        at, risk, above = places[step["rung"]], frame.y(step["risk"]), frame.y(step["bound"])
        kind = "passed" if step["certified"] else "failed"
        told = f"{_name(step)}: seen {loss(step['risk'])}, at most {bound(step['bound'])}, {kind}"
        whisker = [line(at, risk, at, above, kind), line(at - 5, above, at + 5, above, kind)]
        if step["certified"]:
            mark = element("circle", cx=at, cy=risk, r=4.5, css="passed dot")
        else:
            mark = path([(at - 5, risk - 5), (at + 5, risk + 5)], kind)
            mark += path([(at - 5, risk + 5), (at + 5, risk - 5)], kind)
        parts.append(element("g", element("title", told), *whisker, mark))
    return parts


def _mark_chosen(certificate: Mapping[str, Any], places: Mapping[int, float], frame: Frame) -> list[Markup]:
    chosen = next(step for step in certificate["walk"] if step["rung"] == certificate["rung"])
    at = places[chosen["rung"]]
    far = at > (frame.left + frame.right) / 2
    words = f"yours: rung {chosen['rung']}, {size(chosen['nbytes'])}"
    css = f"chosen-word{' end' if far else ''}"
    return [
        line(at, frame.top - 24, at, frame.bottom, "chosen"),
        element("text", words, x=at + (-6 if far else 6), y=frame.top - 14, css=css),
        element("circle", cx=at, cy=frame.y(chosen["risk"]), r=9.0, css="ring"),
    ]


def _name(rung: Rung) -> str:
    return f"rung {rung['rung']}, {size(rung['nbytes'])}"
