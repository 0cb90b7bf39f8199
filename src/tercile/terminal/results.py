"""The outcome of the main job, of its verification and of an export, for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tercile import wording

Row = Mapping[str, Any]
PURPOSES = {"calibration": "calibrate", "selection": "select", "certification": "certify"}


def print_compressed(console: Console, certificate: Row, details: Row, folder: Path, report: Path | None) -> None:
    """What was filtered out, the ladder, the certificate, the sizes, and what to do next.

    Parameters
    ----------
    console
        Where to print.
    certificate, details
        Contents of the two files.
    folder, report
        Where the small model is, and the page about it.
    """
    _print_selection(console, details["selection"], details["used"])
    if details["ladder"]:
        _print_ladder(console, certificate, details["ladder"])
    before, after = certificate["original"]["nbytes"], certificate["small"]["nbytes"]
    sizes = Text.assemble(
        f"{wording.size(before)} before, ",
        (f"{wording.size(after)} after", "bold"),
        f": {wording.times(before, after)} times smaller",
    )
    inside = Group(Text(certificate["statement"]), Text(), sizes)
    console.print(Panel(inside, title="certificate", title_align="left", border_style="green", padding=(1, 2)))
    next_steps = Table.grid(padding=(0, 2))
    next_steps.add_column(style="dim", no_wrap=True)
    next_steps.add_column(overflow="fold")
    next_steps.add_row("model", Text(str(folder)))
    if report is not None:
        next_steps.add_row("report", Text(str(report)))
    next_steps.add_row("check it", Text(f"tercile verify {shlex.quote(str(folder))}"))
    console.print(next_steps)


def print_verification(console: Console, ok: bool, checks: Sequence[Any], certificate: Row) -> None:
    """Every check with its outcome, then the verdict."""
    for check in checks:
        mark = ("✓ ", "green") if check.ok else ("✗ ", "bold red")
        console.print(Text.assemble(mark, (check.name, "" if check.ok else "bold"), (f"  {check.detail}", "dim")))
    console.print()
    if ok:
        console.print(Text.assemble(("Verified. ", "bold green"), str(certificate["statement"])))
    else:
        failed = sum(not check.ok for check in checks)
        verb = "check fails" if failed == 1 else "checks fail"
        console.print(
            Text.assemble(("Not verified. ", "bold red"), f"{failed} {verb}: do not rely on the certificate.")
        )


def print_export(console: Console, form: str, place: Path, certified: bool = True) -> None:
    """Where the exported model is, and what to do if it is not the one that was certified."""
    console.print(Text.assemble(f"{form} model  ", (str(place), "bold")), overflow="fold")
    if not certified:
        console.print(
            "Its activations are rounded, and the certificate does not cover that. On fresh examples: "
            f"tercile certify ORIGINAL {place} --data FILE",
            markup=False,
            soft_wrap=True,
        )


def _print_selection(console: Console, selection: Row, used: Row) -> None:
    """How many units were kept for what; and for each reason how many were not, with one of them."""
    rejected = selection["rejected"]
    console.print(
        Text.assemble(
            ("Data  ", "bold"),
            f"{selection['kept']:,} of {selection['read']:,} units kept; used: "
            + ", ".join(f"{used[side]:,} to {purpose}" for side, purpose in PURPOSES.items() if used[side]),
        )
    )
    if not rejected:
        console.print("Nothing had to be turned away.\n", style="dim")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("turned away", no_wrap=True)
    table.add_column("", justify="right")
    table.add_column("why")
    table.add_column("for example", ratio=1, overflow="ellipsis")
    for reason, count in rejected.items():
        samples = selection["samples"].get(reason, [])
        table.add_row(
            Text(reason),
            f"{count:,}",
            Text(wording.REASONS.get(reason, "")),
            _sample(samples[0]) if samples else "",
        )
    console.print(table)
    console.print()


def _sample(sample: Row) -> Text:
    told = Text(f"{wording.place(sample['origin'])}: {wording.place(sample['detail'])}", style="dim")
    return told if not sample["excerpt"] else Text.assemble(f"“{sample['excerpt']}”\n", told)


def _print_ladder(console: Console, certificate: Row, ladder: Sequence[Row]) -> None:
    """The rungs that were looked at, from the safest down."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("rung", "size", "predicted", "selection", "test", "at most"):
        table.add_column(title, justify="right")
    table.add_column("")
    last = len(ladder) - 1
    shown = [
        rung
        for number, rung in enumerate(ladder)
        if number in {0, last} or rung["selection_loss"] is not None or rung["risk"] is not None
    ]
    for rung in shown:
        table.add_row(
            str(rung["rung"]) if "repaired_from" not in rung else f"{rung['repaired_from']}, repaired",
            wording.size(rung["nbytes"]),
            *(_loss(rung[key]) for key in ("predicted_loss", "selection_loss", "risk")),
            "" if rung["bound"] is None else wording.bound(rung["bound"]),
            _result(rung, certificate["rung"]),
            style="bold" if rung["rung"] == certificate["rung"] else None,
        )
    console.print(
        Text.assemble(("Ladder  ", "bold"), f"{len(ladder)} candidates, the safest first; {_skipped(ladder, shown)}")
    )
    console.print(table)
    console.print(Text(" ".join(wording.walk_sentences(certificate)), style="dim"))
    console.print()


def _loss(value: float | None) -> str:
    return "" if value is None else wording.loss(value)


def _result(rung: Row, chosen: int) -> Text:
    if rung["certified"] is None:
        return Text("")
    if not rung["certified"]:
        return Text("failed", style="red")
    return Text("passed, yours" if rung["rung"] == chosen else "passed", style="green")


def _skipped(ladder: Sequence[Row], shown: Sequence[Row]) -> str:
    left = len(ladder) - len(shown)
    return f"{left} that nobody had to look at are not shown" if left else "all are shown"
