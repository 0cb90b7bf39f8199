"""The page's own pictures: each check's numbers against its limit, coloured by the style sheet."""

from __future__ import annotations

import math

from markupsafe import Markup

from tercile.drawing import Scale, chart, element, line
from tercile.page.rendering import number, spoken
from tercile.papers.evidence import Evidence
from tercile.papers.expression import Expression
from tercile.papers.verdict import CheckResult

WIDTH, HEIGHT = 250.0, 34.0
#: Numbers that differ by more than this factor are drawn by powers of ten.
FAR = 30.0


def check_strip(result: CheckResult, evidence: Evidence) -> Markup:
    """One check on a line: a dot a seed, what it is compared with as rings, the limit, and the side that passes shaded.

    Parameters
    ----------
    result
        From `Evidence.judge`.
    evidence
        Holds the quantities that the limit is made of.

    Returns
    -------
    Markup
        One ``<svg>``, with everything that it shows in its label.
    """
    check = result.check
    names = sorted(name for name in Expression(check.text).names if name != check.quantity)
    others = [(name, value) for name in names for value in evidence.measured[name].values]
    values = [*result.values, *result.limits]
    # What the limit is made of may lie far off, such as a count that is divided; it is left out then.
    low, high = min(values), max(values)
    reach = 2 * ((high - low) or abs(high) or 1.0)
    others = [(name, value) for name, value in others if low - reach <= value <= high + reach]
    values += [value for _, value in others]
    x = _scale(min(values), max(values))
    middle = HEIGHT / 2
    strictest = min(result.limits) if check.at_most is not None else max(result.limits)
    start, end = (x.start, x(strictest)) if check.at_most is not None else (x(strictest), x.end)
    parts = [
        element("rect", x=start, y=6.0, width=max(end - start, 0.0), height=HEIGHT - 12, css="allowed"),
        line(x.start, middle, x.end, middle, "hair"),
    ]
    for name, value in others:
        tip = element("title", f"{spoken(name)}: {number(value)}")
        parts.append(element("circle", tip, cx=x(value), cy=middle, r=4.0, css="other"))
    for limit in sorted(set(result.limits)):
        parts.append(line(x(limit), 4.0, x(limit), HEIGHT - 4, "limit"))
    for value, passed in zip(result.values, result.passed):
        css = "dot passes" if passed else "dot fails"
        parts.append(element("circle", element("title", number(value)), cx=x(value), cy=middle, r=5.0, css=css))
    said = (
        f"{spoken(check.quantity)} by seed: {', '.join(map(number, result.values))}; limit "
        f"{'at most' if check.at_most is not None else 'at least'} {', '.join(sorted(set(map(number, result.limits))))}"
    )
    return chart(WIDTH, HEIGHT, said, parts)


def _scale(low: float, high: float) -> Scale:
    start, end = 8.0, WIDTH - 8
    if low > 0 and high / low > FAR:
        factor = (high / low) ** 0.08
        return Scale(low / factor, high * factor, start, end, log=True)
    room = 0.1 * ((high - low) or abs(high) or 1.0)
    if not math.isfinite(room) or room == 0:
        room = 1.0
    return Scale(low - room, high + room, start, end)


def condition(result: CheckResult) -> str:
    """A check in words.

    >>> from tercile.papers import Check
    >>> check = Check("top_error", at_most="0.9 * min(minmax_error, 2)")
    >>> condition(CheckResult(check, (1.0,), (1.0,), (True,)))
    'top error at most 0.9 × min(minmax error, 2)'
    """
    check = result.check
    sense = "at most" if check.at_most is not None else "at least"
    return f"{spoken(check.quantity)} {sense} {spoken(check.text).replace('*', '×').replace('-', '−')}"
