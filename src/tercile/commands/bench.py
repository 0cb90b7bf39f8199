"""`tercile bench`: the original and the small model side by side on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

EPILOG = "Example: tercile bench small ./original --threads 2. Exit codes: 0 done, 2 bad input, 130 stopped by Ctrl-C."


def bench(
    folder: Annotated[Path, typer.Argument(help="A folder that `tercile compress --out` made.")],
    original: Annotated[
        str | None,
        typer.Argument(help="The original. Default: the one that the certificate names, if it is still there."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Examples to run on, as for `tercile compress`. Default: those certified on.")
    ] = None,
    activations: Annotated[
        Literal["float", "int8"] | None,
        typer.Option(help="How the small model treats what its layers read. Default: both ways."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Turns; the best one counts.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of every side.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Time the small model beside its original: batches of 1 and 32, or tokens read and written, and peak memory."""
    from tercile import terminal

    with terminal.stopping():
        import os

        os.environ["TERCILE_THREADS"] = str(threads)  # read when the kernels are first used
        from tercile import api

        with terminal.stages() as tell:
            found = api.bench(
                folder, original, None if data is None else data, activations=activations, repeats=repeats,
                threads=threads, progress=tell,
            )  # fmt: skip
        if as_json:
            terminal.print_json(found)
        else:
            _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("work", "model"):
        table.add_column(name)
    for name in ("a second", "milliseconds", "against the original"):
        table.add_column(name, justify="right")
    for row in found["timings"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        rate = f"{row['rate']:,.0f} {row['unit']}"
        table.add_row(row["work"], row["model"], rate, f"{1000 * row['seconds']:.2f}", ratio)
    console = Console(highlight=False)
    console.print(table)
    sizes = Table(box=None, pad_edge=False, header_style="bold")
    sizes.add_column("model")
    for name in ("stored", "opened in", "peak memory"):
        sizes.add_column(name, justify="right")
    for name, row in found["models"].items():
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f} MB"
        sizes.add_row(name, f"{row['nbytes'] / 1e6:.1f} MB", f"{1000 * row['open_seconds']:.0f} ms", peak)
    console.print()
    console.print(sizes)
    console.print(f"[dim]{found['threads']} thread(s), {found['machine']}; the best of {found['repeats']} turns[/dim]")
