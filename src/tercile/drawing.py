"""Scales, ticks and SVG elements: what the charts of the report and of the page are drawn with.

Drawn by hand rather than by a plotting library, so that the page's style sheet colours them for light and
dark, words stay words, and the same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from markupsafe import Markup


@dataclass(frozen=True)
class Scale:
    """From values in [low, high] to pixels in [start, end], evenly or by powers of ten; outside is clamped.

    >>> Scale(0, 10, 100, 200)(5), Scale(0.01, 1, 0, 100, log=True)(0.1)
    (150.0, 50.0)
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round values inside [low, high], at least one.

    >>> ticks(4.1, 23, 5), ticks(0, 0.05, 6)
    ([5.0, 10.0, 15.0, 20.0], [0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
    """
    power = math.floor(math.log10((high - low) / most)) if high > low else 0
    for exponent in (power, power + 1):
        for lead in (1, 2, 2.5, 5):
            step = lead * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if 0 <= last - first < most:
                return [round(number * step, 12) for number in range(first, last + 1)]
    return [low]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; with 2 and 5 between them where there are fewer than three.

    >>> log_ticks(0.001, 0.5), log_ticks(0.008, 0.06)
    ([0.001, 0.01, 0.1], [0.01, 0.02, 0.05])
    """
    for leads in ((1,), (1, 2, 5)):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [round(lead * 10.0**e, 12) for e in exponents for lead in leads]
        found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
        if len(found) >= 3:
            break
    return found


def element(name: str, *inside: Markup | str, **attributes: object) -> Markup:
    """One SVG element; text is escaped, numbers are rounded, `_` in a name is written `-`.

    >>> print(element("text", "a < b", x=1.25, css="label"))
    <text x="1.2" class="label">a &lt; b</text>
    """
    written = [
        f' {"class" if key == "css" else key.replace("_", "-")}="{_written(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    content = "".join(part if isinstance(part, Markup) else escape(part) for part in inside)
    return Markup(f"<{name}{''.join(written)}" + (f">{content}</{name}>" if content else "/>"))


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, css=css)


def path(points: Iterable[tuple[float, float]], css: str) -> Markup:
    drawn = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return element("path", d=drawn, css=css)


def chart(width: float, height: float, name: str, parts: Iterable[Markup]) -> Markup:
    """The whole picture; `name` is what a screen reader says."""
    return element(
        "svg",
        Markup("").join(parts),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=name,
        css="chart",
    )


def _written(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))
