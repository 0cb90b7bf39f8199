"""`tercile papers list | show | run`: thin, and light enough that a listing needs neither numpy nor torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tercile.papers.evidence import VARIABLE, Evidence, checkout, evidence_folder, read_evidence
from tercile.papers.listing import Entry, list_papers

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="166 published methods: what each claims, beside what was measured here.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

STYLE = {"holds": "green", "partly": "yellow", "not here": "red", "not yet": "dim"}
Slug = Annotated[str, typer.Argument(help="A method's short name, as in `tercile papers list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Folder = Annotated[Path | None, typer.Option("--evidence", help=f"Evidence folder; also ${VARIABLE}.")]


@app.command("list", epilog='Example: tercile papers list --room quantization --search "few bits"')
def list_(
    room: Annotated[
        str | None, typer.Option(help="A room, such as quantization or quantiles.conformal.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="holds, partly, 'not here' or 'not yet'.")] = None,
    search: Annotated[str | None, typer.Option(help="Words that must all occur.")] = None,
    as_json: AsJson = False,
    evidence: Folder = None,
) -> None:
    """List the methods, claimed beside measured."""
    try:
        entries = list_papers(evidence_folder(evidence), room, verdict, search)
    except ValueError as error:
        _stop(str(error), 2)
    if as_json:
        print(json.dumps([entry.as_dict() for entry in entries], indent=2, ensure_ascii=False))
        return
    console = _console()
    if not entries:
        console.print("No method matches.")
        return
    from rich.table import Table

    wide = console.width >= 110
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("nr", justify="right", style="dim")
    table.add_column("slug", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what it does" if wide else "title")
    if wide:
        table.add_column("measured", max_width=34)
    # One line a paper on a narrow screen, the whole summary on a wide one.
    left = max(console.width - 18 - max(len(entry.paper.slug) for entry in entries), 20)
    for entry in entries:
        paper = entry.paper
        title = paper.title if len(paper.title) <= left else paper.title[: left - 1].rstrip() + "…"
        row = [str(paper.nr), paper.slug, _coloured(entry.verdict), _plain(paper.summary if wide else title)]
        table.add_row(*row, *([entry.measured] if wide else []))
    console.print(table)
    console.print(_counts(entries), style="dim")


@app.command(epilog="Example: tercile papers show range_estimation")
def show(slug: Slug, as_json: AsJson = False, evidence: Folder = None) -> None:
    """Show one method: its claim beside what was measured."""
    from tercile.papers.catalogue import paper

    try:
        known, found = paper(slug), read_evidence(slug, evidence_folder(evidence))
    except ValueError as error:
        _stop(str(error), 2)
    if as_json:
        print(json.dumps(Entry(known, found).as_dict(), indent=2, ensure_ascii=False))
        return
    console = _console()
    console.print(f"[bold]{known.nr}. {_plain(known.title)}[/bold]")
    if found and (found.source or found.year or found.authors):
        console.print(
            _plain(", ".join(str(x) for x in (found.authors, found.year, found.source) if x)), style="dim"
        )
    console.print(f"[dim]{known.room}[/dim]\n\n{_plain(known.summary)}\n")
    _print_claim(console, known.claim, found)


@app.command(epilog="Example: tercile papers run range_estimation --quick")
def run(
    slug: Slug,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; compares, writes nothing.")
    ] = False,
    seed: Annotated[list[int] | None, typer.Option(help="Use these seeds; compares, writes nothing.")] = None,
    as_json: AsJson = False,
    evidence: Folder = None,
) -> None:
    """Measure one method and write its evidence.

    Exit status: 0 done, 1 the experiment failed or contradicts its evidence, 2 bad input, 130 stopped.
    """
    from tercile.papers.continuous import contradictions
    from tercile.papers.method import Method, load_method
    from tercile.papers.run import not_here, record, run_method

    folder = evidence_folder(evidence)
    try:
        method = load_method(slug)
        if not (quick or seed or evidence or os.environ.get(VARIABLE) or checkout()):
            _stop(f"say where the evidence goes: --evidence DIR, or set {VARIABLE}", 2)
        committed = read_evidence(slug, folder) if quick or seed else None
    except ValueError as error:
        _stop(str(error), 2)
    except ImportError as error:
        _stop(f'{slug} needs a package that is not here ({error}); pip install "tercile[torch]"', 2)
    try:
        if isinstance(method, Method):
            with _console(stderr=True).status(f"{slug}: starting") as status:
                measured = run_method(
                    method,
                    "quick" if quick else "full",
                    seed,
                    lambda done, total, what: status.update(f"{slug}: {what} ({done} of {total} done)"),
                )
        else:
            measured = not_here(method)
    except KeyboardInterrupt:
        _stop("stopped; nothing was written", 130)
    except Exception as error:  # an experiment may raise anything; the old evidence stays as it is
        _stop(f"{slug}: the experiment failed, nothing was written: {type(error).__name__}: {error}", 1)

    found = []
    note = "nothing written"
    if quick or seed:
        if committed and committed.measured and isinstance(method, Method):
            found = contradictions(measured, committed, method.rule)
            note = (
                "agrees with the evidence" if not found else "contradicts the evidence: " + "; ".join(found)
            )
        elif committed is None:
            note = "nothing to compare with, nothing written"
    else:
        try:
            path, plotted = record(measured, folder)
        except OSError as error:
            _stop(f"evidence could not be written to {folder}: {error}", 1)
        note = f"written: {path}" + (
            "" if plotted or not measured.measured else " (no plot: matplotlib is missing)"
        )
    if as_json:
        print(json.dumps({**measured.as_dict(), "note": note}, indent=2, ensure_ascii=False))
    else:
        console = _console()
        _print_claim(console, measured.claim, measured)
        console.print(_plain(note), style="red" if found else "dim")
    if found:
        raise typer.Exit(1)


def _print_claim(console: Console, claim: str, evidence: Evidence | None) -> None:
    """The claim beside what was measured, and below them the numbers."""
    from rich.table import Table

    pair = Table.grid(padding=(0, 2))
    pair.add_column(style="bold", no_wrap=True)
    pair.add_column()
    pair.add_row("Claimed", _plain(claim))
    if evidence is None:
        pair.add_row("Measured", _coloured("not yet"))
    else:
        pair.add_row("Measured", f"{_coloured(evidence.verdict)}: {_plain(evidence.reason)}")
        if evidence.measured:
            pair.add_row("On", _plain(evidence.measured_on))
            pair.add_row("Against", _plain(evidence.baseline))
    console.print(pair)
    if evidence and evidence.measured:
        console.print()
        _print_numbers(console, evidence)


def _print_numbers(console: Console, evidence: Evidence) -> None:
    from rich.table import Table

    checks = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("check", "measured", "limit", "seeds that pass"):
        checks.add_column(title, justify="left" if title == "check" else "right")
    for result in evidence.judge().checks:
        passed = f"{sum(result.passed)} of {len(result.passed)}"
        colour = "green" if result.holds else "red"
        row = (_spread(result.values), _spread(result.limits), f"[{colour}]{passed}[/{colour}]")
        checks.add_row(_plain(str(result.check)), *row)
    console.print(checks)
    numbers = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("quantity", "mean", "over seeds", "unit"):
        numbers.add_column(title, justify="left" if title in {"quantity", "unit"} else "right")
    for name, quantity in evidence.measured.items():
        numbers.add_row(name, f"{quantity.mean:.4g}", _spread(quantity.values), _plain(quantity.unit))
    console.print()
    console.print(numbers)
    code = (
        ""
        if evidence.commit is None
        else f", code {evidence.commit[:10]}{' with changes' if evidence.dirty else ''}"
    )
    machine = ", ".join(
        str(evidence.machine[part]) for part in ("cpu", "cores") if evidence.machine.get(part)
    )
    seeds = " ".join(map(str, evidence.seed))
    took = f"{evidence.seconds:.0f} s on {machine} cores, {evidence.date}{code}"
    console.print(_plain(f"\n{evidence.size} size, seeds {seeds}, {took}"), style="dim")


def _spread(values: tuple[float, ...]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _counts(entries: list[Entry]) -> str:
    counts = {state: sum(entry.verdict == state for entry in entries) for state in STYLE}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"\n{len(entries)} method{'' if len(entries) == 1 else 's'}: {told}"


def _coloured(verdict: str) -> str:
    return f"[{STYLE[verdict]}]{verdict}[/{STYLE[verdict]}]"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
