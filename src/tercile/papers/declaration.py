"""What a method declares before it is measured: the paper, its numbers, the checks they must pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tercile.papers.expression import FUNCTIONS, Expression

Size = Literal["quick", "full"]


@dataclass(frozen=True)
class Paper:
    """A published method and what it claims, in our words.

    `authors`, `year` and `source` stay None until somebody has looked them up. `not_here` is the reason why
    the claim cannot be measured on machines like ours, if that is so.
    """

    nr: int
    slug: str
    title: str
    room: str
    summary: str
    claim: str
    authors: str | None = None
    year: int | None = None
    source: str | None = None
    not_here: str | None = None


@dataclass(frozen=True)
class Measured:
    """One number of one run, with its unit and, where the experiment knows one, an interval around it.

    >>> Measured(0.931, "accuracy", lower=0.92, upper=0.94)
    Measured(value=0.931, unit='accuracy', lower=0.92, upper=0.94)
    """

    value: float
    unit: str = ""
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "lower", "upper"):
            given = getattr(self, name)
            if given is None and name != "value":
                continue
            try:
                number = float(given)
            except (TypeError, ValueError):
                raise TypeError(f"{name} must be a number, got {given!r}") from None
            if not math.isfinite(number):
                raise ValueError(
                    f"{name} must be finite, got {number}; an experiment that diverged should raise"
                )
            object.__setattr__(self, name, number)
        low = self.value if self.lower is None else self.lower
        high = self.value if self.upper is None else self.upper
        if not low <= self.value <= high:
            raise ValueError(f"value must lie between lower and upper, got {low} <= {self.value} <= {high}")


@dataclass(frozen=True)
class Check:
    """One condition on the measured numbers, fixed before they are known.

    Parameters
    ----------
    quantity
        Name of the measured quantity that is judged.
    at_most, at_least
        Exactly one of them: the limit, as arithmetic over measured quantities (see `Expression`).
    quick
        Whether a quick run has to agree with the committed evidence on this check.
    quick_slack
        How far past its limit a quick run may be before it contradicts, as a fraction of the limit.

    >>> check = Check("error", at_most="0.9 * baseline_error")
    >>> str(check), check.passes({"error": 0.8, "baseline_error": 1.0})
    ('error <= 0.9 * baseline_error', True)
    """

    quantity: str
    at_most: str | None = None
    at_least: str | None = None
    quick: bool = True
    quick_slack: float = 0.0

    def __post_init__(self) -> None:
        if not is_quantity_name(self.quantity):
            raise ValueError(f"quantity must be a name such as 'error', got {self.quantity!r}")
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"check of {self.quantity!r} needs exactly one of at_most and at_least")
        if not 0.0 <= self.quick_slack < 1.0:
            raise ValueError(f"quick_slack must be at least 0 and below 1, got {self.quick_slack}")
        Expression(self.text)

    @property
    def text(self) -> str:
        """The limit as it was written."""
        return self.at_most if self.at_most is not None else str(self.at_least)

    def __str__(self) -> str:
        return f"{self.quantity} {'<=' if self.at_most is not None else '>='} {self.text}"

    def limit(self, quantities: dict[str, float]) -> float:
        """The limit for the quantities of one run."""
        return Expression(self.text).value(quantities)

    def passes(self, quantities: dict[str, float], slack: float = 0.0) -> bool:
        """Whether one run passes, its limit loosened by `slack` of its size (tightened if negative)."""
        if self.quantity not in quantities:
            raise ValueError(f"check {str(self)!r} judges {self.quantity}, which was not measured")
        limit, value = self.limit(quantities), quantities[self.quantity]
        room = slack * abs(limit)
        return value <= limit + room if self.at_most is not None else value >= limit - room


def is_quantity_name(name: object) -> bool:
    """Whether a limit can refer to a quantity of this name.

    >>> is_quantity_name("error"), is_quantity_name("max"), is_quantity_name("4-bit error")
    (True, False, False)
    """
    return isinstance(name, str) and name.isidentifier() and name not in FUNCTIONS
