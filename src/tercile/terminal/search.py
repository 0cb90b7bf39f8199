"""The same search by two models, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercile.demo import Found


def print_search(console: Console, found: Sequence[Found]) -> None:
    """A table a query: what the original finds beside what the small model finds; what both find is plain.

    Parameters
    ----------
    console
        Where to print.
    found
        Of `tercile.demo.search_both`.
    """
    for result in found:
        table = Table(
            title=Text.assemble("“", (result.query, "bold"), "”"),
            title_justify="left",
            title_style="",
            caption=f"{result.overlap} of {len(result.original)} found by both",
            caption_justify="left",
            header_style="bold",
            expand=True,
            show_lines=False,
        )
        table.add_column("", justify="right", style="dim")
        table.add_column("original", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("small", ratio=1, no_wrap=True, overflow="ellipsis")
        for place, (theirs, ours) in enumerate(zip(result.original, result.small), 1):
            table.add_row(
                str(place),
                Text(theirs, style="" if theirs in result.small else "yellow"),
                Text(ours, style="" if ours in result.original else "yellow"),
            )
        console.print(table)
        console.print()
    shared, all_of_them = sum(r.overlap for r in found), sum(len(r.original) for r in found)
    console.print(Text.assemble(("Overlap@5  ", "bold"), f"{shared} of {all_of_them} titles are found by both models"))
