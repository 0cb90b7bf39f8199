"""What a user asks for, checked before anything is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tercile.quantization import Scheme
from tercile.quantization.export import find_format
from tercile.quantization.families import Layer

#: Schemes on offer, from safest to smallest. Below four bits rotated trellis codes lose as little as integers that take
#: three quarters of a bit more; above, integers do as well and are made at once. Tables store their rows mixed, so that
#: words which are read often share their bits with words that are not.
SCHEMES = (
    "int8-channel",
    "int6-g128",
    "int5-g64-asym-k6",
    "trellis3.5-channel-rot",
    "trellis3-channel-rot",
    "trellis2.5-channel-rot",
    "trellis2-channel-rot",
)
TABLE_SCHEMES = (
    "int8-channel",
    "normal32-channel",
    "normal16-channel",
    "trellis3-channel-rot-mix",
    "trellis2.5-channel-rot-mix",
    "trellis2-channel-rot-mix",
    "trellis1.5-channel-rot-mix",
    "trellis1.25-channel-rot-mix",
)


@dataclass(frozen=True)
class Settings:
    """The promise, and what may be spent on it.

    Parameters
    ----------
    max_loss
        Highest mean loss (or quantile of it) that the user can bear, in (0, 1).
    confidence
        How sure the certificate has to be, in (0, 1).
    quantile
        Certify this quantile of the loss instead of its mean; None for the mean.
    seed
        Of the split of the data.
    schemes
        Spellings on offer for every layer; None offers `SCHEMES`, and `TABLE_SCHEMES` to embedding tables.
    units
        Most examples that the certificate is measured on.
    calibration, selection
        Most examples that statistics are taken from, and that the rungs are compared on.
    to_format
        Offer only what this format of another program can hold: a key of `quantization.export.FORMATS`.
    repair
        Whether a few rungs below those that pass are trained to give the original's answers.
    rungs
        Sizes on the ladder between the safest and the smallest model.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or a scheme is not known.

    Examples
    --------
    >>> Settings(max_loss=0.02, confidence=95)
    Traceback (most recent call last):
    ValueError: confidence must lie between 0 and 1, got 95; write 0.95
    """

    max_loss: float
    confidence: float = 0.95
    quantile: float | None = None
    seed: int = 0
    schemes: tuple[str, ...] | None = None
    units: int = 1500
    calibration: int = 1024
    selection: int = 384
    rungs: int = 64
    to_format: str | None = None
    repair: bool = True

    def __post_init__(self) -> None:
        for name in ("max_loss", "confidence", "quantile"):
            value = getattr(self, name)
            if value is None and name == "quantile":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not 0 < value < 1:
                mend = f"; write {value / 100:g}" if 1 < value < 100 else ""
                raise ValueError(f"{name} must lie between 0 and 1, got {value:g}{mend}")
        for name in ("units", "calibration", "selection", "rungs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be a whole number, got {self.seed!r}")
        if self.to_format is not None:
            find_format(self.to_format)
        if self.schemes is None:
            return
        if not self.schemes:
            raise ValueError("schemes is empty; give at least one, such as int4-g64")
        for spelling in self.schemes:
            if Scheme.parse(spelling).spelling != spelling:
                raise ValueError(f"scheme {spelling!r} is spelled {Scheme.parse(spelling).spelling!r}")
        if len(set(self.schemes)) != len(self.schemes):
            raise ValueError(f"schemes names one twice: {', '.join(self.schemes)}")

    def offered(self, layer: Layer) -> tuple[str, ...]:
        """Schemes on offer for a layer; none where the format to write can't hold it, and it stays as it is."""
        if self.to_format is None:
            return self.schemes or (TABLE_SCHEMES if layer.kind == "embedding" else SCHEMES)
        form = find_format(self.to_format)
        if self.schemes is None:
            return form.offered(layer.kind, layer.shape)
        return tuple(s for s in self.schemes if form.holds(Scheme.parse(s), layer.shape))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; what is on offer is written out."""
        return asdict(self) | {"schemes": self.schemes or [SCHEMES, TABLE_SCHEMES]}
