"""The page's own pictures: each check's numbers against its limit, and the state of the whole; coloured by the style
sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from tercile.drawing import Scale, chart, element, line
from tercile.page.naming import formula, spoken
from tercile.page.rendering import number
from tercile.papers.evidence import Evidence
from tercile.papers.expression import Expression
from tercile.papers.verdict import CheckResult

#: Of a check's picture: its width, the height of a seed's lane, and what is free above and below.
WIDTH, LANE, MARGIN = 250.0, 15.0, 4.0
#: Numbers that differ by more than this factor are drawn by powers of ten.
FAR = 30.0
#: How tall a method's bar is in the skyline, by its verdict: shape tells what colour does.
TALL = {"holds": 1.0, "partly": 0.6, "not here": 0.34, "not yet": 0.1}


def check_strip(result: CheckResult, evidence: Evidence) -> Markup:
    """One check, a lane a seed: a dot for what was measured, rings for what it is compared with, the limit as a stroke,
    and the side that passes shaded.

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
    check, at_most = result.check, result.check.at_most is not None
    names = sorted(name for name in Expression(check.text).names if name != check.quantity)
    values = [*result.values, *result.limits]
    # What the limit is made of may lie far off, such as a count that is divided; it is left out then.
    low, high = min(values), max(values)
    reach = 2 * ((high - low) or abs(high) or 1.0)
    compared = {name: evidence.measured[name].values for name in names}
    others = [
        [(name, row[seed]) for name, row in compared.items() if low - reach <= row[seed] <= high + reach]
        for seed in range(len(result.values))
    ]
    values += [other for seed in others for _, other in seed]
    x = _scale(min(values), max(values))
    parts = []
    for seed, (value, limit, passed) in enumerate(zip(result.values, result.limits, result.passed)):
        top = MARGIN + seed * LANE
        middle, at = top + LANE / 2, x(limit)
        start, end = (x.start, at) if at_most else (at, x.end)
        parts.append(element("rect", x=start, y=top, width=max(end - start, 0.0), height=LANE, css="allowed"))
        parts.append(line(x.start, middle, x.end, middle, "hair"))
        for name, other in others[seed]:
            tip = element("title", f"{spoken(name)}: {number(other)}")
            parts.append(element("circle", tip, cx=x(other), cy=middle, r=4.0, css="other"))
        parts.append(line(at, top, at, top + LANE, "limit"))
        tip = element("title", f"{number(value)}, {'passes' if passed else 'fails'}")
        if passed:
            parts.append(element("circle", tip, cx=x(value), cy=middle, r=4.6, css="dot passes"))
        else:
            cross = f"M{x(value) - 4:.1f} {middle - 4:.1f}l8 8m0 -8l-8 8"
            parts.append(element("path", tip, d=cross, css="cross"))
    limits = ", ".join(dict.fromkeys(map(number, result.limits)))
    said = (
        f"{spoken(check.quantity)} by seed: {', '.join(map(number, result.values))}; "
        f"limit {'at most' if at_most else 'at least'} {limits}"
    )
    return chart(WIDTH, 2 * MARGIN + len(result.values) * LANE, said, parts)


def _scale(low: float, high: float) -> Scale:
    start, end = 8.0, WIDTH - 8
    if low > 0 and high / low > FAR:
        factor = (high / low) ** 0.08
        return Scale(low / factor, high * factor, start, end, log=True)
    room = 0.1 * ((high - low) or abs(high) or 1.0)
    if not math.isfinite(room) or room == 0:
        room = 1.0
    return Scale(low - room, high + room, start, end)


def condition(result: CheckResult) -> tuple[str, str]:
    """A check in words: what is measured, and what it has to be.

    >>> from tercile.papers import Check
    >>> check = Check("top_error", at_most="0.9 * min(minmax_error, 2)")
    >>> condition(CheckResult(check, (1.0,), (1.0,), (True,)))
    ('top error', 'at most 0.9 × the least of (min-max error, 2)')
    """
    check = result.check
    return spoken(check.quantity), f"{'at most' if check.at_most is not None else 'at least'} {formula(check.text)}"


def skyline(rooms: Sequence[Sequence[str]]) -> Markup:
    """Every method as a bar, the taller the better it held; rooms stand apart.

    Parameters
    ----------
    rooms
        Verdicts of the methods of each room.

    Returns
    -------
    Markup
        One ``<svg>`` that is stretched to its place; decoration, so nothing in it is said.

    >>> print(skyline([["holds"], ["not yet"]]))
    <svg viewBox="0 0 3 10" preserveAspectRatio="none" aria-hidden="true" class="skyline"><path d="M0 10v-10h.8v10z" \
class="holds"/><path d="M2 10v-1h.8v1z" class="not-yet"/></svg>
    """
    bars: dict[str, list[str]] = {verdict: [] for verdict in TALL}
    at = 0
    for verdicts in rooms:
        for verdict in verdicts:
            tall = f"{10 * TALL[verdict]:g}"
            bars[verdict].append(f"M{at} 10v-{tall}h.8v{tall}z")
            at += 1
        at += 1
    drawn = [element("path", d="".join(d), css=verdict.replace(" ", "-")) for verdict, d in bars.items() if d]
    return element(
        "svg", Markup("").join(drawn),
        viewBox=f"0 0 {max(at - 1, 1)} 10", preserveAspectRatio="none", aria_hidden="true", css="skyline",
    )  # fmt: skip
