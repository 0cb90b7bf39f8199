"""What was measured, as a file: written in one step, read with suspicion."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tercile.files import write_atomically
from tercile.papers.declaration import Check
from tercile.papers.verdict import Judgement, judge

FORMAT = 1
VARIABLE = "TERCILE_EVIDENCE"
TEXTS = ("slug", "title", "room", "claim", "measured_on", "baseline", "size", "verdict", "reason", "date")


@dataclass(frozen=True)
class Quantity:
    """One measured quantity over all seeds, in the order of the seeds."""

    values: tuple[float, ...]
    unit: str = ""
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True)
class Evidence:
    """A finished run: the claim, what was measured against what, and the verdict that follows from it."""

    nr: int
    slug: str
    title: str
    room: str
    claim: str
    measured_on: str
    baseline: str
    size: str
    sizes: Mapping[str, int | float | str]
    seed: tuple[int, ...]
    measured: Mapping[str, Quantity]
    rule: tuple[Check, ...]
    verdict: str
    reason: str
    seconds: float
    date: str
    machine: Mapping[str, str | int | float | None] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    authors: str | None = None
    year: int | None = None
    source: str | None = None

    def judge(self) -> Judgement:
        """The verdict computed again from the numbers; raises ValueError where nothing was measured."""
        return judge(self.rule, self.runs())

    def runs(self) -> list[dict[str, float]]:
        """The measured quantities by name, one mapping a seed."""
        return [{name: q.values[i] for name, q in self.measured.items()} for i in range(len(self.seed))]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as in the file."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self), allow_nan=False))}


def evidence_folder(given: str | Path | None = None) -> Path:
    """Where evidence lies: as given, else $TERCILE_EVIDENCE, else the checkout, else in the package.

    >>> evidence_folder("somewhere").name
    'somewhere'
    """
    chosen = given or os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    root = checkout()
    return root / "evidence" if root else Path(__file__).with_name("measured")


def checkout() -> Path | None:
    """The repository that this code runs from, or None where it was installed from a wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "src" / "tercile").is_dir() else None


def write_evidence(evidence: Evidence, folder: Path, plot: str | None) -> Path:
    """Write `<slug>.json` and its plot beside it; the file appears whole or not at all.

    Parameters
    ----------
    evidence
        The finished run.
    folder
        Made if it is missing.
    plot
        SVG text; None removes an old plot, so that no picture of other numbers stays behind.

    Returns
    -------
    Path
        The JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(evidence.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    picture = folder / f"{evidence.slug}.svg"
    if plot is None:
        picture.unlink(missing_ok=True)
    else:
        write_atomically(picture, plot.encode())
    record = folder / f"{evidence.slug}.json"
    write_atomically(record, text.encode())
    return record


def read_evidence(slug: str, folder: Path) -> Evidence | None:
    """Read `<slug>.json`, or None where there is none.

    Raises
    ------
    ValueError
        The file is damaged, incomplete, or its verdict does not follow from its numbers; it is named.
    """
    path = folder / f"{slug}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"evidence file {path} cannot be read: {error}") from None
    try:
        evidence = _parse(json.loads(text))
        if evidence.slug != slug:
            raise ValueError(f"it is about {evidence.slug!r}")
        if evidence.measured and evidence.judge().verdict != evidence.verdict:
            raise ValueError(
                f"its verdict is {evidence.verdict!r} but its numbers say {evidence.judge().verdict!r}"
            )
        return evidence
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(
            f"evidence file {path} is not valid: {what}; run `tercile papers run {slug}` again"
        ) from None


def _parse(data: dict[str, Any]) -> Evidence:
    if not isinstance(data, dict):
        raise ValueError("it does not hold an object")
    if data["format"] != FORMAT:
        raise ValueError(f"its format is {data['format']!r}, this version reads {FORMAT}")
    for name in TEXTS:
        if not isinstance(data[name], str):
            raise ValueError(f"{name} must be text, got {data[name]!r}")
    seeds = tuple(_whole(seed, "seed") for seed in data["seed"])
    measured = {name: _quantity(name, entry, len(seeds)) for name, entry in data["measured"].items()}
    if not measured and data["verdict"] != "not here":
        raise ValueError(f"its verdict is {data['verdict']!r} but nothing was measured")
    known = {name: data[name] for name in Evidence.__dataclass_fields__}
    special = {
        "nr": _whole(data["nr"], "nr"),
        "seed": seeds,
        "measured": measured,
        "rule": tuple(Check(**entry) for entry in data["rule"]),
        "seconds": _number(data["seconds"], "seconds"),
    }
    return Evidence(**{**known, **special})


def _quantity(name: str, entry: dict[str, Any], seeds: int) -> Quantity:
    lists: dict[str, tuple[float, ...] | None] = {}
    for part in ("values", "lower", "upper"):
        if entry[part] is None and part != "values":
            lists[part] = None
            continue
        lists[part] = tuple(_number(value, f"{name} {part}") for value in entry[part])
        if len(entry[part]) != seeds:
            raise ValueError(f"{name} has {len(entry[part])} {part} for {seeds} seeds")
    return Quantity(lists["values"] or (), str(entry["unit"]), lists["lower"], lists["upper"])


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return value
