"""`tercile quantiles`: parse, call, print. The doing is in `tercile.quantiles.tables`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tercile.quantiles.tables import Answer, GroupedQuantiles

EPILOG = (
    "Examples: tercile quantiles *.parquet --column latency --q 0.5,0.99 --by region. "
    "On each machine: tercile quantiles log.csv --column latency --save a.state; then, anywhere: "
    "tercile quantiles --merge a.state --merge b.state --q 0.999. "
    "Exit codes: 0 done, 2 bad input, 130 stopped by Ctrl-C."
)


def quantiles(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Parquet, Arrow or CSV files, plain or compressed; `-` for CSV or an Arrow stream on standard input; "
            "states that --save wrote."
        ),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="Column of numbers; give it again for more.")] = None,
    q: Annotated[str, typer.Option(help="Quantiles by commas, in [0, 1].")] = "0.5,0.9,0.99",
    by: Annotated[list[str] | None, typer.Option(help="Column to group by; give it again for more.")] = None,
    k: Annotated[
        int | None,
        typer.Option(help="Accuracy: ranks are off by about 1/k at most, in 24 k bytes a group. [default: 8000]"),
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(help="Instead of ranks, be right to this share of the value itself: 0.01 for 1%. For tails."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the bounds around each quantile.")] = 0.99,
    save: Annotated[Path | None, typer.Option(help="Write the state, to merge or to ask again later.")] = None,
    merge: Annotated[list[Path] | None, typer.Option(help="State to merge in; give it again for more.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the distributions with bounds: .svg, .png or .pdf.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads. Default: one for each processor.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the sketches. Default: a fresh one, as states that are merged need.")
    ] = None,
    max_groups: Annotated[int, typer.Option(help="Most groups to keep sketches for.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Quantiles of columns of tables of any size, with bounds, in one pass and constant memory."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.files import write_atomically
        from tercile.quantiles.tables import draw, quantiles_of_files

        levels = _levels(q)
        with terminal.stages() as tell:
            table = quantiles_of_files(
                [*(files or []), *map(str, merge or [])],
                column or [],
                by or [],
                k=k,
                accuracy=accuracy,
                threads=threads,
                random_state=seed,
                max_groups=max_groups,
                progress=tell,
            )
        answers = table.answers(levels, confidence)
        if plot is not None:
            draw(table, plot, levels, confidence=confidence)
        if save is not None:
            write_atomically(save, table.to_bytes())
        if as_json:
            terminal.print_json(_document(table, answers, confidence))
        else:
            _print(table, answers, confidence)


def _levels(text: str) -> list[float]:
    """Numbers by commas.

    >>> _levels("0.5, 0.99")
    [0.5, 0.99]
    """
    try:
        levels = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--q must be numbers by commas, such as 0.5,0.99, got {text!r}") from None
    for level in levels:
        if not 0.0 <= level <= 1.0:
            mend = f"; write {level / 100:g} for {level:g}%" if 1.0 < level <= 100.0 else ""
            raise ValueError(f"--q must lie in [0, 1], got {level:g}{mend}")
    if not levels:
        raise ValueError("--q must name one quantile or more, such as 0.5,0.99")
    return levels


def _document(table: GroupedQuantiles, answers: list[Answer], confidence: float) -> dict[str, Any]:
    """What --json prints: numbers as they are, nothing rounded; an infinite or missing one as text or null."""
    found: list[dict[str, Any]] = []
    for answer in answers:
        group = dict(zip(table.by, answer.group))
        if not found or (found[-1]["group"], found[-1]["column"]) != (group, answer.column):
            head = {"group": group, "column": answer.column, "count": answer.count, "missing": answer.missing}
            found.append({**head, "quantiles": []})
        numbers = {name: _number(getattr(answer, name)) for name in ("value", "low", "high")}
        found[-1]["quantiles"].append({"q": answer.q, **numbers})
    return {"rows": table.rows, "confidence": confidence, "answers": found}


def _number(value: float) -> float | str | None:
    if value != value:
        return None
    return value if abs(value) != float("inf") else ("inf" if value > 0 else "-inf")


def _print(table: GroupedQuantiles, answers: list[Answer], confidence: float) -> None:
    from rich.console import Console
    from rich.table import Table

    levels = list(dict.fromkeys(answer.q for answer in answers))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # a file or a pipe has no edge
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in [*table.by, *(["column"] if len(table.columns) > 1 else [])]:
        shown.add_column(name, overflow="fold")
    missing = any(answer.missing for answer in answers)
    for name in ["count", *(["missing"] if missing else []), *(f"q={level:g}" for level in levels)]:
        shown.add_column(name, justify="right", no_wrap=True)
    # Bounds go beside their quantile where there is room, else below it.
    beside = 26 * len(levels) + 12 * (len(table.by) + 2) <= console.width
    for at in range(0, len(answers), len(levels)):
        row = answers[at : at + len(levels)]
        first = row[0]
        cells = ["(none)" if part is None else str(part) for part in first.group]
        cells += [first.column] if len(table.columns) > 1 else []
        cells += [f"{first.count:,}"] + ([f"{first.missing:,}"] if missing else [])
        between = " " if beside else "\n"
        bounds = (f"{_short(a.value)}{between}[dim]{_short(a.low)}-{_short(a.high)}[/dim]" for a in row)
        shown.add_row(*cells, *bounds)
    console.print(shown)
    where = "beside" if beside else "below"
    console.print(f"[dim]{table.rows:,} rows; {where} each quantile its bounds at {confidence:.4g}[/dim]")


def _short(value: float) -> str:
    """Five digits.

    >>> _short(1234567.0), _short(0.0123456), _short(float("nan"))
    ('1.2346e+06', '0.012346', '-')
    """
    return "-" if value != value else f"{value:.5g}"
