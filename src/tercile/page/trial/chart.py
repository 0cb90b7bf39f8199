"""The ladder of one run, on axes that are the same for all runs, so that things move as the slider does."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tercile.drawing import Scale, chart, element, line, path, ticks
from tercile.page.trial.runs import Run, Rung
from tercile.wording import bound, loss, plain, size

LEVELS = (0.0002, 0.001, 0.005, 0.02, 0.1, 0.5)


def run_chart(run: Run, runs: Sequence[Run], *, narrow: bool = False) -> Markup:
    """Every candidate by its size and its loss, what is allowed, what was tested, and which one was chosen.

    Parameters
    ----------
    run
        Which is drawn.
    runs
        All that the slider reaches; they set the axes.
    narrow
        For a telephone.

    Returns
    -------
    Markup
        One ``<svg>``.
    """
    width, height = (360.0, 330.0) if narrow else (916.0, 380.0)
    left, right, top, bottom = 52.0, width - 12, 34.0, height - 46
    sizes = [rung.nbytes for one in runs for rung in one.ladder]
    losses = [
        value for one in runs for rung in one.ladder for value in (rung.predicted, rung.risk, rung.bound) if value
    ]
    x = Scale(min(sizes) * 0.96, max(sizes) * 1.03, left, right, log=True)
    y = Scale(min(losses) / 1.3, max([*losses, *(one.max_loss for one in runs)]) * 1.3, bottom, top, log=True)
    allowed = y(run.max_loss)
    parts = [element("rect", x=left, y=allowed, width=right - left, height=bottom - allowed, css="allowed")]
    for level in LEVELS:
        if y.low <= level <= y.high:
            parts.append(line(left, y(level), right, y(level), "hair"))
            parts.append(element("text", plain(level), x=left - 8, y=y(level) + 4, css="end"))
    unit, one = ("MB", 1e6) if x.high >= 1e6 else ("kB", 1e3)
    for tick in ticks(x.low / one, x.high / one, 4 if narrow else 9):
        at = x(tick * one)
        parts.append(line(at, bottom, at, bottom + 5, "axis"))
        parts.append(element("text", plain(tick), x=at, y=bottom + 20, css="middle"))
    parts.append(line(left, bottom, right, bottom, "axis"))
    parts.append(element("text", f"size of the weights, {unit}", x=right, y=height - 6, css="end"))
    parts.append(element("text", "loss", x=left - 8, y=16.0, css="end"))
    expected = [(x(rung.nbytes), y(rung.predicted)) for rung in run.ladder if rung.predicted]
    parts.append(path(expected, "expected"))
    parts += [element("circle", cx=across, cy=down, r=1.8, css="rung") for across, down in expected]
    parts.append(line(left, allowed, right, allowed, "limit"))
    parts.append(element("text", f"allowed: {plain(run.max_loss)}", x=right, y=allowed - 8, css="limit-word end"))
    for rung in run.tested:
        parts.append(_tested(rung, x, y))
    chosen = next(rung for rung in run.ladder if rung.rung == run.rung)
    at = x(chosen.nbytes)
    parts.append(line(at, top - 8, at, bottom, "yours"))
    far = at > (left + right) / 2
    told = {"x": at + (-8 if far else 8), "y": top - 12, "css": f"strong{' end' if far else ''}"}
    parts.append(element("text", "the smallest that passed", **told))
    parts.append(element("circle", cx=at, cy=y(chosen.risk or y.low), r=9.0, css="ringed"))
    passed = sum(bool(rung.certified) for rung in run.tested)
    said = (
        f"Chart of {len(run.ladder)} candidates by size and loss. At most {plain(run.max_loss)} is allowed. "
        f"{passed} of {len(run.tested)} tested candidates passed; the smallest of them takes {size(run.after)}."
    )
    return chart(width, height, said, parts)


def _tested(rung: Rung, x: Scale, y: Scale) -> Markup:
    """A dot at what was seen with a bar up to its bound; a cross where that is too high."""
    assert rung.risk is not None and rung.bound is not None
    at, risk, above = x(rung.nbytes), y(rung.risk), y(rung.bound)
    css = "whisker passes" if rung.certified else "whisker fails"
    passed = "passed" if rung.certified else "failed"
    told = f"{size(rung.nbytes)}: seen {loss(rung.risk)}, at most {bound(rung.bound)}, {passed}"
    parts = [element("title", told), line(at, risk, at, above, css), line(at - 5, above, at + 5, above, css)]
    if rung.certified:
        parts.append(element("circle", cx=at, cy=risk, r=4.5, css="dot passes"))
    else:
        parts.append(path([(at - 5, risk - 5), (at + 5, risk + 5)], "cross"))
        parts.append(path([(at - 5, risk + 5), (at + 5, risk - 5)], "cross"))
    return element("g", *parts)
